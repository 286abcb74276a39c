"""What a database says of itself: its version, and which of Letta's tables it holds where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    import psycopg


# At the end of the comment of what restores made or set aside, a database or a schema: nothing else is
# ever dropped.
MARK = "[kept by letta-ops]"
# The schemas with Letta's tables, but for those, and for tables of others that we may not read, or whose
# policies would run their code as us.
HOMES = f"""
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = 'alembic_version' AND c.relkind = 'r'
AND coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'::pg_catalog.name), '') NOT LIKE '%{MARK}'
AND (NOT c.relrowsecurity OR pg_catalog.pg_has_role(c.relowner, 'USAGE'::pg_catalog.text))
AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'::pg_catalog.text)
AND pg_catalog.has_table_privilege(c.oid, 'SELECT'::pg_catalog.text) ORDER BY n.nspname
"""  # noqa: S608  # a constant
PGVECTOR = (
    "SELECT e.extversion, n.nspname FROM pg_extension e"
    " JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
)


class Pgvector(NamedTuple):
    """The extension in one database: its version, and the schema of its types and operators."""

    version: str
    schema: str


@dataclass(frozen=True)
class Tables:
    """One set of Letta's tables: the schema that holds it, and its alembic revision."""

    schema: str
    revision: str | None


@dataclass(frozen=True)
class DatabaseFacts:
    """What a database says of itself. `tables` has those first that a plain name reaches.

    More than one set of tables is what is left of a restore that lost the search path: alembic
    took the database for empty, and built a second set beside the first.
    """

    name: str
    version: str
    pgvector: Pgvector | None
    tables: tuple[Tables, ...]

    @property
    def revision(self) -> str | None:
        return self.tables[0].revision if self.tables else None

    @property
    def schema(self) -> str | None:
        return self.tables[0].schema if self.tables else None


def database_facts(link: psycopg.Connection[Any]) -> DatabaseFacts:
    """Ask the database at the other end of `link` what it is and what it holds."""
    row = link.execute("SELECT current_database(), current_setting('server_version')").fetchone()
    name, version = cast(tuple[str, str], row)
    # "18.0 (Debian 18.0-1)": the packager's words are no part of the version.
    return DatabaseFacts(name, version.split()[0], find_pgvector(link), _tables(link))


def read_slots(link: psycopg.Connection[Any], *names: str, active: bool | None = None) -> list[str]:
    """The slots of logical replication of databases, by their names; `active`: that are read from, or
    that aren't."""
    query = (
        "SELECT slot_name FROM pg_replication_slots WHERE database = ANY(%s)"
        " AND active = coalesce(%s, active) ORDER BY 1"
    )
    return [slot for (slot,) in link.execute(query, [list(names), active])]


def find_pgvector(link: psycopg.Connection[Any]) -> Pgvector | None:
    row = link.execute(PGVECTOR).fetchone()
    return None if row is None else Pgvector(*row)


def is_plain_table(link: psycopg.Connection[Any], schema: str, name: str) -> bool:
    """Whether reading from it runs nobody's code: a view would."""
    query = (
        "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND c.relkind = 'r'"
    )
    return link.execute(query, [schema, name]).fetchone() is not None


def _in_order(link: psycopg.Connection[Any]) -> list[str]:
    """The schemas with Letta's tables: in the order of the search path that a new session has here, also
    where this one has another."""
    rows = link.execute(HOMES).fetchall()
    names = _search_path(link)
    return sorted(
        (schema for (schema,) in rows),
        key=lambda schema: names.index(schema) if schema in names else len(names),
    )


def first_schema(link: psycopg.Connection[Any]) -> str | None:
    """The first schema of the search path that a new session has here, of those that are there."""
    there = {name for (name,) in link.execute("SELECT nspname FROM pg_namespace")}
    return next((name for name in _search_path(link) if name in there), None)


def _search_path(link: psycopg.Connection[Any]) -> list[str]:
    """That of a new session here, whatever this one has."""
    row = link.execute(
        "SELECT reset_val, current_user FROM pg_settings WHERE name = 'search_path'"
    ).fetchone()
    path, user = row or ("", "")
    return [user if name == "$user" else name for name in names_in(path)]


def names_in(text: str) -> list[str]:
    """The names in a list as Postgres keeps it: "$user", public."""
    found = re.findall(r'"((?:[^"]|"")*)"|([^",\s]+)', text)
    return [plain or quoted.replace('""', '"') for quoted, plain in found]


def _tables(link: psycopg.Connection[Any]) -> tuple[Tables, ...]:
    from psycopg import sql

    found = []
    for schema in _in_order(link):
        table = sql.Identifier(schema, "alembic_version")
        row = link.execute(sql.SQL("SELECT version_num FROM {}").format(table)).fetchone()
        found.append(Tables(schema, row[0] if row else None))
    return tuple(found)
