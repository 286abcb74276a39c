"""The checks of backups: case tables for the rules, and the probe against real stores."""

from __future__ import annotations

import datetime as dt
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backups.catalog import Backup, Catalog, Damaged, Drill, read_catalog
from backups.crypto import new_identity
from backups.stores.folder import FolderStore
from healthchecks import backup_rules as rules
from healthchecks.checks import CHECKS
from healthchecks.model import Check, Finding, Need, State, Thresholds
from healthchecks.probes.backups import Room, Stored, longest_gap, look_into_store, within
from healthchecks.run import run
from infra.errors import LettaOpsError
from infra.stack.backup_settings import BackupSettings, Retention
from infra.stack.deployment import Deployment, Server
from infra.stack.keys import Reading, read
from infra.stack.locations import StackFolder
from tests.unit.backups import CONTENT, DEPLOYMENT, NOON, manifest, put

LIMITS = Thresholds(today=dt.date(2026, 11, 20))
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
DOWN = LettaOpsError("store-unreachable", "no answer", "look at the network")
SIZE = 2 * len(CONTENT)
OF_BACKUPS = [check for check in CHECKS if check.needs == (Need.STORE,)]


def backup(age: dt.timedelta, *drills: tuple[str, dt.timedelta]) -> Backup:
    """Made `age` before noon, with the verdicts of its drills and their ages."""
    found = [Drill(NOON - ago, verdict, 41.0, {}) for verdict, ago in drills]
    return Backup(manifest(created_at=NOON - age), None, tuple(found))


def sealed(age: dt.timedelta) -> Backup:
    made = manifest(created_at=NOON - age, encryption="age-recipients", recipients=("age1abc",))
    return Backup(made, None, ())


def stored(*backups: Backup, **changes: object) -> Stored:
    oldest_first = tuple(sorted(backups, key=lambda each: each.manifest.created_at))
    seen = Stored("file:///backups", NOON, Retention(last=3), Catalog(oldest_first, (), {}))
    return replace(seen, **changes)  # type: ignore[arg-type]


NOT_ASKED = stored(catalog=None, error=DOWN)


@pytest.mark.parametrize(
    ("age", "interval", "expected"),
    [
        (25 * HOUR, None, State.OK),
        (27 * HOUR, None, State.WARNING),
        (51 * HOUR, None, State.CRITICAL),
        (-HOUR, None, State.OK),
        (1.4 * HOUR, HOUR, State.OK),
        (1.6 * HOUR, HOUR, State.WARNING),
        (3.1 * HOUR, HOUR, State.CRITICAL),
        (10 * DAY, 7 * DAY, State.OK),
        (11 * DAY, 7 * DAY, State.WARNING),
        (22 * DAY, 7 * DAY, State.CRITICAL),
    ],
)
def test_the_newest_backup_is_as_young_as_the_schedule_makes_it(
    age: dt.timedelta, interval: dt.timedelta | None, expected: State
) -> None:
    seconds = None if interval is None else interval.total_seconds()
    seen = stored(backup(age), backup(age + DAY), interval=seconds)
    assert rules.backup_is_recent(seen, LIMITS).state is expected


def test_a_scheduler_that_does_not_run_is_told_before_the_backup_is_too_old() -> None:
    verdict = rules.backup_is_recent(stored(backup(HOUR), idle=True), LIMITS)
    assert verdict.state is State.WARNING
    assert "letta-ops up" in verdict.hint
    late = stored(backup(100 * DAY), interval=DAY.total_seconds(), idle=True)
    assert rules.backup_is_recent(late, LIMITS).state is State.CRITICAL


def test_where_no_backup_was_ever_made_it_says_how_to_make_one() -> None:
    verdict = rules.backup_is_recent(stored(), LIMITS)
    assert (verdict.state, verdict.summary) == (State.WARNING, "no backup has ever been made")
    assert "letta-ops backup create" in verdict.hint


def test_a_backup_that_failed_its_drill_is_not_the_newest_good_one() -> None:
    bad = backup(HOUR, ("failed", HOUR))
    assert rules.backup_is_recent(stored(bad, backup(27 * HOUR)), LIMITS).state is State.WARNING
    assert rules.backup_is_recent(stored(bad), LIMITS).state is State.CRITICAL


@pytest.mark.parametrize(
    ("backups", "expected"),
    [
        ([], State.OK),
        ([backup(HOUR)], State.WARNING),
        ([backup(DAY, ("unverified", HOUR))], State.WARNING),
        ([backup(DAY, ("passed", HOUR))], State.OK),
        ([backup(30 * DAY, ("passed", 7 * DAY)), backup(HOUR)], State.OK),
        ([backup(30 * DAY, ("passed", 9 * DAY)), backup(HOUR)], State.WARNING),
        ([backup(DAY, ("passed", 2 * HOUR), ("failed", HOUR))], State.CRITICAL),
        ([backup(DAY, ("failed", 2 * HOUR), ("passed", HOUR))], State.OK),
        ([backup(DAY, ("failed", 2 * HOUR)), backup(2 * DAY, ("passed", HOUR))], State.OK),
        ([backup(2 * DAY, ("failed", HOUR)), backup(DAY, ("passed", 2 * HOUR))], State.CRITICAL),
        ([backup(DAY, ("passed", 2 * HOUR), ("unverified", HOUR))], State.OK),
    ],
)
def test_the_last_drill_passed_and_is_not_long_ago(backups: list[Backup], expected: State) -> None:
    assert rules.drill_passed(stored(*backups), LIMITS).state is expected


def test_a_store_that_cannot_be_asked_is_critical_once_and_unknown_to_the_other_checks() -> None:
    verdict = rules.store_answers(NOT_ASKED, LIMITS)
    assert (verdict.state, verdict.detail, verdict.hint) == (
        State.CRITICAL,
        DOWN.message,
        DOWN.hint,
    )
    others = [check for check in OF_BACKUPS if check.name != "store"]
    assert len(others) == len(OF_BACKUPS) - 1
    for check in others:
        found = check.rule(NOT_ASKED, LIMITS)
        assert (found.state, found.hint) == (State.UNKNOWN, "see `store`"), check.name


def test_a_store_says_what_it_holds_and_that_it_shares_the_datas_disk() -> None:
    seen = stored(backup(HOUR), room=Room(10**9, beside_the_data=True))
    verdict = rules.store_answers(seen, LIMITS)
    assert verdict.state is State.OK
    assert "backups: 1, 36 bytes" in verdict.summary
    assert "same disk" in verdict.summary
    apart = rules.store_answers(replace(seen, room=Room(10**9, beside_the_data=False)), LIMITS)
    assert "same disk" not in apart.summary


def test_damaged_backups_are_a_warning_with_what_is_wrong_with_them() -> None:
    damaged = Damaged("a/b/", LettaOpsError("manifest-damaged", "a/b was altered", "look"))
    verdict = rules.store_answers(stored(catalog=Catalog((), (damaged,), {})), LIMITS)
    assert (verdict.state, verdict.detail) == (State.WARNING, "a/b was altered")


@pytest.mark.parametrize(
    ("backups", "free", "expected"),
    [
        ([], 0, State.OK),
        ([backup(HOUR)], SIZE, State.CRITICAL),
        ([backup(HOUR)], SIZE * 2, State.WARNING),
        ([backup(HOUR)], SIZE * 4, State.OK),
        ([backup(HOUR)], None, State.OK),
    ],
)
def test_the_next_backups_must_fit(
    backups: list[Backup], free: int | None, expected: State
) -> None:
    room = None if free is None else Room(free, beside_the_data=False)
    assert rules.store_has_room(stored(*backups, room=room), LIMITS).state is expected


@pytest.mark.parametrize(("days", "expected"), [(15, State.OK), (16, State.WARNING)])
def test_what_nobody_keeps_and_nobody_prunes_is_noticed(days: int, expected: State) -> None:
    """With last=3, of 15 daily backups 12 would go, 10 of them since more than two days."""
    seen = stored(*(backup(number * DAY) for number in range(days)))
    verdict = rules.retention_is_kept(seen, LIMITS)
    assert verdict.state is expected
    assert f"{days - 3} of {days}" in verdict.summary


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [
        ("* * * * *", 1 / 60),
        ("30 2 * * *", 24),
        ("0 8-18 * * *", 14),
        ("0 2 * * 1-5", 72),
        ("0 2 * * 0", 7 * 24),
        ("0 0 1 * *", 31 * 24),
    ],
)
def test_the_longest_gap_of_a_schedule_is_found(schedule: str, hours: float) -> None:
    assert longest_gap(schedule, NOON) == pytest.approx(hours * 3600)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    folder = StackFolder(tmp_path / "state", "prod")
    folder.data.mkdir(parents=True)
    return Deployment("prod", "local", Server("http://127.0.0.1:9"), id=DEPLOYMENT, folder=folder)


def with_store(deployment: Deployment, **settings: object) -> Deployment:
    values = {key.replace("_", ".", 1): value for key, value in settings.items()}
    return replace(deployment, backups=read(BackupSettings, values, Reading(is_profile=True)))


def findings(
    deployment: Deployment, checks: Sequence[Check[Any]] = OF_BACKUPS
) -> dict[str, Finding]:
    report = run(deployment, checks=checks, thresholds=LIMITS)
    return {finding.name: finding for finding in report.findings}


def test_a_fresh_stack_lacks_a_backup_and_nothing_else(deployment: Deployment) -> None:
    found = findings(deployment)
    assert {name for name, each in found.items() if each.state is not State.OK} == {"backup"}
    assert found["backup"].state is State.WARNING
    assert all(each.checked for each in found.values())


def test_the_probe_sees_what_the_store_holds(deployment: Deployment) -> None:
    assert deployment.folder is not None
    store = FolderStore(deployment.folder.backups)
    put(store, manifest(created_at=dt.datetime.now(dt.UTC) - HOUR))
    found = findings(deployment)
    assert found["backup"].state is State.OK
    assert found["drill"].summary == "no backup has ever been drilled"
    assert "on the same disk as the data" in found["store"].summary
    assert "free" in found["store-space"].summary
    assert found["backup-encryption"].state is State.OK


def test_the_probe_sees_that_the_backups_of_a_lost_machine_were_encrypted(
    deployment: Deployment,
) -> None:
    assert deployment.folder is not None
    made = manifest(deployment="a-lost-one", encryption="age-recipients", recipients=("age1abc",))
    put(FolderStore(deployment.folder.backups), made)
    assert findings(deployment)["backup-encryption"].state is State.WARNING
    encrypting = with_store(deployment, backup_recipients=new_identity()[1])
    assert findings(encrypting)["backup-encryption"].state is State.OK


def test_the_checks_read_the_store_once(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def counted(*arguments: object) -> Catalog:
        reads.append(arguments)
        return read_catalog(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("healthchecks.probes.backups.read_catalog", counted)
    assert len(findings(deployment)) == len(OF_BACKUPS)
    assert len(reads) == 1


def test_a_folder_that_is_not_mounted_is_critical(deployment: Deployment, tmp_path: Path) -> None:
    gone = with_store(deployment, store_url=(tmp_path / "not" / "mounted").as_uri())
    assert findings(gone)["store"].state is State.CRITICAL


def test_a_credential_that_leads_nowhere_is_told_with_its_key(deployment: Deployment) -> None:
    found = findings(
        with_store(
            deployment,
            store_url="s3://bucket",
            store_access_key_id="env:LETTA_TEST_NOT_THERE",
            store_secret_access_key="swordfish",
        )
    )
    assert found["store"].state is State.UNKNOWN
    assert "store.access_key_id" in found["store"].detail
    assert "swordfish" not in str(found)


@pytest.mark.parametrize(
    ("changes", "checked"),
    [
        ({}, True),
        ({"folder": None}, False),
        ({"target": "external", "folder": None}, False),
    ],
)
def test_a_store_is_not_asked_where_nobody_could_make_a_backup(
    changes: dict[str, object], checked: bool, deployment: Deployment
) -> None:
    changed = replace(deployment, **changes)  # type: ignore[arg-type]
    assert {each.checked for each in findings(changed).values()} == {checked}
    assert deployment.folder is not None
    named = with_store(changed, store_url=deployment.folder.backups.as_uri())
    assert {each.checked for each in findings(named).values()} == {True}


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A pipe without a writer: who opens it to read waits for ever, as on a dead mount."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield path
    with path.open("r+b", buffering=0) as both:  # lets the thread that waits go on and end
        both.write(b"x")


def test_a_store_that_hangs_is_unreachable_after_a_while(pipe: Path) -> None:
    started = time.monotonic()
    with pytest.raises(LettaOpsError, match="has not told its backups within") as caught:
        within(0.2, pipe.read_bytes, "file:///dead")
    assert caught.value.code == "store-unreachable"
    assert time.monotonic() - started < 60


def test_a_bucket_that_takes_connections_and_never_answers_keeps_nobody(
    deployment: Deployment,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = with_store(
            deployment,
            store_url="s3://bucket",
            store_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}",
            store_access_key_id="plain-id",
            store_secret_access_key="swordfish",
        )
        started = time.monotonic()
        seen = look_into_store(hanging, limit=1.0)
    assert time.monotonic() - started < 60
    assert seen.error is not None
    assert seen.error.code == "store-unreachable"
    assert "swordfish" not in str(seen.error)


def test_what_look_raises_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: 1 // 0, "file:///x")


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (stored(encrypts=False), State.OK),
        (stored(backup(HOUR), encrypts=False), State.OK),
        (stored(sealed(2 * HOUR), sealed(HOUR)), State.OK),
        (stored(backup(2 * HOUR), sealed(HOUR)), State.OK),
        (stored(sealed(2 * HOUR), backup(HOUR)), State.WARNING),
        (stored(sealed(HOUR), encrypts=False, newest=sealed(HOUR)), State.WARNING),
        (stored(encrypts=False, newest=sealed(HOUR)), State.WARNING),  # another machine's, now lost
        (stored(backup(HOUR), encrypts=False, newest=backup(HOUR)), State.OK),
    ],
)
def test_after_encrypted_backups_none_lies_in_the_clear(seen: Stored, expected: State) -> None:
    verdict = rules.backups_stay_encrypted(seen, LIMITS)
    assert verdict.state is expected
    assert expected is State.OK or verdict.hint
