"""Restoring a dump into schemas beside the live ones, by the owner of the tables alone.

What pg_restore would run is sent to the other schema statement by statement (`backups.requalify`); rows
come through it as well, since it knows the form of a dump, and go in by COPY.
"""

from __future__ import annotations

import re
from collections import ChainMap, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.catalog import Backup
from backups.contents import settle
from backups.dump_script import copies
from backups.layout import LETTA_OPS
from backups.loading import JOBS, TELLING, Dump, load
from backups.manifest import Part
from backups.opening import Key
from backups.parallel import Stop, concurrently
from backups.programs import Version
from backups.requalify import Homes, bare, name_at, requalified, statements, words_of
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
# Up to the name that a statement is about. That of an index is behind its own.
KINDS_OF_STATEMENT = tuple(
    re.compile(text)
    for text in (
        r"CREATE (UNLOGGED )?(TABLE|TYPE|SEQUENCE) ",
        r"ALTER TABLE (ONLY )?",
        r"ALTER (SEQUENCE|INDEX) ",
        r"COMMENT ON (TABLE|TYPE|COLUMN|SEQUENCE|INDEX) ",
        r"COPY ",
        r"SELECT pg_catalog \. setval \( ",
        r"CREATE (UNIQUE )?INDEX \S+ ON (ONLY )?",
    )
)


@dataclass(frozen=True)
class SideSchemas:
    """Where what a backup holds goes: Letta's to `tables`, our records to `records`; the extension's
    types are in `extension` here. `alone`: there are no live tables that say who sees what."""

    tables: str
    records: str
    extension: str | None
    alone: bool = False


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
    of_extension: dict[tuple[str, str], str]
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
        listing = entries(program, beginning, **TELLING)
        chosen = own_entries(listing, homes, with_security=side.alone)
        found = {}
        if side.extension and record.pgvector_schema:
            found = {(record.pgvector_schema, each): side.extension for each in OF_PGVECTOR}
        return cls(
            program,
            owner,
            owner,
            name,
            record,
            chosen,
            beginning,
            scratch,
            report,
            homes,
            found,
            side,
        )

    def define(self) -> None:
        script = self.script("--section=pre-data", only=self.entries)
        with self._session() as link:
            for statement in type_statements(self.record.types, self.side.tables):
                link.execute(statement)
            known = self.known_options(link, script, self.side.tables).decode(self._codec)
            for tokens in statements(known):
                self._learn_sequence(tokens)
            self._run(link, map(self._moved, self._own(known)))

    def load(self, chunks: Iterator[bytes]) -> None:
        with (
            self._session() as link,
            self.command("--section=data", "--file=-", only=self.entries, into=None) as job,
            filtered(job, chunks, **TELLING) as out,
        ):
            for script, rows in copies(chunks_of(out)):
                moved = [self._moved(each) for each in self._own(script.decode(self._codec))]
                if rows is None:
                    self._run(link, moved)
                elif moved:
                    with link.cursor() as cursor, cursor.copy(moved[0]) as copy:
                        for each in rows:
                            copy.write(each)
                else:
                    for _ in rows:
                        pass  # of a table with a name like one of ours
        for _ in chunks:
            pass  # pg_restore does not want it, but at its end it is compared with the manifest

    def table_of(self, part: Part) -> TableName | None:
        table = TableName.parse(str(part.table))
        home = self.homes.get((table.schema, table.name))
        return None if home is None else TableName(home, table.name)

    def finish(self) -> None:
        script = self.script("--section=post-data", only=self.entries).decode(self._codec)
        found = list(self._own(script))
        together = deque(self._moved(each) for each in found if _is_index(each))

        def work(stop: Stop) -> None:
            with self._session() as link:
                for statement in stop.ends(iter(partial(_next, together), None)):
                    link.execute(statement)

        assert JOBS == 2  # noqa: S101  # this thread and one beside it
        with concurrently(work) as stop:
            work(stop)
        with self._session() as link:
            for tokens in found:
                if not _is_index(tokens):
                    self._constrain(link, self._moved(tokens))

    def _constrain(self, link: psycopg.Connection[Any], statement: bytes) -> None:
        import psycopg

        try:
            link.execute(statement)
        except psycopg.errors.ForeignKeyViolation as error:
            # Of a key to a table of somebody else: its rows are not the backup's.
            link.execute(statement + b" NOT VALID")
            self.report(f"database: made NOT VALID: {str(error).strip().splitlines()[0]}")

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection[Any]]:
        from psycopg import sql

        with self.owner.connect(self.name) as link:
            settle(link)
            link.execute(
                sql.SQL(
                    "SET client_encoding TO {}; SET check_function_bodies TO off;"
                    " SET standard_conforming_strings TO on; SET maintenance_work_mem TO '256MB';"
                    " SET synchronous_commit TO off"
                ).format(sql.Literal(self.record.encoding))
            )
            yield link

    def _run(self, link: psycopg.Connection[Any], moved: Iterable[bytes]) -> None:
        if script := b";\n".join(moved):
            link.execute(script)

    def _own(self, script: str) -> Iterator[list[str]]:
        """The statements about what is ours; indexes become known by their names on the way.

        Raises LettaOpsError (`dump-forged`) for one that pg_dump writes about no table: it would run in
        the database in which others live.
        """
        for tokens in statements(script):
            words = words_of(tokens)
            # A session's settings are ours to make.
            if words[0] == "SET" or "".join(words[:4]) == "SELECTpg_catalog.set_config":
                continue
            about = _subject(words)
            if about is None:
                raise LettaOpsError(
                    "dump-forged",
                    "the dump holds a statement that pg_dump writes about no table:"
                    f" {' '.join(words[:6])}",
                    "nothing was replaced; use another backup, and find out who made this one",
                )
            if about in self.homes:
                if {"INHERITS", "ATTACH"} & set(words):
                    raise LettaOpsError(
                        "restore-failed",
                        f"{'.'.join(about)} was part of another table, which is not Letta's",
                        "restore this backup into a stack of its own (backup.scope: database)",
                    )
                if words[0] == "CREATE" and "INDEX" in words[:3]:
                    name = words[words.index("INDEX") + 1]
                    self.homes[about[0], bare(name)] = self.homes[about]
                yield tokens

    def _learn_sequence(self, tokens: list[str]) -> None:
        """Of one that belongs to a column of ours, its name says nothing."""
        words = words_of(tokens)
        head, text = words[:2], " ".join(words)
        subject = _subject(words)
        if subject is None:
            return
        if head == ["ALTER", "SEQUENCE"] and " OWNED BY " in text:
            owner = _named(words, words.index("BY") + 1)
            if owner in self.homes:
                self.homes[subject] = self.homes[owner]
        elif head == ["ALTER", "TABLE"] and " SEQUENCE NAME " in text and subject in self.homes:
            self.homes[_named(words, words.index("NAME") + 1)] = self.homes[subject]

    def _moved(self, tokens: list[str]) -> bytes:
        moved = requalified(tokens, Homes(ChainMap(self.homes, self.of_extension)))
        return moved.encode(self._codec)

    @property
    def _codec(self) -> str:
        return "utf-8" if self.record.encoding == "UTF8" else "latin-1"


def homes_of(schema: str, names: Names, side: SideSchemas) -> dict[tuple[str, str], str]:
    """Where what is Letta's in `schema`, and ours, goes."""
    return {
        **{(schema, name): side.tables for name in (*names.relations, *names.types)},
        **{(LETTA_OPS, name): side.records for name in OURS},
    }


def _subject(words: list[str]) -> tuple[str, str] | None:
    """What a statement is about, by schema and name; None: it is none of those that pg_dump writes about
    tables, types and sequences."""
    # A name in quotes may have blanks.
    text = " ".join("x" if word.startswith('"') else word for word in words[:10])
    if any(word.startswith("/*") for word in words):
        return None
    for kind in KINDS_OF_STATEMENT:
        if found := kind.match(text):
            return _named(words, len(found[0].split()))
    return None


def _named(words: list[str], at: int) -> tuple[str, str]:
    if words[at].startswith("'"):  # setval's
        (inside,) = statements(words[at][1:-1].replace("''", "'"))
        return _named(inside, 0)
    schema, name = name_at(words, at)
    return schema or "", name


def _is_index(tokens: list[str]) -> bool:
    """Whether a statement makes an index, or what makes one: several may be made at the same time."""
    words = words_of(tokens)
    if words[0] == "CREATE":
        return "INDEX" in words[:3]
    behind = words[words.index("CONSTRAINT") + 2 :] if "CONSTRAINT" in words else []
    return words[:2] == ["ALTER", "TABLE"] and behind[:1] in (["PRIMARY"], ["UNIQUE"], ["EXCLUDE"])


def _next(queue: deque[bytes]) -> bytes | None:
    try:
        return queue.popleft()
    except IndexError:
        return None
