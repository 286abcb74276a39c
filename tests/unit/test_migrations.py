"""Releases as data, where a database stands, and what is said of going elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.embedded.revisions import Revision, Revisions
from infra.stack.releases import (
    NEWEST,
    RELEASES,
    breaks_between,
    needs_migration,
    release_at,
    release_number,
)
from ops_cli.migrations.known_changes import KNOWN_CHANGES, known_changes
from ops_cli.migrations.records import Rehearsal, keep, last_rehearsal
from ops_cli.migrations.status import judge
from tests.unit.test_restore_plan import deployment

RELEASE = RELEASES["0.16.8"]


def chain(*identifiers: str) -> Revisions:
    downs = [(), *((each,) for each in identifiers[:-1])]
    known = {
        identifier: Revision(identifier, down, f"title of {identifier}", ())
        for identifier, down in zip(identifiers, downs, strict=True)
    }
    return Revisions("0.16.8", known)


def test_releases_are_told_from_each_other_and_stand_with_the_newest_first() -> None:
    numbers = [each.number for each in RELEASES.values()]
    assert numbers == sorted(numbers, reverse=True)
    assert RELEASES[NEWEST].number == numbers[0]
    assert len({each.sdist_sha256 for each in RELEASES.values()}) == len(RELEASES)
    for version, release in RELEASES.items():
        assert version == release.version
        assert len(release.sdist_sha256) == 64
        assert "alembic_version" in release.tables
        assert release.weaknesses
    assert RELEASES["0.16.7"].alembic_head == RELEASES["0.16.8"].alembic_head
    found = release_at(RELEASES["0.16.7"].alembic_head)
    assert found is not None
    assert found.version == "0.16.8"
    assert release_number("0.9.1") < release_number("0.16.8")


def test_what_breaks_is_told_of_the_releases_on_the_way_only() -> None:
    told = list(breaks_between(RELEASES["0.11.7"], RELEASES["0.15.1"]))
    assert told
    assert all(each.startswith("0.13.0: ") for each in told)
    assert list(breaks_between(RELEASES["0.16.7"], RELEASES["0.16.8"])) == []


@pytest.mark.parametrize(
    ("found", "tables", "state"),
    [
        (["c"], True, "current"),
        (["b"], True, "behind"),
        ([], False, "empty"),
        ([], True, "older-than-alembic"),
        (["x"], True, "unknown"),
        (["a", "b"], True, "several-revisions"),
    ],
)
def test_where_a_database_stands(found: list[str], tables: bool, state: str) -> None:
    standing = judge(chain("a", "b", "c"), RELEASE, found, tables=tables)
    assert standing.state == state
    assert standing.as_json()["detail"]
    expected = {"behind": ["c"], "empty": ["a", "b", "c"]}.get(state, [])
    assert [each.id for each in standing.pending] == expected


def test_a_release_with_several_heads_is_none_to_go_to() -> None:
    known = chain("a", "b")
    both = Revisions("x", {**known.known, "c": Revision("c", ("a",), "", ())})
    standing = judge(both, RELEASE, ["a"], tables=True)
    assert standing.state == "unknown"
    assert "b, c" in standing.detail


def test_what_is_known_to_change_is_told_of_pending_revisions_only() -> None:
    assert known_changes(["ffff"]) == []
    revisions = {each.revision for each in KNOWN_CHANGES}
    assert len(known_changes(revisions)) == len(KNOWN_CHANGES)
    (hidden,) = known_changes(["9fa274fb0b83"])
    assert hidden.explains("agents", "hidden")
    assert not hidden.explains("agents", "name")
    assert not hidden.explains("agents", None)


@pytest.mark.parametrize(
    ("here", "wanted", "words"),
    [
        ("0.13.0", "0.16.8", "leave the configuration at release=0.13.0"),
        ("0.16.8", "0.13.0", "migrate rollback"),
        (None, "0.16.8", "migrate apply --to 0.16.8"),
    ],
)
def test_a_migration_that_nobody_asked_for_names_the_way(
    here: str | None, wanted: str, words: str
) -> None:
    error = needs_migration(here, "ffff", wanted)
    assert error.code == "migration-needed"
    assert words in error.hint


def test_a_rehearsal_counts_for_its_revision_release_and_deployment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETTA_OPS_STATE", str(tmp_path))
    of = deployment(None, ours=True, tmp=tmp_path)
    first = Rehearsal(
        "20261129T100000", "an-id", "a-backup", "b", "0.16.8", False,
        "2026-11-29T10:00:00+00:00", 1.0, 2.0, 3, 4, 5,
    )  # fmt: skip
    path = keep(of, first)
    assert path.stat().st_mode & 0o777 == 0o600
    path.with_name("rehearsal-20269999.json").write_text("{}")  # of another version
    path.with_name("rehearsal-20269998.json").write_text("half of a fi")
    assert last_rehearsal(of, "an-id", "b", "0.16.8") == first
    for key in (("another", "b", "0.16.8"), ("an-id", "a", "0.16.8"), ("an-id", "b", "0.16.7")):
        assert last_rehearsal(of, *key) is None
