"""Loading a backup's database into an empty one, straight from the store.

Nothing is laid down but the beginning of the dump, for its table of contents: definitions are made
from that, then the dump and the rows of vectors are loaded side by side as they come, and at last
indexes and constraints are made by several jobs.
"""

from __future__ import annotations

import errno
import itertools
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from backups.catalog import Backup
from backups.column_options import unknown_options, without_options
from backups.contents import settle
from backups.humanize import size_in_words
from backups.manifest import DATABASE, Manifest
from backups.opening import Key, opened_part
from backups.parallel import Stop, concurrently
from backups.programs import Program, Version
from backups.sources.rows import VectorTable, write_rows
from backups.stores.store import Store
from backups.streams import chunks_of
from backups.table_of_contents import entries, read_beginning, reader_of
from infra.database.administration import DatabaseAccess
from infra.errors import LettaOpsError
from infra.process import Report, command, fed, run
from infra.sensitive import Sensitive

JOBS = 2
ROOM = 1.5  # times what went into the backup
# What of pg_restore's script is for psql alone.
PSQL_COMMAND = re.compile(rb"^\\(?:un)?restrict .*\n", re.MULTILINE)
MADE_BEFORE = ("EXTENSION", "COMMENT - EXTENSION")
HINT = (
    "look at Postgres' log (`letta-ops logs postgres`), the free disk space, and whether the backup is"
    " whole (`letta-ops backup verify`); then run this again"
)
TELLING: dict[str, Any] = {
    "code": "restore-failed",
    "hint": HINT,
    "what": "restoring the database",
}


def room_for(manifest: Manifest) -> int:
    """About how many bytes the database takes on disk, with its indexes."""
    return int(ROOM * manifest.plain_database_size)


def load(
    access: DatabaseAccess,
    name: str,
    role: str | None,
    store: Store,
    backup: Backup,
    key: Key,
    scratch: Path,
    report: Report,
) -> None:
    """Load all of `backup` into database `name`, as `role`, but for what was `MADE_BEFORE`.

    Raises LettaOpsError, and psycopg.Error; what is in the database then is not to be trusted.
    """
    stored = sum(part.size for part in backup.manifest.parts if part.of_database)
    with (
        opened_part(store, backup, DATABASE, key) as source,
        tempfile.NamedTemporaryFile(dir=scratch, prefix="restoring-") as beginning,
        tempfile.NamedTemporaryFile("w", dir=scratch, prefix="restoring-") as chosen,
    ):
        with _on(scratch):
            read_beginning(source, beginning)
        dump = _Dump.of(access, name, role, backup, Path(beginning.name), chosen)
        report(f"database: restoring {size_in_words(stored)}")
        dump.define(access, name, scratch, report)
        with concurrently(lambda stop: _load_rows(access, name, store, backup, key, stop)) as stop:
            beginning.seek(0)
            dump.load(stop.ends(itertools.chain(chunks_of(beginning), chunks_of(source))))
        report(f"database: making indexes and constraints with {JOBS} jobs")
        dump.make("post-data", f"--jobs={JOBS}")


@dataclass(frozen=True)
class _Dump:
    """A dump on its way into a database, and the pg_restore that reads it."""

    program: Program
    target: str
    options: tuple[str, ...]
    settings: dict[str, Any]
    beginning: Path
    encoding: str

    @classmethod
    def of(
        cls,
        access: DatabaseAccess,
        name: str,
        role: str | None,
        backup: Backup,
        beginning: Path,
        chosen: IO[str],
    ) -> _Dump:
        """`chosen` gets the list of what is restored."""
        with access.connect(name) as link:
            program = reader_of(backup.manifest, Version.of(link).major)
        home = backup.manifest.database.pgvector_schema or "public"
        chosen.writelines(
            f"{line}\n" for line in _wanted(entries(program, beginning, **TELLING), home)
        )
        chosen.flush()
        environment = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", **access.environment(name)}
        password = environment.get("PGPASSWORD")
        options = (
            "--no-owner", "--no-privileges", "--no-password", "--exit-on-error",
            # Of the source's replication: it is not ours to begin, and may need all rights.
            "--no-publications", "--no-subscriptions",
            *([f"--role={role}"] if role else []), f"--use-list={chosen.name}",
        )  # fmt: skip
        secrets = (Sensitive(password),) if password else ()
        settings = {"environment": environment, "secrets": secrets}
        encoding = backup.manifest.database.encoding
        return cls(program, f"--dbname={name}", options, settings, beginning, encoding)

    def define(self, access: DatabaseAccess, name: str, scratch: Path, report: Report) -> None:
        """Make what stands ahead of the data, but for what this server can't know: that is told.

        Raises LettaOpsError, and psycopg.Error.
        """
        from psycopg import sql

        with (
            tempfile.NamedTemporaryFile(dir=scratch, prefix="restoring-") as file,
            access.connect(name) as link,
        ):
            arguments = (*self.options, "--section=pre-data", f"--file={file.name}")
            run(command(self.program.path, *arguments, self.beginning, **self.settings), **TELLING)
            script = PSQL_COMMAND.sub(b"", Path(file.name).read_bytes())
            unknown = unknown_options(link, script)
            if unknown:
                shown = ", ".join(f"{each} ({count}x)" for each, count in unknown.items())
                report(
                    f"database: leaving out options of columns that PostgreSQL {Version.of(link)}"
                    f" does not know: {shown}"
                )
                link.execute(
                    sql.SQL("SET client_encoding TO {}").format(sql.Literal(self.encoding))
                )
                link.execute(without_options(script, unknown))
                return
        self.make("pre-data")

    def make(self, section: str, *more: str) -> None:
        """Make what the table of contents defines: all but data."""
        arguments = (self.target, *self.options, *more, f"--section={section}")
        run(command(self.program.path, *arguments, self.beginning, **self.settings), **TELLING)

    def load(self, chunks: Iterator[bytes]) -> None:
        """Load the data of a dump that comes in chunks, and read these to their end."""
        arguments = (self.target, *self.options, "--section=data")
        fed(command(self.program.path, *arguments, **self.settings), chunks, **TELLING)
        for _ in chunks:
            pass  # pg_restore does not want it, but at its end it is compared with the manifest


def _load_rows(
    access: DatabaseAccess, name: str, store: Store, backup: Backup, key: Key, stop: Stop
) -> None:
    tables = [part for part in backup.manifest.parts if part.table is not None]
    with access.connect(name) as link:
        settle(link)
        for part in tables:
            with opened_part(store, backup, part.name, key) as source:
                write_rows(link, VectorTable.parse(str(part.table)), stop.ends(chunks_of(source)))


def _wanted(listing: Iterable[str], home: str) -> Iterator[str]:
    """Of pg_restore's list, all but what was made already."""
    for line in listing:
        entry = line.partition("; ")[2].split(" ", 2)[-1] if not line.startswith(";") else ""
        made = (*MADE_BEFORE, f"SCHEMA - {home} ", "COMMENT - SCHEMA public")
        if not entry.startswith(made):
            yield line


@contextmanager
def _on(scratch: Path) -> Iterator[None]:
    """Say of a file there that can't be written what is wrong with the disk."""
    try:
        yield
    except OSError as error:
        raise LettaOpsError(
            "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "restore-failed",
            f"the dump's table of contents can't be written to {scratch}: {error.strerror}",
            "free some disk space there, then run this again",
        ) from None
