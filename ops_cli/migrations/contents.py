"""Is everything still there after a migration? Two databases, compared by what both can hold.

Each table is read once on each side: the columns that both have, as one digest of its rows, whatever
their order (`backups.contents`). Only where that differs, each column is looked at by itself. So every
row of every table counts: agents, blocks and what they are attached to, messages of each agent and
conversation, ids in context, passages with their vectors, tools, identities. What a revision is known to
change is explained by it (`known_changes`); anything else is a failure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from backups.contents import COLUMNS, DIGEST, column_form, settle
from ops_cli.migrations.known_changes import KnownChange

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

TABLES = """
SELECT c.relname, c.oid FROM pg_class c WHERE c.relnamespace = %s::regnamespace
AND c.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM pg_depend d
  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY pg_table_size(c.oid) DESC, 1
"""
KEY = """
SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
AND a.attnum = ANY(i.indkey) WHERE i.indrelid = %s AND i.indisprimary ORDER BY a.attname
"""
REVISION = "alembic_version"  # what a migration is there to change
# What people ask for, and what it is called.
COUNTED = {
    "agents": "agents",
    "block": "blocks",
    "messages": "messages",
    "archival_passages": "passages",
    "sources": "sources",
    "tools": "tools",
    "identities": "identities",
}


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was: of a table, or of one of its columns.

    `revision` and `why`: which migration is known to change it; None where nothing is.
    """

    table: str
    column: str | None
    what: str
    revision: str | None = None
    why: str | None = None

    @property
    def explained(self) -> bool:
        return self.revision is not None

    def __str__(self) -> str:
        name = self.table if self.column is None else f"{self.table}.{self.column}"
        because = f" ({self.revision}: {self.why})" if self.explained else ""
        return f"{name} {self.what}{because}"


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what differs. `counts` is of what people ask for, after it."""

    tables: int
    rows: int
    counts: dict[str, int]
    differences: tuple[Difference, ...]

    @property
    def unexplained(self) -> tuple[Difference, ...]:
        return tuple(each for each in self.differences if not each.explained)

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": not self.unexplained,
            "tables": self.tables,
            "rows": self.rows,
            "counts": self.counts,
            "differences": [asdict(each) for each in self.differences],
        }


@dataclass(frozen=True)
class Side:
    """A database on one side: its sessions (one works at a table at a time), and Letta's schema."""

    links: Sequence[psycopg.Connection[Any]]
    schema: str


@dataclass(frozen=True)
class _Column:
    """A column, and the forms in which its values can be compared."""

    name: str
    kind: tuple[str, str]  # type and its schema
    form: sql.Composable


def compare_contents(before: Side, after: Side, known: Collection[KnownChange]) -> Comparison:
    """Compare what `before` holds with what is left of it in `after`. Raises psycopg.Error.

    Rows and tables that are new are none of its business, but for tables that were there.
    """
    old, new = _tables(before), _tables(after)
    shared = [name for name in old if name in new and name != REVISION]
    found: list[Difference] = [Difference(name, None, "is gone") for name in old if name not in new]
    lanes = list(zip(before.links, after.links, strict=True))
    for each in (*before.links, *after.links):
        settle(each)
    with ThreadPoolExecutor(len(lanes)) as pool:
        shares = pool.map(
            lambda number: [
                _compared(lanes[number], (before.schema, after.schema), name, old[name], new[name])
                for name in shared[number :: len(lanes)]
            ],
            range(len(lanes)),
        )
        results = {name: result for share in shares for name, result in share}
    rows = {name: count for name, (count, _) in results.items()}
    found += [each for name in shared for each in results[name][1]]
    return Comparison(
        len(shared),
        sum(rows.values()),
        counts_of(rows),
        tuple(_explained(each, known) for each in found),
    )


def counts_of(rows: Mapping[str, int]) -> dict[str, int]:
    """Of the rows by table, what people ask for, by what it is called."""
    return {words: rows[name] for name, words in COUNTED.items() if name in rows}


def _tables(side: Side) -> dict[str, int]:
    return dict(side.links[0].execute(TABLES, [side.schema]).fetchall())


def _compared(
    links: tuple[psycopg.Connection[Any], psycopg.Connection[Any]],
    schemas: tuple[str, str],
    name: str,
    old: int,
    new: int,
) -> tuple[str, tuple[int, list[Difference]]]:
    """The name, its rows afterwards, and what differs."""
    columns = (_columns(links[0], old), _columns(links[1], new))
    gone = [
        Difference(name, column, "is gone") for column in columns[0] if column not in columns[1]
    ]
    both = [column for column in columns[0] if column in columns[1]]
    forms = [_forms(columns[0][column], columns[1][column]) for column in both]
    sides = [
        _digest(link, schema, name, [form[side] for form in forms])
        for side, (link, schema) in enumerate(zip(links, schemas, strict=True))
    ]
    found = [*gone]
    if sides[0][0] != sides[1][0]:
        found.append(Difference(name, None, f"had {sides[0][0]} rows, and has {sides[1][0]}"))
    elif sides[0] != sides[1]:
        key = [column for (column,) in links[0].execute(KEY, [old]) if column in both]
        found += _by_column(links, schemas, name, dict(zip(both, forms, strict=True)), key)
    return name, (sides[1][0], found)


def _by_column(
    links: tuple[psycopg.Connection[Any], psycopg.Connection[Any]],
    schemas: tuple[str, str],
    name: str,
    forms: dict[str, tuple[sql.Composable, sql.Composable]],
    key: list[str],
) -> Iterator[Difference]:
    """Which columns differ: each together with the key of its row, where there is one."""
    told = False
    for column, form in forms.items():
        sides = []
        for side, (link, schema) in enumerate(zip(links, schemas, strict=True)):
            together = [*(forms[each][side] for each in key if each != column), form[side]]
            values = _values(link, schema, name, column)
            sides.append((_digest(link, schema, name, together), values))
        if sides[0][0] != sides[1][0]:
            told = True
            yield Difference(
                name,
                column,
                "is not what it was"
                + (f": {sides[0][1]} values before, {sides[1][1]} after"
                   if sides[0][1] != sides[1][1] else ""),
            )  # fmt: skip
    if not told:  # each column by itself is the same: its rows were mixed
        yield Difference(name, None, "has other rows than it had")


def _columns(link: psycopg.Connection[Any], oid: int) -> dict[str, _Column]:
    return {
        row[0]: _Column(row[0], (row[1], row[2]), column_form(*row))
        for row in link.execute(COLUMNS, [oid])
    }


def _forms(old: _Column, new: _Column) -> tuple[sql.Composable, sql.Composable]:
    """Both in one form: of a column that has changed its type, as text."""
    from psycopg import sql

    if old.kind == new.kind:
        return old.form, new.form
    text = sql.SQL("{}::text").format(sql.Identifier(old.name))
    return text, text


def _digest(
    link: psycopg.Connection[Any], schema: str, name: str, forms: Sequence[sql.Composable]
) -> tuple[int, Any, Any]:
    from psycopg import sql

    query = sql.SQL(
        f"SELECT count(*), {DIGEST}"  # noqa: S608  # a constant
        " FROM (SELECT md5(record_send(ROW({forms}))) AS h FROM ONLY {table} OFFSET 0) AS hashed"
    ).format(forms=sql.SQL(", ").join(forms), table=sql.Identifier(schema, name))
    row = link.execute(query).fetchone()
    assert row is not None  # noqa: S101  # an aggregate
    return row[0], row[1], row[2]


def _values(link: psycopg.Connection[Any], schema: str, name: str, column: str) -> int:
    """How many are neither missing nor empty."""
    from psycopg import sql

    query = sql.SQL("SELECT count(*) FROM ONLY {} WHERE nullif({}::text, '') IS NOT NULL").format(
        sql.Identifier(schema, name), sql.Identifier(column)
    )
    row = link.execute(query).fetchone()
    return int(row[0]) if row else 0


def _explained(difference: Difference, known: Collection[KnownChange]) -> Difference:
    for each in known:
        if each.explains(difference.table, difference.column):
            return Difference(
                difference.table, difference.column, difference.what, each.revision, each.why
            )
    return difference
