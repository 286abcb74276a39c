"""Finding the pg_dump and pg_restore that fit a server: they must not be older than it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from infra.containers.execute import execute
from infra.embedded.binaries import install_binaries
from infra.errors import LettaOpsError
from infra.locations import cache_folder
from infra.process import attempt, command

DEBIAN = Path("/usr/lib/postgresql")  # its versions lie side by side, and off PATH
# From this version on pg_restore begins with a setting that older servers don't know.
FIRST_WITH_TRANSACTION_TIMEOUT = 17


@dataclass(frozen=True)
class Program:
    """One of PostgreSQL's client programs, and its major version; `container`: it is in there."""

    path: Path
    major: int
    version: str
    container: str | None = None


def find_dump(server: int, container: str | None = None) -> Program:
    """Return the oldest pg_dump that knows a server of major version `server`.

    Where there is none on this machine, the one beside the server in `container` will do. Raises
    LettaOpsError (`no-pg-dump`) naming what was found and what is needed.
    """
    found = [program for program in _programs("pg_dump") if program.major >= server]
    if found:
        return min(found, key=lambda program: program.major)
    if container is not None:
        said = execute(container, ["pg_dump", "--version"])
        if program := _parsed(Path("pg_dump"), said.code, said.output):
            return replace(program, container=container)
    raise _none("pg_dump", f"{server} or newer", f"the server is PostgreSQL {server}")


def find_restore(server: int, dumped_with: int) -> Program:
    """Return a pg_restore that reads what pg_dump `dumped_with` wrote, for a server of `server`."""
    found = [program for program in _programs("pg_restore") if program.major >= dumped_with]
    if server < FIRST_WITH_TRANSACTION_TIMEOUT:
        found = [each for each in found if each.major < FIRST_WITH_TRANSACTION_TIMEOUT]
    if found:
        return min(found, key=lambda program: program.major)
    limit = "" if server >= FIRST_WITH_TRANSACTION_TIMEOUT else ", and older than 17"
    why = f"the backup was made with pg_dump {dumped_with}, the server is PostgreSQL {server}"
    raise _none("pg_restore", f"{dumped_with} or newer{limit}", why)


def _programs(name: str) -> Iterator[Program]:
    """The stack's own, then those on PATH, then Debian's."""
    own = install_binaries(cache_folder()) / "bin" / name
    on_path = [Path(folder) / name for folder in os.get_exec_path() if folder]
    beside = sorted(DEBIAN.glob(f"*/bin/{name}"))
    for path in dict.fromkeys([own, *on_path, *beside]):
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
    match = re.search(r"\(PostgreSQL\) (\d+)[.\w]*", said)
    if code != 0 or match is None:
        return None
    return Program(path, int(match[1]), match[0].partition(") ")[2])


def _none(name: str, needed: str, why: str) -> LettaOpsError:
    found = [f"{program.version} ({program.path})" for program in _programs(name)]
    return LettaOpsError(
        "no-pg-dump",
        f"{name} {needed} is needed, since {why}; found: {', '.join(found) or 'none'}",
        f"put it on PATH (Debian: apt-get install postgresql-client-{needed.split(maxsplit=1)[0]})",
    )
