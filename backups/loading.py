"""Loading a backup's database into an empty one, straight from the store.

Nothing is laid down but the beginning of the dump, for its table of contents: definitions are made
from that, then the dump and the rows of vectors are loaded side by side as they come, and at last
indexes and constraints are made by several jobs.

All of it is done by the database's owner, logged in as such: an administrator's session that only takes
on the owner's role can be led back by what a backup runs (defaults, constraints, indexes).
"""

from __future__ import annotations

import errno
import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from backups.catalog import Backup
from backups.column_options import unknown_options, without_options
from backups.contents import settle
from backups.humanize import size_in_words
from backups.manifest import DATABASE, DatabaseRecord, Manifest, Part
from backups.opening import Key, opened_part
from backups.parallel import Stop, concurrently
from backups.programs import Program, Version
from backups.rights import give, missing_roles
from backups.sources.rows import TableName, write_rows
from backups.stores.store import Store
from backups.streams import chunks_of
from backups.table_of_contents import (
    Entry,
    chosen_entries,
    entries,
    read_beginning,
    reader_of,
)
from infra.database.administration import DatabaseAccess
from infra.errors import LettaOpsError
from infra.process import Command, Report, command, fed, run
from infra.sensitive import Sensitive

if TYPE_CHECKING:
    import psycopg

JOBS = 2
ROOM = 1.5  # times what went into the backup
# What of pg_restore's script is for psql alone.
PSQL_COMMAND = re.compile(rb"^\\(?:un)?restrict .*\n", re.MULTILINE)
HINT = (
    "look at Postgres' log (of a stack's own: `letta-ops logs postgres`), the free disk space, and"
    " whether the backup is whole (`letta-ops backup verify`); then run this again"
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
    dump_at: Callable[[Path], Dump],
    store: Store,
    backup: Backup,
    key: Key,
    scratch: Path,
    report: Report,
) -> None:
    """Load all of `backup` but for what is made before and after it (extensions, `backups.rights`).

    `dump_at` makes the dump on its way of a file that has the dump's beginning.

    Raises LettaOpsError, and psycopg.Error; what is in the database then is not to be trusted.
    """
    stored = sum(part.size for part in backup.manifest.parts if part.of_database)
    with (
        opened_part(store, backup, DATABASE, key) as source,
        scratch_file(scratch) as beginning,
    ):
        with _on(scratch):
            read_beginning(source, beginning)
        dump = dump_at(Path(beginning.name))
        report(f"database: restoring {size_in_words(stored)}")
        dump.define()
        with concurrently(lambda stop: _load_rows(dump, store, backup, key, stop)) as stop:
            beginning.seek(0)
            dump.load(stop.ends(itertools.chain(chunks_of(beginning), chunks_of(source))))
        report(f"database: making indexes and constraints with {JOBS} jobs")
        dump.finish()


@dataclass(frozen=True)
class Dump:
    """A dump on its way into a database, and the pg_restore that reads it.

    `owner` leads to the database as its owner.
    """

    program: Program
    access: DatabaseAccess
    owner: DatabaseAccess
    name: str
    record: DatabaseRecord
    entries: tuple[Entry, ...]  # what is restored
    beginning: Path
    scratch: Path
    report: Report

    @classmethod
    def of(
        cls,
        access: DatabaseAccess,
        owner: DatabaseAccess,
        name: str,
        backup: Backup,
        scratch: Path,
        report: Report,
        beginning: Path,
        *,
        trusted: bool,
    ) -> Dump:
        """Of a backup that is `trusted`, an administrator makes what the owner may not: functions of
        Postgres' own code, for instance."""
        record = backup.manifest.database
        with access.examine(name) as link:
            program = reader_of(backup.manifest, Version.of(link).major)
            missing = missing_roles(link, record.rights) if record.rights else ()
        chosen, left_out = chosen_entries(
            entries(program, beginning, **TELLING),
            record,
            missing,
            trusted=trusted and access.is_superuser,
        )
        for line in left_out:
            report(f"database: leaving out {line}")
        return cls(program, access, owner, name, record, chosen, beginning, scratch, report)

    def define(self) -> None:
        """Make what stands ahead of the data, but for what this server can't know: that is told.

        Raises LettaOpsError, and psycopg.Error.
        """
        for by_administrator, group in itertools.groupby(
            (entry for entry in self.entries if not entry.after_data),
            lambda entry: entry.by_administrator,
        ):
            if by_administrator:
                self._make_as_administrator("pre-data", tuple(group))
            else:
                self._define(tuple(group))

    def _define(self, group: tuple[Entry, ...]) -> None:
        from psycopg import sql

        with self.owner.connect(self.name) as link:
            script = self.script("--section=pre-data", only=group)
            known = self.known_options(link, script)
            if known != script:
                link.execute(
                    sql.SQL("SET client_encoding TO {}").format(sql.Literal(self.record.encoding))
                )
                link.execute(known)
                return
        self._restore("--section=pre-data", only=group, into=self.owner)

    def known_options(
        self, link: psycopg.Connection[Any], script: bytes, schema: str = "pg_temp"
    ) -> bytes:
        """The script without options of columns that the server here doesn't know: these are told."""
        unknown = unknown_options(link, script, schema)
        if not unknown:
            return script
        shown = ", ".join(f"{each} ({count}x)" for each, count in unknown.items())
        self.report(
            f"database: leaving out options of columns that PostgreSQL {Version.of(link)}"
            f" does not know: {shown}"
        )
        return without_options(script, unknown)

    def script(self, section: str, only: tuple[Entry, ...]) -> bytes:
        """What pg_restore would run of these entries."""
        with scratch_file(self.scratch) as file:
            self._restore(section, f"--file={file.name}", only=only, into=None)
            return PSQL_COMMAND.sub(b"", Path(file.name).read_bytes())

    def _make_as_administrator(self, section: str, group: tuple[Entry, ...]) -> None:
        """Make what the owner may not make, and give it to the owner."""
        self._restore(f"--section={section}", only=group, into=self.access)
        assert self.record.rights is not None  # noqa: S101  # it says what is privileged
        privileged = self.record.rights.privileged
        addresses = [privileged[entry.number] for entry in group if entry.number in privileged]
        with self.access.examine(self.name) as link:
            give(link, addresses, str(self.owner.settings["user"]))

    def load(self, chunks: Iterator[bytes]) -> None:
        """Load the data of a dump that comes in chunks, and read these to their end."""
        with self.command("--section=data", only=self.entries, into=self.owner) as job:
            fed(job, chunks, **TELLING)
        for _ in chunks:
            pass  # pg_restore does not want it, but at its end it is compared with the manifest

    def table_of(self, part: Part) -> TableName | None:
        """The table that the rows of a part go to; None: to none."""
        return TableName.parse(str(part.table))

    def finish(self) -> None:
        """Make indexes, constraints and triggers."""
        after = [entry for entry in self.entries if entry.after_data]
        theirs = tuple(entry for entry in after if entry.by_administrator)
        ours = tuple(entry for entry in self.entries if not entry.by_administrator)
        self._restore(f"--jobs={JOBS}", "--section=post-data", only=ours, into=self.owner)
        if theirs:
            self._make_as_administrator("post-data", theirs)

    def _restore(self, *options: str, only: tuple[Entry, ...], into: DatabaseAccess | None) -> None:
        with self.command(*options, self.beginning, only=only, into=into) as job:
            run(job, **TELLING)

    @contextmanager
    def command(
        self, *arguments: str | Path, only: tuple[Entry, ...], into: DatabaseAccess | None
    ) -> Iterator[Command]:
        """pg_restore of these entries; with None as text, else into the database by that way."""
        given = into.environment(self.name) if into else {}
        password = given.get("PGPASSWORD")
        publications = () if self.record.rights else ("--no-publications",)
        with scratch_file(self.scratch) as chosen:
            chosen.writelines(f"{entry.line}\n".encode() for entry in only)
            chosen.flush()
            yield command(
                self.program.path,
                *([f"--dbname={self.name}"] if into else []),
                "--no-owner", "--no-privileges", "--no-password", "--exit-on-error",
                # Of the source's replication: it is not ours to begin, and needs all rights.
                *publications, "--no-subscriptions", f"--use-list={chosen.name}",
                *arguments,
                environment={"LC_ALL": "C", "PATH": "/usr/bin:/bin", **given},
                secrets=(Sensitive(password),) if password else (),
            )  # fmt: skip


@contextmanager
def scratch_file(scratch: Path) -> Iterator[IO[bytes]]:
    """A file in a folder that is removed as a whole: whoever is interrupted may leave it there."""
    with tempfile.NamedTemporaryFile(dir=scratch, prefix="restoring-", delete=False) as file:
        yield file
    Path(file.name).unlink(missing_ok=True)


def _load_rows(dump: Dump, store: Store, backup: Backup, key: Key, stop: Stop) -> None:
    parts = [part for part in backup.manifest.parts if part.table is not None]
    with dump.owner.connect(dump.name) as link:
        settle(link)
        for part in parts:
            if (table := dump.table_of(part)) is not None:
                with opened_part(store, backup, part.name, key) as source:
                    write_rows(link, table, stop.ends(chunks_of(source)))


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
