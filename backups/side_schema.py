"""Restoring a dump into schemas beside the live ones, by the owner of the tables alone.

What pg_restore would run is sent to the other schema statement by statement (`backups.requalify`); rows
come through it as well, since it knows the form of a dump, and go in by COPY.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.catalog import Backup
from backups.contents import settle
from backups.loading import JOBS, PSQL_COMMAND, TELLING, Dump, load
from backups.manifest import Part
from backups.opening import Key
from backups.parallel import Stop, concurrently
from backups.programs import Version
from backups.requalify import Homes, names_in, requalified, statements
from backups.scope import OURS, Names, type_statements
from backups.sources.rows import TableName
from backups.stores.store import Store
from backups.streams import chunks_of
from backups.table_of_contents import entries, own_entries, reader_of
from infra.database.administration import DatabaseAccess
from infra.errors import LettaOpsError
from infra.process import Report, filtered

if TYPE_CHECKING:
    import psycopg

# What pgvector brings that definitions name.
OF_PGVECTOR = (
    "vector", "halfvec", "sparsevec",
    *(f"{kind}_{way}_ops" for kind in ("vector", "halfvec", "sparsevec")
      for way in ("l2", "ip", "cosine", "l1")),
)  # fmt: skip
END_OF_ROWS = b"\\.\n"


@dataclass(frozen=True)
class SideSchemas:
    """Where what a backup holds goes: Letta's to `tables`, our records to `records`; the extension's
    types are in `extension` here."""

    tables: str
    records: str
    extension: str | None


def restore_schemas(
    owner: DatabaseAccess,
    name: str,
    side: SideSchemas,
    store: Store,
    backup: Backup,
    key: Key,
    scratch: Path,
    report: Report,
) -> None:
    """Load what is Letta's and ours in a backup into the schemas of `side`, which are empty, of
    database `name`. Raises LettaOpsError, and psycopg.Error."""
    dump_at = partial(_MovedDump.beside, owner, name, side, backup, scratch, report)
    load(dump_at, store, backup, key, scratch, report)


@dataclass(frozen=True)
class _MovedDump(Dump):
    """A dump on its way into other schemas than it came from."""

    homes: dict[tuple[str, str], str]
    side: SideSchemas

    @classmethod
    def beside(
        cls,
        owner: DatabaseAccess,
        name: str,
        side: SideSchemas,
        backup: Backup,
        scratch: Path,
        report: Report,
        beginning: Path,
    ) -> _MovedDump:
        record = backup.manifest.database
        with owner.examine(name) as link:
            program = reader_of(backup.manifest, Version.of(link).major)
        names = Names.of(record.revision, record)
        homes = homes_of(str(record.schema), names, side)
        chosen = own_entries(entries(program, beginning, **TELLING), homes)
        if side.extension and record.pgvector_schema:
            homes |= {(record.pgvector_schema, each): side.extension for each in OF_PGVECTOR}
        return cls(
            program, owner, owner, name, record, chosen, beginning, scratch, report, homes, side
        )

    def define(self) -> None:
        script = self.script("--section=pre-data", only=self.entries)
        with self._session() as link:
            for statement in type_statements(self.record.types, self.side.tables):
                link.execute(statement)
            self._run(
                link,
                map(
                    self._moved,
                    self._statements(self.known_options(link, script, self.side.tables)),
                ),
            )

    def load(self, chunks: Iterator[bytes]) -> None:
        with (
            self._session() as link,
            self.command("--section=data", "--file=-", only=self.entries, into=None) as job,
            filtered(job, chunks, **TELLING) as out,
        ):
            for statement, rows in _copies(chunks_of(out)):
                moved = map(self._moved, self._statements(statement))
                if rows is None:
                    self._run(link, moved)
                    continue
                with link.cursor() as cursor, cursor.copy(b"".join(moved)) as copy:
                    for each in rows:
                        copy.write(each)
        for _ in chunks:
            pass  # pg_restore does not want it, but at its end it is compared with the manifest

    def table_of(self, part: Part) -> TableName | None:
        table = TableName.parse(str(part.table))
        home = self.homes.get((table.schema, table.name))
        return None if home is None else TableName(home, table.name)

    def finish(self) -> None:
        found = list(self._statements(self.script("--section=post-data", only=self.entries)))
        together = deque(self._moved(each) for each in found if _is_index(each))

        def work(stop: Stop) -> None:
            with self._session() as link:
                for statement in stop.ends(iter(partial(_next, together), None)):
                    link.execute(statement)

        assert JOBS == 2  # noqa: S101  # this thread and one beside it
        with concurrently(work) as stop:
            work(stop)
        with self._session() as link:
            self._run(link, (self._moved(each) for each in found if not _is_index(each)))

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection[Any]]:
        from psycopg import sql

        with self.owner.connect(self.name) as link:
            settle(link)
            link.execute(
                sql.SQL(
                    "SET client_encoding TO {}; SET check_function_bodies TO off;"
                    " SET maintenance_work_mem TO '256MB'; SET synchronous_commit TO off"
                ).format(sql.Literal(self.record.encoding))
            )
            yield link

    def _run(self, link: psycopg.Connection[Any], moved: Iterator[bytes]) -> None:
        if script := b";\n".join(moved):
            link.execute(script)

    def _statements(self, script: bytes) -> Iterator[list[str]]:
        """Those that make something of ours; indexes become known by their names on the way."""
        for tokens in statements(script.decode(self._codec)):
            words = [token for token in tokens[:12] if token.strip()]
            # A session's settings are ours to make.
            if words[0] == "SET" or "".join(words[:4]) == "SELECTpg_catalog.set_config":
                continue
            if "INDEX" in words[:3] and words[0] == "CREATE":
                on = next((each for each in names_in(tokens) if each in self.homes), None)
                if on is None:
                    continue  # somebody else's
                self.homes[on[0], words[words.index("INDEX") + 1].strip('"')] = self.homes[on]
            yield tokens

    def _moved(self, tokens: list[str]) -> bytes:
        return requalified(tokens, Homes(self.homes)).encode(self._codec)

    @property
    def _codec(self) -> str:
        return "utf-8" if self.record.encoding == "UTF8" else "latin-1"


def homes_of(schema: str, names: Names, side: SideSchemas) -> dict[tuple[str, str], str]:
    """Where what is Letta's in `schema`, and ours, goes."""
    from backups.layout import LETTA_OPS

    return {
        **{(schema, name): side.tables for name in (*names.relations, *names.types)},
        **{(LETTA_OPS, name): side.records for name in OURS},
    }


def _is_index(tokens: list[str]) -> bool:
    """Whether a statement makes an index, or what makes one: several may be made at the same time."""
    words = [token for token in tokens if token.strip()]
    if words[0] == "CREATE":
        return "INDEX" in words[:3]
    behind = words[words.index("CONSTRAINT") + 2 :] if "CONSTRAINT" in words else []
    return words[:2] == ["ALTER", "TABLE"] and behind[:1] in (["PRIMARY"], ["UNIQUE"], ["EXCLUDE"])


def _next(queue: deque[bytes]) -> bytes | None:
    try:
        return queue.popleft()
    except IndexError:
        return None


def _copies(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, Iterator[bytes] | None]]:
    """Take a script apart: statements, and each COPY with its rows, to be read to their end."""
    script = _Script(chunks)
    before: list[bytes] = []
    while line := script.line():
        if not (line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n")):
            if not PSQL_COMMAND.fullmatch(line):
                before.append(line)
            continue
        yield b"".join(before), None
        before = []
        yield line, script.rows()
    yield b"".join(before), None


class _Script:
    """What pg_restore writes, as it comes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._data = chunks, b""

    def line(self) -> bytes:
        """The next line with its end; nothing at the end of all."""
        while b"\n" not in self._data and self._more():
            pass
        line, end, self._data = self._data.partition(b"\n")
        return line + end

    def rows(self) -> Iterator[bytes]:
        """Yield what stands ahead of a COPY's end. Raises LettaOpsError where that doesn't come."""
        while len(self._data) < len(END_OF_ROWS) and self._more():
            pass
        if self._data.startswith(END_OF_ROWS):
            self._data = self._data[len(END_OF_ROWS) :]
            return
        while (at := self._data.find(b"\n" + END_OF_ROWS)) < 0:
            kept = len(END_OF_ROWS)  # they may be the beginning of the end
            yield self._data[:-kept]
            self._data = self._data[-kept:]
            if not self._more():
                raise LettaOpsError(
                    TELLING["code"], "the rows that pg_restore writes are cut", TELLING["hint"]
                )
        yield self._data[: at + 1]
        self._data = self._data[at + 1 + len(END_OF_ROWS) :]

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        self._data += chunk
        return bool(chunk)
