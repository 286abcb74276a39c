"""Taking agents out of a live database: all that is theirs, and what is attached to nobody else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from backups.archives.closure import COMMON, Closure, Link, Model, Role

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql


def remove(link: psycopg.Connection[Any], model: Model, agents: list[str]) -> dict[str, int]:
    """Delete agents in the transaction of `link`; return the rows by table. What is everybody's stays.

    Raises psycopg.Error.
    """
    tables = mark(link, model, agents)
    return delete_marked(link, model, tables)


def mark(
    link: psycopg.Connection[Any],
    model: Model,
    agents: Sequence[str],
    stays: Mapping[str, sql.Composable] = MappingProxyType({}),
) -> list[str]:
    """Put what `remove` deletes into temporary tables (`marked`), parents first; return its tables.

    `stays` are conditions of rows, by table, that are left out with what is their content.
    """
    from psycopg import sql

    closure = Closure(link, model, agents)
    tables = [
        table
        for table in model.in_order()
        if model.roles[table] is not Role.SHARED and table not in COMMON
    ]
    for table in tables:
        rows = sql.SQL("{} AND NOT {} AND ({}) IS NOT TRUE AND {}").format(
            closure.rows(table),
            used_by_others(model, closure, table),
            stays.get(table, sql.SQL("false")),
            _with_parents(model, table, tables),
        )
        make_marks(link, model, table, rows)
    return tables


def make_marks(
    link: psycopg.Connection[Any], model: Model, table: str, rows: sql.Composable
) -> None:
    """Make `marked` of a table, for this transaction, with the keys of `rows` (FROM ...)."""
    from psycopg import sql

    link.execute(
        sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} {}").format(
            marked(table), mark_of(model, table), rows
        )
    )


def delete_marked(
    link: psycopg.Connection[Any], model: Model, tables: Sequence[str]
) -> dict[str, int]:
    """Delete the marked rows of `tables`, children first; return how many there were in each."""
    for table in tables:
        for column in deferred(model, table):
            link.execute(
                _of_gone("UPDATE {0} l SET {2} = NULL FROM {1} g WHERE ", model, table, column)
            )
    counts: dict[str, int] = {}
    for table in reversed(tables):
        done = link.execute(_of_gone("DELETE FROM {0} l USING {1} g WHERE ", model, table))
        if done.rowcount:
            counts[table] = done.rowcount
    return counts


def used_by_others(model: Model, closure: Closure, table: str) -> sql.Composable:
    """A condition of rows of `table`: that somebody points at them who is not of the closure."""
    from psycopg import sql

    if model.roles[table] is not Role.ATTACHED:
        return sql.SQL("false")
    ways = [
        sql.SQL(
            "({0}) IN (SELECT {1} FROM {2} WHERE ({3}) IS NOT TRUE AND ({1}) IS NOT NULL)"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, link.keys)),
            sql.SQL(", ").join(map(sql.SQL, link.columns)),
            model.table(link.child),
            closure.condition(link.child),
        )
        for link in model.of_parent(table)
        if model.roles.get(link.child) is Role.OWN
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(ways) if ways else sql.SQL("false"))


def content_links(model: Model, table: str) -> Iterator[Link]:
    """What says whose content the rows of a table are: links to what is attached."""
    below = (Role.ATTACHED, Role.CONTENT)
    if model.roles[table] in below:
        circular = _circular(model, table)
        yield from (
            link
            for link in model.of_child(table)
            if link.keyed
            and model.roles.get(link.parent) in below
            and link.columns[0] not in circular
        )


def deferred(model: Model, table: str) -> list[str]:
    """The columns of a table that point at what comes after it, in a circle."""
    return [column.strip('"') for column in _circular(model, table)]


def _circular(model: Model, table: str) -> list[str]:
    order = model.in_order()
    return [
        link.columns[0]
        for link in model.of_child(table)
        if link.keyed
        and link.nullable
        and link.parent in order
        and order.index(link.parent) > order.index(table)
    ]


def _with_parents(model: Model, table: str, tables: list[str]) -> sql.Composable:
    """That what the row is content of goes, too."""
    from psycopg import sql

    ways = [
        sql.SQL("({}) IN (SELECT {} FROM {})").format(
            sql.SQL(", ").join(map(sql.SQL, link.columns)),
            sql.SQL(", ").join(map(sql.Identifier, link.keys)),
            marked(link.parent),
        )
        for link in content_links(model, table)
        if link.parent in tables and not link.nullable
    ]
    return sql.SQL(" AND ").join(ways) if ways else sql.SQL("true")


def marked(table: str) -> sql.Identifier:
    """The temporary table with the keys of the rows of `table` that go."""
    from psycopg import sql

    return sql.Identifier("pg_temp", f"gone {table}")


def mark_of(model: Model, table: str) -> sql.Composed:
    """The columns of `marked`: what tells rows apart, and what others point at."""
    from psycopg import sql

    pointed_at = [key for link in model.of_parent(table) for key in link.keys]
    names = dict.fromkeys((*model.primary(table), *pointed_at))
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _of_gone(query: str, model: Model, table: str, column: str = "") -> sql.Composed:
    from psycopg import sql

    same = sql.SQL(" AND ").join(
        sql.SQL("l.{0} = g.{0}").format(sql.Identifier(key)) for key in model.primary(table)
    )
    named = sql.SQL(query).format(model.table(table), marked(table), sql.Identifier(column or "-"))
    return sql.Composed([named, same])
