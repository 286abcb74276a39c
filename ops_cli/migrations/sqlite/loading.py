"""The rows of a SQLite file -> a Postgres with the same schema, first beside its tables, where everything
that these would refuse is found; then into them, and compared.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from backups.archives.closure import KEYS, UNIQUE
from infra.errors import LettaOpsError
from infra.process import Report
from ops_cli.migrations.sqlite.values import LONE, Kind, RefusedError, converted

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

BESIDE = "letta_ops_staged"  # the schema
ROW = "letta_ops_row"  # a column: the row's number in SQLite
# Tables of SQLite that have no counterpart, and need none.
BOOKKEEPING = ("message_sequence", "alembic_version")
COLUMNS = """
SELECT c.relname, a.attname, coalesce(b.typname, t.typname), format_type(a.atttypid, a.atttypmod),
  CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4 THEN a.atttypmod - 4 END,
  (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
  a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type b ON b.oid = nullif(t.typbasetype, 0)
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
AND a.attgenerated = '' ORDER BY c.relname, a.attnum
"""
ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Problem:
    """Something that Postgres refuses, or that it would lose. `row` is its id, or its number in SQLite;
    `mend` is what is done with it where that was allowed (None: nothing can be)."""

    table: str
    row: str | None
    column: str | None
    why: str
    mend: str | None = None

    def __str__(self) -> str:
        name = self.table if self.column is None else f"{self.table}.{self.column}"
        whose = f" of {self.row}" if self.row else ""
        return f"{name}{whose} {self.why}" + (f": {self.mend}" if self.mend else "")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Column:
    name: str
    kind: Kind
    type: str  # with its modifiers
    not_null: bool
    default: str | None


@dataclass
class Loaded:
    """What was found. `rows` by table; `left_out` are rows that don't come along, `replaced` values in
    whose place something else does, as SQLite has them."""

    rows: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[dict[str, Any]] = field(default_factory=list)

    @property
    def refused(self) -> list[Problem]:
        return [each for each in self.problems if each.mend is None]


def load(
    source: sqlite3.Connection,
    link: psycopg.Connection[Any],
    schema: str,
    moment: dt.datetime,
    report: Report,
    *,
    mend: bool,
) -> Loaded:
    """Bring the rows of `source` into the tables of `schema`, which are emptied first.

    Where there is something that can't come along as it is, and `mend` is not said, nothing is loaded: it
    is what is returned. `moment` stands for those that were never written down. Raises LettaOpsError
    (`content-differs`), and psycopg.Error.
    """
    loading = _Loading(source, link, schema, moment, mend=mend)
    report(f"sqlite: reading {len(loading.tables)} tables")
    for table in loading.tables:
        loading.stage(table)
    loading.judge()
    found = loading.found
    if found.problems if not mend else found.refused:
        return found
    report(f"sqlite: {sum(found.rows.values())} rows of {len(found.rows)} tables go to Postgres")
    loading.put()
    report("sqlite: comparing every row")
    loading.compare()
    link.execute(f"DROP SCHEMA IF EXISTS {BESIDE} CASCADE")
    return found


class _Loading:
    """One file on its way. `tables` are those that both have."""

    def __init__(
        self,
        source: sqlite3.Connection,
        link: psycopg.Connection[Any],
        schema: str,
        moment: dt.datetime,
        *,
        mend: bool,
    ) -> None:
        self._source, self._link, self._schema = source, link, schema
        self._moment, self._mend = moment, mend
        self._links = link.execute(KEYS, [schema]).fetchall()
        self._unique = link.execute(UNIQUE, [schema]).fetchall()
        self._all = _columns(link, schema)
        self.found = Loaded()
        self._emptied: set[tuple[str, int, str]] = set()  # table, row, column
        self._gone: set[tuple[str, int]] = set()
        there = [
            row[0] for row in source.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        for table in there:
            if (
                table not in self._all
                and table not in BOOKKEEPING
                and not table.startswith("sqlite_")
            ):
                self._without_place(table, None, "count(*)", "rows that Letta has no table for")
        self._columns: dict[str, list[_Column]] = {}
        for table in self._all:
            if table in there and table not in BOOKKEEPING:
                self._columns[table] = list(self._shared(table, self._all[table]))
        self.tables = list(self._columns)

    # What both have

    def _shared(self, table: str, ours: Sequence[_Column]) -> Iterator[_Column]:
        theirs = {row[1] for row in self._source.execute(f"PRAGMA table_info({_name(table)})")}
        for column in sorted(theirs - {each.name for each in ours}):
            self._without_place(
                table, column, f"count({_name(column)})", "values that Letta has no place for"
            )
        count = self._source.execute(f"SELECT count(*) FROM {_name(table)}").fetchone()[0]
        for column in ours:
            if column.name in theirs:
                yield column
            elif column.not_null and column.default is None and count:
                why = "is not in the file, and must have a value: it is of a release before 0.11.7"
                self.found.problems.append(Problem(table, None, column.name, why))

    def _without_place(self, table: str, column: str | None, what: str, words: str) -> None:
        count = self._source.execute(f"SELECT {what} FROM {_name(table)}").fetchone()[0]
        if count:
            mend = "they stay behind, in the file" if self._mend else None
            self.found.problems.append(Problem(table, None, column, f"has {count} {words}", mend))

    # Beside the tables

    def stage(self, table: str) -> None:
        """Bring the rows of a table to where nothing is asked of them but the types of their values."""
        from psycopg import sql

        columns = self._columns[table]
        self._link.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(BESIDE)))
        parts = [
            sql.SQL("{} {}").format(_identifier(c.name), sql.SQL(c.kind.staged)) for c in columns
        ]
        self._link.execute(
            sql.SQL("CREATE TABLE {} ({})").format(
                _beside(table), sql.SQL(", ").join([sql.SQL(f"{ROW} bigint PRIMARY KEY"), *parts])
            )
        )
        count = 0
        copy = sql.SQL("COPY {} FROM STDIN").format(_beside(table))
        with self._link.cursor() as cursor, cursor.copy(copy) as rows:
            for number, values in self._rows(table, self.found.problems.append):
                rows.write_row([number, *map(_for_copy, values)])
                count += 1
        self._link.execute(sql.SQL("ANALYZE {}").format(_beside(table)))
        self.found.rows[table] = count

    def _rows(
        self, table: str, tell: Callable[[Problem], object]
    ) -> Iterator[tuple[int, list[Any]]]:
        """Yield each row's number and its values, as Postgres takes them; `tell` is told of others."""
        columns = self._columns[table]
        names = ", ".join(_name(column.name) for column in columns)
        for number, *values in self._source.execute(f"SELECT rowid, {names} FROM {_name(table)}"):
            yield (
                number,
                [
                    self._value(table, number, column, value, tell)
                    for column, value in zip(columns, values, strict=True)
                ],
            )

    def _value(
        self,
        table: str,
        number: int,
        column: _Column,
        value: Any,
        tell: Callable[[Problem], object],
    ) -> Any:
        try:
            return converted(value, column.kind, self._moment)
        except RefusedError as error:
            why, mended = str(error), self._mended(error.mended, column)
        except (ValueError, TypeError, OverflowError) as error:
            why, mended = f"is nothing that Postgres has: {error}", None
        mend = None
        if self._mend and mended is not None:
            mend = "what can be kept takes its place, and it is written down"
            if tell == self.found.problems.append:  # not when it is read to be compared
                was = {
                    "table": table,
                    "row": number,
                    "column": column.name,
                    "was": _for_json(value),
                }
                self.found.replaced.append(was)
        tell(Problem(table, self._id(table, number), column.name, why, mend))
        return mended

    def _mended(self, value: Any, column: _Column) -> Any:
        """None where that can't come along either."""
        try:
            return converted(value, column.kind, self._moment)
        except (ValueError, TypeError, OverflowError):
            return None

    def _id(self, table: str, number: int) -> str:
        names = {row[1] for row in self._source.execute(f"PRAGMA table_info({_name(table)})")}
        if "id" in names:
            query = f"SELECT id FROM {_name(table)} WHERE rowid = ?"
            return str(self._source.execute(query, [number]).fetchone()[0])
        return f"row {number}"

    # What the tables would refuse

    def judge(self) -> None:
        """Find what the constraints of the tables refuse; mend it, where that is allowed."""
        for table in self.tables:
            self._judge_empty(table)
            self._judge_double(table)
        while self._judge_links():
            pass  # what pointed at a row that is gone now

    def _judge_empty(self, table: str) -> None:
        from psycopg import sql

        for column in self._columns[table]:
            if not column.not_null:
                continue
            query = sql.SQL("SELECT {} FROM {} WHERE {} IS NULL").format(
                sql.SQL(ROW), _beside(table), _identifier(column.name)
            )
            for (number,) in self._link.execute(query).fetchall():
                self._leave_out(table, number, column.name, "has no value, and must have one")

    def _judge_double(self, table: str) -> None:
        from psycopg import sql

        there = {column.name for column in self._columns[table]}
        for of, keys, _, nulls_equal in self._unique:
            if of != table or not there.issuperset(keys):
                continue
            names = sql.SQL(", ").join(map(_identifier, keys))
            given = sql.SQL(" AND ").join(
                sql.SQL("{} IS NOT NULL").format(_identifier(each)) for each in keys
            )
            query = sql.SQL(
                "SELECT r FROM (SELECT {row} AS r, row_number()"
                " OVER (PARTITION BY {names} ORDER BY {row}) AS place FROM {table} WHERE {given}) x"
                " WHERE place > 1"
            ).format(
                row=sql.SQL(ROW), names=names, table=_beside(table),
                given=sql.SQL("true") if nulls_equal else given,
            )  # fmt: skip
            for (number,) in self._link.execute(query).fetchall():
                what = " and ".join(keys)
                self._leave_out(table, number, what, "is there twice, and may be only once")

    def _judge_links(self) -> bool:
        """Whether something was changed."""
        from psycopg import sql

        changed = False
        columns = {
            table: {each.name: each for each in self._columns[table]} for table in self.tables
        }
        for child, parent, names, keys, nullable in self._links:
            if child not in columns or not columns[child].keys() >= set(names):
                continue
            pairs = sql.SQL(" AND ").join(
                sql.SQL("p.{} = c.{}").format(_identifier(key), _identifier(name))
                for key, name in zip(keys, names, strict=True)
            )
            given = sql.SQL(" AND ").join(
                sql.SQL("c.{} IS NOT NULL").format(_identifier(name)) for name in names
            )
            missing = (
                sql.SQL("NOT EXISTS (SELECT FROM {} p WHERE {})").format(_beside(parent), pairs)
                if parent in columns
                else sql.SQL("true")
            )
            query = sql.SQL("SELECT c.{}, c.{} FROM {} c WHERE {} AND {}").format(
                sql.SQL(ROW), _identifier(names[-1]), _beside(child), given, missing
            )
            for number, value in self._link.execute(query).fetchall():
                why = f"points at {value} of {parent}, which is not there"
                mend = self._empty if nullable else self._leave_out
                changed |= mend(child, number, names[-1], why)
        return changed

    def _empty(self, table: str, number: int, column: str, why: str) -> bool:
        from psycopg import sql

        mend = "it points at nothing then" if self._mend else None
        self.found.problems.append(Problem(table, self._id(table, number), column, why, mend))
        if self._mend:
            self._emptied.add((table, number, column))
            self._link.execute(
                sql.SQL("UPDATE {} SET {} = NULL WHERE {} = %s").format(
                    _beside(table), _identifier(column), sql.SQL(ROW)
                ),
                [number],
            )
        return self._mend

    def _leave_out(self, table: str, number: int, column: str, why: str) -> bool:
        from psycopg import sql

        if (table, number) in self._gone:
            return False
        mend = "the row is left out, and written down" if self._mend else None
        self.found.problems.append(Problem(table, self._id(table, number), column, why, mend))
        if self._mend:
            self._gone.add((table, number))
            row = self._source.execute(f"SELECT * FROM {_name(table)} WHERE rowid = ?", [number])
            names = [each[0] for each in row.description]
            values = map(_for_json, row.fetchone())
            self.found.left_out.append({"table": table, **dict(zip(names, values, strict=True))})
            self.found.rows[table] -= 1
            self._link.execute(
                sql.SQL("DELETE FROM {} WHERE {} = %s").format(_beside(table), sql.SQL(ROW)),
                [number],
            )
        return self._mend

    # Into the tables

    def put(self) -> None:
        """Bring what was staged into the tables: whatever else they refuse is an error."""
        from psycopg import sql

        with self._link.transaction():
            # What points at what was looked at above, and the order of tables is nobody's business.
            self._link.execute("SET LOCAL session_replication_role = replica")
            for table in self._all:
                if table != "alembic_version":
                    self._link.execute(
                        sql.SQL("DELETE FROM {}").format(sql.Identifier(self._schema, table))
                    )
            for table, columns in self._columns.items():
                names = sql.SQL(", ").join(_identifier(each.name) for each in columns)
                values = sql.SQL(", ").join(map(_as_stored, columns))
                self._link.execute(
                    sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ORDER BY {}").format(
                        sql.Identifier(self._schema, table),
                        names,
                        values,
                        _beside(table),
                        sql.SQL(ROW),
                    )
                )
                for column in columns:
                    if column.default is not None and column.default.startswith("nextval("):
                        self._link.execute(
                            sql.SQL("SELECT setval({}, max({})) FROM {} HAVING max({}) > 0").format(
                                sql.SQL(column.default[len("nextval(") : -1]),
                                _identifier(column.name),
                                sql.Identifier(self._schema, table),
                                _identifier(column.name),
                            )
                        )

    def compare(self) -> None:
        """Read every row of both sides once more. Raises LettaOpsError (`content-differs`)."""
        for table, columns in self._columns.items():
            kinds = [column.kind.type for column in columns]
            before = _digest(self._kept(table), kinds)
            after = _digest(self._there(table), kinds)
            if before != after:
                raise LettaOpsError(
                    "content-differs",
                    f"{table} has {after[0]} rows in Postgres that are not the {before[0]} of the file;"
                    " nothing was changed",
                    "that is an error of letta-ops: tell its authors, with `letta-ops --version`",
                )

    def _kept(self, table: str) -> Iterator[list[Any]]:
        names = [column.name for column in self._columns[table]]
        for number, values in self._rows(table, lambda _: None):
            if (table, number) not in self._gone:
                yield [
                    None if (table, number, name) in self._emptied else value
                    for name, value in zip(names, values, strict=True)
                ]

    def _there(self, table: str) -> Iterator[Sequence[Any]]:
        from psycopg import sql

        columns = self._columns[table]
        read = sql.SQL(", ").join(map(_as_read, columns))
        query = sql.SQL("SELECT {} FROM {}").format(read, sql.Identifier(self._schema, table))
        with self._link.transaction():
            self._link.execute("SET LOCAL TIME ZONE 'UTC'")
            with self._link.cursor("letta_ops_rows", binary=True) as rows:
                rows.itersize = ROWS_AT_ONCE
                yield from rows.execute(query)


def _columns(link: psycopg.Connection[Any], schema: str) -> dict[str, list[_Column]]:
    found: dict[str, list[_Column]] = {}
    for table, name, kind, type_, length, words, not_null, default in link.execute(
        COLUMNS, [schema]
    ):
        shape = Kind(kind, length, tuple(words or ()))
        found.setdefault(table, []).append(_Column(name, shape, type_, not_null, default))
    return found


def _as_stored(column: _Column) -> sql.Composable:
    from psycopg import sql

    if column.kind.type == "timestamp":
        return sql.SQL("{} AT TIME ZONE 'UTC'").format(_identifier(column.name))
    return sql.SQL("{}::{}").format(_identifier(column.name), sql.SQL(column.type))


def _as_read(column: _Column) -> sql.Composable:
    """In the form that `converted` gives."""
    from psycopg import sql

    if column.kind.type == "timestamp":
        return sql.SQL("{} AT TIME ZONE 'UTC'").format(_identifier(column.name))
    form = "real[]" if column.kind.type == "vector" else column.kind.staged
    return sql.SQL("{}::{}").format(_identifier(column.name), sql.SQL(form))


def _digest(rows: Iterator[Sequence[Any]], kinds: Sequence[str]) -> tuple[int, int]:
    """How many rows there are, and a number that is the same for the same rows, whatever their order."""
    count = total = 0
    for row in rows:
        form = [_plain(value, kind) for value, kind in zip(row, kinds, strict=True)]
        total += int.from_bytes(hashlib.sha256(repr(form).encode()).digest()[:16], "big")
        count += 1
    return count, total


def _plain(value: Any, kind: str) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    if kind == "float4" and value is not None:
        return struct.unpack("f", struct.pack("f", value))
    if kind == "jsonb" and value is not None:  # which is not kept as it was written
        return json.dumps(json.loads(value), sort_keys=True)
    return value


def _for_copy(value: Any) -> Any:
    return f"[{','.join(map('%.9g'.__mod__, value))}]" if isinstance(value, list) else value


def _for_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, str) and LONE.search(value):
        return {"hex": value.encode("utf-8", "surrogateescape").hex()}
    return value


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _identifier(name: str) -> sql.Identifier:
    from psycopg import sql

    return sql.Identifier(name)


def _beside(table: str) -> sql.Identifier:
    from psycopg import sql

    return sql.Identifier(BESIDE, table)
