"""Which pg_dump and pg_restore fit a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backups import programs
from backups.programs import Program, Version, find_dump, find_restore
from infra.errors import LettaOpsError
from infra.process import Finished

HERE = ("18.4", "15.12", "16.20", "16.8")


def program(version: str) -> Program:
    return Program(Path(f"/pg/{version}"), Version.parse(version), version)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has PostgreSQL 15, 16 (two of it) and 18."""
    monkeypatch.setattr(programs, "_programs", lambda name, oldest=0: map(program, HERE))


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("server", "chosen", "as_new"),
    [
        ("14.17", "15.12", True),  # of one day, as 16.8
        ("14.18", "16.20", True),  # 15.12 and 16.8 are older
        ("15.12", "15.12", True),
        ("15.13", "16.20", True),
        ("16.8", "16.8", True),
        ("16.20", "16.20", True),
        ("17.10", "18.4", True),
        ("18.4", "18.4", True),
        # All are older than the server: the newest is taken, and known to be older.
        ("17.12", "18.4", False),
        ("16.21", "18.4", False),
    ],
)
def test_the_oldest_pg_dump_that_is_not_older_than_the_server_is_taken(
    server: str, chosen: str, as_new: bool
) -> None:
    taken = find_dump(Version.parse(server))
    assert taken.version == chosen
    assert taken.number.is_as_new_as(Version.parse(server)) is as_new


@dataclass(frozen=True)
class Beside:
    """Programs where the server is, of which each answers alike."""

    said: Finished

    def run(self, program: str, *arguments: str) -> Finished:
        return self.said

    def stream(self, program: str, *arguments: str) -> Iterator[bytes]:
        raise AssertionError("nothing is dumped here")


@pytest.mark.usefixtures("found")
def test_a_server_is_dumped_by_its_own_program_where_that_can_be_run() -> None:
    beside = Beside(Finished(0, "pg_dump (PostgreSQL) 17.12 (Debian 17.12-0+deb13u1)\n", ""))
    taken = find_dump(Version(17, 12), beside)
    assert (taken.of_server, taken.version) == (beside, "17.12")


@pytest.mark.usefixtures("found")
def test_a_server_without_the_program_is_dumped_from_here() -> None:
    assert find_dump(Version(16, 8), Beside(Finished(127, "", "not found"))) == program("16.8")


@pytest.mark.parametrize(
    ("one", "other", "as_new"),
    [
        # Pairs of one day, from the release notes: August and November 2025, May 2024.
        ("18.1", "17.7", True), ("18.1", "17.8", False),
        ("17.6", "14.19", True), ("17.6", "14.20", False),
        ("16.3", "13.15", True), ("16.3", "13.16", False),
        # November 2026.
        ("18.6", "17.12", True), ("18.4", "17.12", False),
        # Of a major that this letta-ops doesn't know, only what is sure.
        ("19.0", "18.4", True), ("19.0", "18.5", False),
        ("17.12", "18.0", False), ("19beta1", "18.3", True), ("19beta1", "19.0", False),
    ],
)  # fmt: skip
def test_releases_are_compared_by_their_day(one: str, other: str, as_new: bool) -> None:
    assert Version.parse(one).is_as_new_as(Version.parse(other)) is as_new


@pytest.mark.usefixtures("found")
def test_without_a_pg_dump_that_is_new_enough_the_error_says_which_is_needed() -> None:
    with pytest.raises(LettaOpsError, match=r"pg_dump 19 or newer.*19\.2; found: 18\.4.*15\.12"):
        find_dump(Version(19, 2))


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("server", "dumped_with", "chosen"), [(18, 18, 18), (18, 17, 18), (17, 16, 16), (16, 15, 15)]
)
def test_pg_restore_is_not_older_than_the_dump(server: int, dumped_with: int, chosen: int) -> None:
    assert find_restore(server, dumped_with).major == chosen


@pytest.mark.usefixtures("found")
def test_an_old_server_is_not_given_a_pg_restore_whose_settings_it_does_not_know() -> None:
    with pytest.raises(LettaOpsError, match="17 or newer, and older than 17 is needed"):
        find_restore(16, 17)


@pytest.mark.parametrize(
    ("said", "major", "version"),
    [
        ("pg_dump (PostgreSQL) 17.5 (Debian 17.5-1)\n", 17, "17.5"),
        ("pg_dump (PostgreSQL) 18.4\n", 18, "18.4"),
        ("pg_dump (PostgreSQL) 19beta1\n", 19, "19beta1"),
    ],
)
def test_a_version_is_read_as_the_programs_tell_it(said: str, major: int, version: str) -> None:
    program = programs._parsed(Path("pg_dump"), 0, said)
    assert program is not None
    assert (program.major, program.version) == (major, version)
    assert str(program.number) == version.removesuffix("beta1")


def test_a_program_that_fails_or_says_something_else_is_none_of_postgres() -> None:
    assert programs._parsed(Path("pg_dump"), 1, "pg_dump (PostgreSQL) 18.4") is None
    assert programs._parsed(Path("pg_dump"), 0, "usage: pg_dump") is None
