"""What a restore refuses before it begins, and which key the server has after it: case tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from backups.catalog import Backup, Drill
from backups.restoring.databases import ensure_not_older
from backups.restoring.generations import Present
from backups.restoring.plan import (
    DatabaseContents,
    Options,
    Plan,
    _ensure_own,
    _key_after,
    _Obstacles,
)
from backups.restoring.releases import ensure_known
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.deployment import Deployment, Server
from infra.stack.fingerprint import key_fingerprint
from infra.stack.locations import StackFolder
from infra.stack.releases import RELEASES
from tests.unit.backups import NOON, manifest
from tests.unit.test_opening import BY_RECIPIENT, KEY, made

KEPT, OTHER = Sensitive("the server's key"), Sensitive("another key")
HEAD = RELEASES["0.16.8"].alembic_head


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without a release: what this machine has installed doesn't matter."""
    monkeypatch.setenv("LETTA_OPS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def deployment(key: Sensitive | None, *, ours: bool, tmp: Any = None) -> Deployment:
    folder = StackFolder(tmp, "prod") if ours else None
    return Deployment(
        "prod", "local", Server("http://x:1", None, key), "an-id", "0.16.8", folder=folder
    )


@pytest.mark.parametrize(
    ("own", "fingerprint_of", "ours", "accept", "expected"),
    [
        (KEPT, KEPT, True, False, (None, False)),
        (KEPT, KEPT, False, False, (None, False)),
        (OTHER, None, True, False, (None, False)),  # nothing was encrypted
        (None, None, False, False, (None, False)),
        (OTHER, KEPT, True, False, ("taken over", False)),
        (None, KEPT, True, False, ("taken over", False)),
        (OTHER, KEPT, True, True, ("taken over", False)),  # nothing has to be lost
        (OTHER, KEPT, False, False, "refused"),  # a server that isn't ours gets no key
        (OTHER, KEPT, False, True, (None, True)),
        (OTHER, Sensitive("a third"), True, False, "refused"),  # what is kept isn't the one
        (OTHER, Sensitive("a third"), True, True, (None, True)),
    ],
)
def test_the_key_after_a_restore_opens_what_is_restored_or_somebody_says_that_it_is_lost(
    own: Sensitive | None,
    fingerprint_of: Sensitive | None,
    ours: bool,
    accept: bool,
    expected: Any,
    tmp_path: Any,
) -> None:
    store, backup = made(BY_RECIPIENT)
    wanted = None if fingerprint_of is None else key_fingerprint(fingerprint_of)
    backup = replace(backup, manifest=replace(backup.manifest, key_fingerprint=wanted))
    here = deployment(own, ours=ours, tmp=tmp_path)
    options = Options(accept_lost_secrets=accept)
    if expected == "refused":
        with pytest.raises(LettaOpsError) as caught:
            _key_after(here, store, backup, KEY, options)
        assert caught.value.code == "wrong-encryption-key"
        assert "another key" not in str(caught.value)
        return
    key, lost = _key_after(here, store, backup, KEY, options)
    assert (key and "taken over", lost) == expected
    assert key is None or key.reveal() == KEPT.reveal()


@pytest.mark.parametrize(
    ("revision", "release", "known"),
    [
        (HEAD, "0.16.8", True),
        (HEAD, None, True),
        (None, None, True),  # it was never migrated
        ("f6cd5a1e519d", "0.13.0", True),  # an older release's head
        ("0000deadbeef", "0.17.0", False),
        ("0000deadbeef", None, False),
    ],
)
def test_a_schema_that_the_release_does_not_know_is_refused(
    revision: str | None, release: str | None, known: bool, no_cache: Path
) -> None:
    whole = manifest()
    changed = replace(whole, release=release, database=replace(whole.database, revision=revision))
    backup, here = Backup(changed, None, ()), deployment(None, ours=False)
    if known:
        ensure_known(here, backup)
        return
    with pytest.raises(LettaOpsError) as caught:
        ensure_known(here, backup)
    assert caught.value.code == "backup-newer-schema"
    assert "letta-ops --stack prod migrate apply" in caught.value.hint


@pytest.mark.parametrize(("revision", "known"), [("0123456789ab", True), ("ba9876543210", False)])
def test_the_migrations_of_a_release_that_is_installed_say_what_it_knows(
    revision: str, known: bool, no_cache: Path
) -> None:
    """Whatever the numbers of the releases are."""
    versions = no_cache / "releases" / "letta-0.16.8-363e2698-12345678" / "source/alembic/versions"
    versions.mkdir(parents=True)
    (versions / "one.py").write_text('revision: str = "aaaaaaaaaaaa"\n')
    (versions / "two.py").write_text('revision: str = "0123456789ab"\n')
    whole = manifest()
    made_with = "0.17.0" if known else "0.16.0"
    changed = replace(whole, release=made_with, database=replace(whole.database, revision=revision))
    backup, here = Backup(changed, None, ()), deployment(None, ours=False)
    if known:
        ensure_known(here, backup)
        return
    with pytest.raises(LettaOpsError) as caught:
        ensure_known(here, backup)
    assert caught.value.code == "backup-newer-schema"


def test_a_release_that_the_profile_does_not_name_knows_no_schema() -> None:
    here = replace(deployment(None, ours=False), release=None)
    with pytest.raises(LettaOpsError) as caught:
        ensure_known(here, Backup(manifest(), None, ()))
    assert caught.value.code == "release-unknown"
    assert 'release = "' in caught.value.hint


class Answering:
    """A way to a server of which only the version is asked."""

    def __init__(self, version: int) -> None:
        self.info = self
        self.server_version = version


@pytest.mark.parametrize(
    ("made_with", "here", "refused"),
    [("17.5", 180004, False), ("18.4", 180004, False), ("18.4", 170005, True), ("9.6.3", 150001, False)],
)  # fmt: skip
def test_a_dump_of_a_newer_postgres_is_refused(made_with: str, here: int, refused: bool) -> None:
    whole = manifest()
    changed = replace(whole, database=replace(whole.database, postgres=made_with))
    backup, link = Backup(changed, None, ()), cast(Any, Answering(here))
    if not refused:
        ensure_not_older(link, backup)
        return
    with pytest.raises(LettaOpsError) as caught:
        ensure_not_older(link, backup)
    assert caught.value.code == "backup-newer-postgres"


def test_a_backup_of_another_deployment_is_refused_and_of_this_one_not() -> None:
    here = deployment(KEPT, ours=False)
    _ensure_own(here, Backup(manifest(deployment=here.id), None, ()))
    with pytest.raises(LettaOpsError, match="of deployment another-id") as caught:
        _ensure_own(here, Backup(manifest(deployment="another-id"), None, ()))
    assert caught.value.code == "foreign-backup"
    assert "--into-other" in caught.value.hint


def test_every_reason_not_to_restore_is_told_at_once() -> None:
    def refuse(code: str) -> None:
        raise LettaOpsError(code, f"because of {code}", f"mend {code}")

    obstacles, backup = _Obstacles(), Backup(manifest(), None, ())
    assert obstacles.ask(lambda: 5) == 5
    obstacles.end(backup)
    assert obstacles.ask(lambda: refuse("the first")) is None
    with pytest.raises(LettaOpsError, match="because of the first"):
        obstacles.end(backup)
    obstacles.ask(lambda: refuse("the second"))
    with pytest.raises(LettaOpsError) as caught:
        obstacles.end(backup)
    assert caught.value.code == "the first"
    assert (
        "for 2 reasons:\n  - because of the first\n  - because of the second"
        in caught.value.message
    )
    assert caught.value.hint == "mend the first; mend the second"


def test_a_plan_says_what_would_be_lost_in_numbers_and_no_key() -> None:
    drill = Drill(NOON, "passed", 41.0, {})
    backup = Backup(manifest(), None, (drill,))
    present = Present("public", "public", HEAD, 5, 90, 49, 2)
    plan = Plan(
        backup,
        present,
        (DatabaseContents("letta_previous", "database", None),),
        True,
        Sensitive("the key"),
        False,
        True,
        Drill(NOON, "failed", 2.0, {}),
        signed=True,
        missing_roles=("dashboard",),
        slots=("of_the_app",),
    )
    told = plan.as_json()
    assert told["replaces"] == {"agents": 5, "messages": 90}
    assert told["newer_than_backup"] == {"agents": 2, "messages": 49}
    assert told["brings"]["messages"] == 41
    assert told["takes_over_key"] is told["of_other_deployment"] is True
    assert (told["last_drill"], told["last_drill_seconds"]) == ("failed", 2.0)
    assert "the key" not in str(told) + repr(plan)
    nothing = replace(plan, present=None).as_json()
    assert nothing["replaces"] is nothing["newer_than_backup"] is None
