"""The table of contents of a dump: it is at its beginning, which can be read without the rest."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from backups.manifest import Manifest
from backups.programs import Program, Version, find_restore
from backups.stores.store import Source
from backups.streams import CHUNK
from infra.process import command, run

BEGINNING = 32 << 20  # bytes: many times what Letta's takes


def read_beginning(source: Source, file: IO[bytes]) -> int:
    """Write the beginning of a dump, with the whole table of contents, to `file`; return its size."""
    size = 0
    while size < BEGINNING and (chunk := source.read(min(CHUNK, BEGINNING - size))):
        file.write(chunk)
        size += len(chunk)
    file.flush()
    return size


def entries(program: Program, beginning: Path, **telling: Any) -> list[str]:
    """Return the lines of pg_restore's list; raises LettaOpsError as `telling` says."""
    return run(command(program.path, "--list", beginning), **telling).stdout.splitlines()


def reader_of(manifest: Manifest, server: int | None = None) -> Program:
    """Return the pg_restore that reads a backup's dump, for a server of this major version."""
    dumped_with = Version.parse(manifest.tools["pg_dump"]).major
    return find_restore(server or dumped_with, dumped_with)
