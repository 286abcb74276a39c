"""Which pg_dump and pg_restore fit a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from backups import programs
from backups.programs import Program, find_dump, find_restore
from infra.errors import LettaOpsError


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has PostgreSQL 15, 16 and 18."""
    here = [Program(Path(f"/pg/{major}"), major, f"{major}.1") for major in (18, 15, 16)]
    monkeypatch.setattr(programs, "_programs", lambda name: iter(here))


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(("server", "chosen"), [(14, 15), (15, 15), (16, 16), (17, 18), (18, 18)])
def test_the_oldest_pg_dump_that_knows_the_server_is_taken(server: int, chosen: int) -> None:
    assert find_dump(server).major == chosen


@pytest.mark.usefixtures("found")
def test_without_a_pg_dump_that_is_new_enough_the_error_says_which_is_needed() -> None:
    with pytest.raises(LettaOpsError, match=r"pg_dump 19 or newer.*found: 18.1.*15.1.*16.1"):
        find_dump(19)


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


def test_a_program_that_fails_or_says_something_else_is_none_of_postgres() -> None:
    assert programs._parsed(Path("pg_dump"), 1, "pg_dump (PostgreSQL) 18.4") is None
    assert programs._parsed(Path("pg_dump"), 0, "usage: pg_dump") is None
