"""Rows of tables with vectors, which go past pg_dump: by COPY, in Postgres' binary form.

pg_dump writes text only, and 4,096 numbers as text are most of the work of a backup and of its
restore. The form: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backups.contents import OF_PGVECTOR, OWN
from backups.stores.store import Source
from backups.streams import chunks_of, joined

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

# Of type `t`: whether its binary form means the same in every database. It names types, and what a
# value refers to, by numbers: only those of Postgres' own types are the same everywhere.
PORTABLE = """
(t.oid < 16384 AND t.typtype = 'b' AND t.typsend <> 0 AND t.typname !~ '^_?(reg|oid|aclitem)')
"""
SIGNATURE = b"PGCOPY\n\xff\r\n\0"
# Of those that are counted, and whose every value has a form that means the same in every
# database: that of an enumeration is its word. In a manifest the name of a table follows the first
# dot: a schema with one in its name can't be told from it.
WITH_VECTORS = f"""
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {OWN} AND n.nspname !~ '[.]' AND (%(only)s::oid[] IS NULL OR c.oid = ANY(%(only)s::oid[]))
AND EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attgenerated = ''
  AND {OF_PGVECTOR})
AND NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  AND NOT ({PORTABLE} OR t.typtype = 'e' OR {OF_PGVECTOR}))
ORDER BY 1, 2
"""  # noqa: S608  # a constant
# By name, as binary rows bring none: a column's place depends on how its table came to be.
COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = format('%%I.%%I', %s::text, %s::text)::regclass
AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attname
"""


@dataclass(frozen=True)
class TableName:
    """A table by its schema and name; as text it is what a manifest calls it."""

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str) -> TableName:
        schema, _, name = text.partition(".")
        return cls(schema, name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def pattern(self) -> str:
        """What pg_dump's options call this table alone."""
        return ".".join('"{}"'.format(word.replace('"', '""')) for word in (self.schema, self.name))


def tables_with_vectors(
    link: psycopg.Connection[Any], only: list[int] | None = None
) -> tuple[TableName, ...]:
    """`only`: of those with these numbers."""
    return tuple(TableName(*row) for row in link.execute(WITH_VECTORS, {"only": only}))


def read_rows(link: psycopg.Connection[Any], table: TableName) -> Iterator[bytes]:
    """Yield all rows of `table`. Raises psycopg.Error."""
    query = _copy(link, table, "TO STDOUT")
    with link.cursor() as cursor, cursor.copy(query) as rows:
        yield from joined(rows)  # each comes by itself


def write_rows(link: psycopg.Connection[Any], table: TableName, chunks: Iterable[bytes]) -> None:
    """Put rows into `table`: all, or none. Raises psycopg.Error, and what `chunks` raises."""
    query = _copy(link, table, "FROM STDIN")
    with link.cursor() as cursor, cursor.copy(query) as rows:
        for chunk in chunks:
            rows.write(chunk)


def count_rows(source: Source) -> int:
    """Read rows to their end and return how many there were; raises ValueError for anything else."""
    reader = _Reader(source)
    if reader.take(len(SIGNATURE)) != SIGNATURE:
        raise ValueError("it does not begin like rows")
    reader.number(4)
    reader.skip(reader.number(4))
    rows = 0
    while (fields := reader.number(2)) != -1:
        for _ in range(fields):
            reader.skip(max(0, reader.number(4)))
        rows += 1
    if not reader.at_end():
        raise ValueError("there is something behind its end")
    return rows


def raw_rows(
    source: Source, is_wanted: Callable[[Sequence[bytes | None]], bool]
) -> Iterator[bytes]:
    """Yield rows again, in the same form, but only those whose fields are wanted; reads to the end.

    Raises ValueError for anything else.
    """
    reader = _Reader(source)
    start = reader.take(len(SIGNATURE) + 4)
    if not start.startswith(SIGNATURE):
        raise ValueError("it does not begin like rows")
    extension = reader.number(4)
    yield start + struct.pack(">i", extension) + reader.take(extension)
    while (count := reader.number(2)) != -1:
        fields: list[bytes | None] = []
        for _ in range(count):
            size = reader.number(4)
            fields.append(None if size < 0 else reader.take(size))
        if is_wanted(fields):
            yield struct.pack(">h", count) + b"".join(map(_field, fields))
    yield struct.pack(">h", -1)
    if not reader.at_end():
        raise ValueError("there is something behind its end")


def _field(data: bytes | None) -> bytes:
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


class _Reader:
    """Numbers and fields out of a stream. Raises ValueError when it ends too early."""

    FORMATS = {2: struct.Struct(">h"), 4: struct.Struct(">i")}  # noqa: RUF012

    def __init__(self, source: Source) -> None:
        self._chunks = chunks_of(source)
        self._data = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        while len(self._data) - self._at < size:
            self._more()
        self._at += size
        return self._data[self._at - size : self._at]

    def skip(self, size: int) -> None:
        while len(self._data) - self._at < size:
            size -= len(self._data) - self._at
            self._at = len(self._data)
            self._more()
        self._at += size

    def number(self, size: int) -> int:
        (found,) = self.FORMATS[size].unpack(self.take(size))
        return int(found)

    def at_end(self) -> bool:
        return self._at == len(self._data) and next(self._chunks, None) is None

    def _more(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise ValueError("it is cut")
        self._data, self._at = self._data[self._at :] + chunk, 0


def _copy(link: psycopg.Connection[Any], table: TableName, where: str) -> sql.Composed:
    from psycopg import sql

    columns = link.execute(COLUMNS, [table.schema, table.name]).fetchall()
    return sql.SQL("COPY {} ({}) " + where + " (FORMAT binary)").format(
        sql.Identifier(table.schema, table.name),
        sql.SQL(", ").join(sql.Identifier(name) for (name,) in columns),
    )
