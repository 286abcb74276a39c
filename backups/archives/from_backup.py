"""Some agents' rows out of a whole backup, as its parts stream by: nothing else is restored anywhere.

Small tables are staged as they are, and what is nobody's of these agents is taken out again; of large
ones only rows with the right keys are. Which keys those are may be known only after the stream went by:
then it is read once more.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any, cast

from backups.archives.agents import find_agents
from backups.archives.closure import (
    MEMBERSHIP,
    OF_SERVER,
    ROOT,
    Closure,
    Link,
    Model,
    Role,
    with_members,
)
from backups.archives.file import Header
from backups.archives.memory import Memories, split
from backups.archives.staging import Staging, empty, keep_only
from backups.archives.write import BINARY, TEXT
from backups.catalog import Backup
from backups.dump_script import copies
from backups.loading import TELLING
from backups.manifest import DATABASE, MEMORY
from backups.opening import Key, opened_part
from backups.programs import Version
from backups.sources.rows import COLUMNS, raw_rows
from backups.stores.store import Store
from backups.streams import chunks_of
from backups.table_of_contents import reader_of
from infra.background import Background
from infra.errors import LettaOpsError
from infra.process import Report, command, filtered

if TYPE_CHECKING:
    import psycopg

HELD = 16 << 20  # bytes of wanted rows that are held in memory
LIGHT = 20_000  # rows: a table with no more is staged whole
COPY = re.compile(rb"COPY (\S+)\.(\S+) \((.*)\) FROM stdin;\n")
FIRST = (ROOT, *MEMBERSHIP)  # say which agents are wanted


def stage_from_backup(
    link: psycopg.Connection[Any],
    model: Model,
    store: Store,
    backup: Backup,
    key: Key,
    wanted: Sequence[str],
    report: Report,
) -> tuple[Staging, Header]:
    """Stage the agents `wanted` (ids, or names that one has) of `backup` with all that is theirs.

    Raises LettaOpsError: `agent-unknown`, `agent-ambiguous`, `part-damaged` and the like; psycopg.Error.
    """
    staging = empty(link, model, {table: model.names(table) for table in model.roles})
    reading = _Reading(staging, store, backup, key, wanted)
    passes = 0
    while reading.left:
        passes += 1
        report(f"backup {backup.id}: reading its database" + (" once more" if passes > 1 else ""))
        before = set(reading.left)
        reading.read_dump()
        if before == reading.left:
            raise LettaOpsError(
                "part-damaged",
                f"the dump of backup {backup.id} has no rows of {', '.join(sorted(before))}",
                "use another backup (`letta-ops backup list`)",
            )
    reading.take_rows()
    reading.take_memories()
    keep_only(staging, list(reading.agents))
    return staging, reading.header()


@dataclass
class _Filter:
    """Which rows of a table are wanted: with one of `values` in one of `columns`; all, if there is none.

    Values are as COPY writes them: ids have nothing that it would write otherwise.
    """

    columns: dict[str, set[bytes]] = field(default_factory=dict)
    everything: bool = False


class _Reading:
    """What of a backup's rows is staged by now; `left` are tables of which there is none yet."""

    def __init__(
        self, staging: Staging, store: Store, backup: Backup, key: Key, wanted: Sequence[str]
    ) -> None:
        self._staging, self._store, self._backup, self._key = staging, store, backup, key
        self._wanted = wanted
        self.agents: tuple[str, ...] = ()
        self.providers: dict[str, str] = {}
        self.urls: dict[str, str] = {}
        self._rows: dict[str, tuple[list[str], Background[IO[bytes]]]] = {}
        record = backup.manifest.database
        self._schema = str(record.schema)
        self._apart = {
            part.table.partition(".")[2] for part in backup.manifest.parts if part.table is not None
        }
        self._sizes = {
            table: record.tables[f"{self._schema}.{table}"].rows
            for table in staging.tables
            if f"{self._schema}.{table}" in record.tables
        }
        self.left = {table for table in self._sizes if table not in self._apart}
        self._in_place = replace(staging.model, schema="pg_temp")

    def header(self) -> Header:
        manifest = self._backup.manifest
        return Header(
            created_at=manifest.created_at.isoformat(timespec="seconds"),
            deployment=manifest.deployment,
            release=manifest.release,
            revision=manifest.database.revision,
            postgres=manifest.database.postgres,
            schema=self._schema,
            agents=tuple({"id": each, "name": ""} for each in self.agents),
            tables={},
            providers=self.providers,
            left_out={},
            key_fingerprint=manifest.key_fingerprint,
            urls=self.urls,
        )

    def read_dump(self) -> None:
        """Let the whole dump go by once, and take what can be told to be wanted."""
        program = reader_of(
            self._backup.manifest, Version.of(self._staging.link).major
        )  # of the server's version, or of the dump's
        job = command(
            program.path, "--section=data", "--file=-",
            environment={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        encoding = self._backup.manifest.database.encoding
        with opened_part(self._store, self._backup, DATABASE, self._key) as source:
            chunks = chunks_of(source)
            with filtered(job, chunks, **TELLING) as out:
                for statement, rows in copies(chunks_of(out)):
                    if rows is not None:
                        self._staging.link.execute(f"SET client_encoding TO '{encoding}'")
                        self._take(statement, rows)
                        self._staging.link.execute("SET client_encoding TO 'UTF8'")
            for _ in chunks:
                pass  # to its end, where it is compared with the manifest

    def take_rows(self) -> None:
        """Stage the rows of tables with vectors, which lie apart from the dump."""
        self._begin_rows()
        for table, (names, reading) in self._rows.items():
            with reading.result() as file:
                self._staging.load(table, names, BINARY, chunks_of(file))

    def take_memories(self) -> None:
        """Take git memory of the agents, where the backup has some."""
        self._staging.memories = memories_in(
            self._store, self._backup, self._key, self.agents.__contains__
        )

    def _begin_rows(self) -> None:
        """Begin to read, beside the dump, the rows of each table whose keys can be told by now."""
        for part in self._backup.manifest.parts:
            table = (part.table or "").partition(".")[2]
            if table not in self._sizes or table in self._rows or not self.agents:
                continue
            chosen = self._by_keys(table)
            if chosen is not None:
                columns = self._staging.link.execute(COLUMNS, [self._staging.model.schema, table])
                names = [row[0] for row in columns]
                places = [(names.index(name), each) for name, each in chosen.columns.items()]
                work = partial(self._wanted_rows, part.name, places)
                self._rows[table] = names, Background(work, part.name)

    def _wanted_rows(self, part: str, places: Sequence[tuple[int, set[bytes]]]) -> IO[bytes]:
        def is_wanted(fields: Sequence[bytes | None]) -> bool:
            return any(fields[place] in values for place, values in places)

        file = tempfile.SpooledTemporaryFile(HELD)  # noqa: SIM115  # its reader closes it
        with opened_part(self._store, self._backup, part, self._key) as source:
            for piece in raw_rows(source, is_wanted):
                file.write(piece)
        file.seek(0)
        return cast("IO[bytes]", file)

    def _take(self, statement: bytes, rows: Iterator[bytes]) -> None:
        found = COPY.fullmatch(statement)
        schema, table = (_bare(word) for word in found.groups()[:2]) if found else ("", "")
        names = [_bare(name) for name in found[3].split(b", ")] if found else []
        if schema == self._schema and table == OF_SERVER[0]:
            self._learn_providers(names, rows)
        elif schema == self._schema and table in self.left:
            chosen = self._filter(table)
            if chosen is not None:
                pieces = rows if chosen.everything else _chosen(rows, names, chosen)
                self._staging.load(table, names, TEXT, pieces)
                self.left.discard(table)
                self._resolve()
                self._begin_rows()
        for _ in rows:
            pass

    def _learn_providers(self, names: list[str], rows: Iterator[bytes]) -> None:
        for line in _lines(rows):
            fields = dict(zip(names, map(bytes.decode, line.split(b"\t")), strict=True))
            self.providers[fields["id"]] = fields["name"]
            if fields.get("organization_id", NULL) == NULL != fields.get("base_url", NULL):
                self.urls[fields["name"]] = fields["base_url"]

    def _resolve(self) -> None:
        """Find out which agents are wanted, as soon as that can be told."""
        if self.agents or self.left & set(FIRST):
            return
        model, link = self._in_place, self._staging.link
        self.agents = with_members(link, model, find_agents(link, model, self._wanted))

    def _filter(self, table: str) -> _Filter | None:
        """Which rows of a table to take; None where that can't be told yet."""
        if table in FIRST or self._sizes[table] <= LIGHT:
            return _Filter(everything=True)
        return self._by_keys(table) if self.agents else None

    def _by_keys(self, table: str) -> _Filter | None:
        """By the values of the keys that lead to it: of what is content, one of them is enough here."""
        model = self._in_place
        closure = Closure(self._staging.link, model, self.agents)
        links = closure.ways(table)
        if model.roles[table] is Role.CONTENT:
            links = [link for link in links if not link.nullable][:1] or links
        chosen = _Filter()
        for link in links:
            points = link.child == table
            other = link.parent if points else link.child
            if closure.needs(other) & self.left:
                return None
            column = _bare(link.columns[0].encode()) if points else link.keys[0]
            chosen.columns.setdefault(column, set()).update(self._keys(closure, link, table))
        return chosen

    def _keys(self, closure: Closure, link: Link, table: str) -> Iterable[bytes]:
        """What the wanted rows at the other end of a link of `table` say."""
        from psycopg import sql

        points = link.child == table
        column = sql.Identifier(link.keys[0]) if points else sql.SQL(link.columns[0])
        query = sql.SQL("SELECT DISTINCT ({})::text {}").format(
            column, closure.rows(link.parent if points else link.child)
        )
        rows = self._staging.link.execute(query)
        return [row[0].encode() for row in rows if row[0] is not None]


def memories_in(store: Store, backup: Backup, key: Key, wanted: Callable[[str], bool]) -> Memories:
    """Git memory of the agents `wanted` (ids), where the backup has some. Raises LettaOpsError."""
    memory = backup.manifest.memory
    if not memory.repositories or backup.manifest.part(MEMORY) is None:
        return Memories()
    with opened_part(store, backup, MEMORY, key) as source:
        found = split(source.read, wanted)
        for _ in chunks_of(source):
            pass  # to its end, where it is compared with the manifest
    return found


def _chosen(rows: Iterable[bytes], names: Sequence[str], chosen: _Filter) -> Iterator[bytes]:
    """The lines of COPY's text with one of the values in one of the columns."""
    places = [(names.index(name), values) for name, values in chosen.columns.items()]
    if sum(len(values) for _, values in places) <= SEARCHED:
        needles = [value for _, values in places for value in values]
        search: Callable[[bytes], object] = re.compile(b"|".join(map(re.escape, needles))).search
    else:
        search = _always
    for block in _blocks(rows):
        if not search(block):
            continue  # most blocks of a large table have nothing of these agents
        found = []
        for line in block.splitlines(keepends=True):
            fields = line[:-1].split(b"\t")
            if any(fields[place] in values for place, values in places):
                found.append(line)
        if found:
            yield b"".join(found)


NULL = "\\N"  # as COPY writes it
SEARCHED = 50  # more values than these are not looked for block by block


def _always(_: bytes) -> bool:
    return True


def _blocks(rows: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines, many at a time."""
    rest = b""
    for piece in rows:
        head, end, tail = (rest + piece).rpartition(b"\n")
        if end:
            yield head + end
        rest = tail
    if rest:
        yield rest


def _lines(rows: Iterable[bytes]) -> Iterator[bytes]:
    for block in _blocks(rows):
        yield from block.splitlines()


def _bare(word: bytes) -> str:
    """A name without the quotes that it may have."""
    text = word.decode()
    return text[1:-1].replace('""', '"') if text.startswith('"') else text
