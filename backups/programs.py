"""Finding the pg_dump and pg_restore that fit a server: they must not be older than it, by release."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.embedded.binaries import DEBIAN, MAJORS, install_binaries
from infra.errors import LettaOpsError
from infra.process import attempt, command
from infra.stack.locations import cache_folder
from infra.targets.target import Programs

if TYPE_CHECKING:
    import psycopg

# From this version on pg_restore begins with a setting that older servers don't know.
FIRST_WITH_TRANSACTION_TIMEOUT = 17


# How many minor releases the major before had had when the first of this one's came: from then on all
# living majors get theirs on one day, so that 17.12 and 18.6 are of the same (postgresql.org, "release
# notes"). A major that isn't listed had at least those of its first year.
BEHIND = {13: 4, 14: 3, 15: 5, 16: 4, 17: 4, 18: 6}
BEHIND_AT_LEAST = 4


@dataclass(frozen=True, order=True)
class Version:
    """A version of PostgreSQL: 17.12 is (17, 12). `minor` is -1 before a major's first release."""

    major: int
    minor: int

    @classmethod
    def of(cls, link: psycopg.Connection[Any]) -> Version:
        """That of the server at the other end: libpq says 170012 for 17.12."""
        return cls(*divmod(link.info.server_version, 10_000))

    @classmethod
    def parse(cls, text: str) -> Version:
        """From what its programs say of themselves: 17.12, 19beta1."""
        match = re.match(r"(\d+)(?:\.(\d+))?", text)
        if match is None:
            raise ValueError(f"{text!r} is no version of PostgreSQL")
        return cls(int(match[1]), int(match[2] or -1))

    def is_as_new_as(self, other: Version) -> bool:
        """Whether it was released together with `other`, or later: by date, not by number."""
        majors = range(other.major + 1, self.major + 1)
        ahead = sum(BEHIND.get(major, BEHIND_AT_LEAST) for major in majors)
        return self.major >= other.major and self.minor + ahead >= other.minor

    def __str__(self) -> str:
        return str(self.major) if self.minor < 0 else f"{self.major}.{self.minor}"


@dataclass(frozen=True)
class Program:
    """One of PostgreSQL's client programs; `version` as it tells it. `of_server`: it is where the
    server is, and is run there."""

    path: Path
    number: Version
    version: str
    of_server: Programs | None = None

    @property
    def major(self) -> int:
        return self.number.major


def find_dump(server: Version, of_server: Programs | None = None) -> Program:
    """Return the server's own pg_dump where it can be run there; else the oldest that fits.

    An older program than the server, also one of a later major, may dump wrongly what it doesn't
    know: it is the answer only where nothing better is found, the newest then. Raises LettaOpsError
    (`no-pg-dump`) naming what was found and what is needed.
    """
    if of_server is not None:
        said = of_server.run("pg_dump", "--version")
        if program := _parsed(Path("pg_dump"), said.returncode, said.stdout):
            return replace(program, of_server=of_server)
    known = [each for each in _programs("pg_dump", server.major) if each.major >= server.major]
    fitting = [program for program in known if program.number.is_as_new_as(server)]
    if fitting:
        return min(fitting, key=lambda program: program.number)
    if known:
        return max(known, key=lambda program: program.number)
    raise _none("pg_dump", f"{server.major} or newer", f"the server is PostgreSQL {server}")


def find_restore(server: int, dumped_with: int) -> Program:
    """Return a pg_restore that reads what pg_dump `dumped_with` wrote, for a server of `server`."""
    found = [each for each in _programs("pg_restore", dumped_with) if each.major >= dumped_with]
    if server < FIRST_WITH_TRANSACTION_TIMEOUT:
        found = [each for each in found if each.major < FIRST_WITH_TRANSACTION_TIMEOUT]
    if found:
        return min(found, key=lambda program: program.major)
    limit = "" if server >= FIRST_WITH_TRANSACTION_TIMEOUT else ", and older than 17"
    why = f"the backup was made with pg_dump {dumped_with}, the server is PostgreSQL {server}"
    raise _none("pg_restore", f"{dumped_with} or newer{limit}", why)


def _programs(name: str, oldest: int = 0) -> Iterator[Program]:
    """The stack's own from major version `oldest` on, then those on PATH, then Debian's."""
    majors = [each for each in reversed(MAJORS) if int(each) >= oldest]
    own = [install_binaries(cache_folder(), major) / "bin" / name for major in majors]
    on_path = [Path(folder) / name for folder in os.get_exec_path() if folder]
    debian = sorted(DEBIAN.glob(f"*/bin/{name}"))
    for path in dict.fromkeys([*own, *on_path, *debian]):
        if shutil.which(path) is None:
            continue
        if program := _asked(path):
            yield program


def _asked(path: Path) -> Program | None:
    try:
        said = attempt(command(path, "--version", timeout=20), code="", hint="", what=str(path))
    except LettaOpsError:
        return None
    return _parsed(path, said.returncode, said.stdout)


def _parsed(path: Path, code: int, said: str) -> Program | None:
    # Debian says: pg_dump (PostgreSQL) 17.5 (Debian 17.5-1)
    match = re.search(r"\(PostgreSQL\) (\d[.\w]*)", said)
    if code != 0 or match is None:
        return None
    return Program(path, Version.parse(match[1]), match[1])


def _none(name: str, needed: str, why: str) -> LettaOpsError:
    found = [f"{program.version} ({program.path})" for program in _programs(name)]
    return LettaOpsError(
        "no-pg-dump",
        f"{name} {needed} is needed, since {why}; found: {', '.join(found) or 'none'}",
        f"put it on PATH (Debian: apt-get install postgresql-client-{needed.split(maxsplit=1)[0]})",
    )
