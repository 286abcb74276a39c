"""What is in a schema, and moving it: of schemas that restores make, and of the one that serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backups.requalify import quoted
from backups.rights import grantee_of
from backups.scope import OURS, Names, Own
from infra.database.facts import MARK, is_plain_table

if TYPE_CHECKING:
    import psycopg

MAY_LOOK = """
SELECT DISTINCT coalesce(g.rolname, '') FROM pg_namespace n, aclexplode(n.nspacl) x
LEFT JOIN pg_roles g ON g.oid = x.grantee WHERE n.nspname = %s AND x.grantee <> n.nspowner
"""
ALL = """
SELECT 'pg_class', c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'S')
UNION ALL SELECT 'pg_type', t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = %(schema)s AND t.typtype = 'e'
"""
# Indexes, row types and the sequences of columns go along with their tables.
MOVED = """
SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.relname FROM pg_class c
WHERE c.oid = ANY(%(relations)s::oid[]) AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d
  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
UNION ALL SELECT 'TYPE', typname FROM pg_type WHERE oid = ANY(%(types)s::oid[])
"""
# What is in a schema besides what is Letta's and ours, and what belongs to that.
STRANGERS = """
SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = to_regnamespace(%(quoted)s)
AND NOT (coalesce(c.relname, t.typname, '') = ANY(%(known)s)
  AND pg_has_role(coalesce(c.relowner, t.typowner), 'USAGE'))
AND NOT EXISTS (SELECT FROM pg_depend p WHERE p.classid = d.classid AND p.objid = d.objid
  AND p.deptype IN ('a', 'i')) ORDER BY 1
"""
# What of the restored tables refers to live ones: nothing may.
STRAY = """
SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d
LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
LEFT JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
WHERE coalesce(a.adrelid, c.conrelid, i.indrelid, d.objid) = ANY(%(made)s::oid[])
AND d.refobjid = ANY(%(live)s::oid[])
"""


def make_schema(link: psycopg.Connection[Any], name: str) -> None:
    """Make one that nobody else may look into, and mark it. Raises psycopg.Error."""
    from psycopg import sql

    schema = sql.Identifier(name)
    link.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    # What default privileges say is for what serves.
    for (grantee,) in link.execute(MAY_LOOK, [name]).fetchall():
        revoke = sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}")
        link.execute(revoke.format(schema, grantee_of(grantee)))
    mark(link, name)


def moved(link: psycopg.Connection[Any], own: Own) -> list[tuple[str, str]]:
    """Kind and name of what moves by itself."""
    return link.execute(MOVED, own.parameters).fetchall()


def strangers_in(link: psycopg.Connection[Any], name: str) -> list[str]:
    """What is in a schema of ours that no restore has put there, in words."""
    known = Names.known()
    asked = {"quoted": quoted(name), "known": [*known.relations, *known.types, *OURS]}
    return [what for (what,) in link.execute(STRANGERS, asked)]


def references(link: psycopg.Connection[Any], made: Own, live: Own) -> list[str]:
    """What of `made` refers to something of `live`, in words."""
    asked = {"made": made.relations, "live": [*live.relations, *live.types]}
    return [what for (what,) in link.execute(STRAY, asked)]


def lock(link: psycopg.Connection[Any], own: Own) -> None:
    """Keep everybody from the tables to the end of the transaction. Raises psycopg.Error."""
    from psycopg import sql

    query = """
        SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = ANY(%s::oid[]) AND c.relkind = 'r' ORDER BY 1, 2
    """
    names = [sql.Identifier(*row) for row in link.execute(query, [own.relations])]
    if names:
        link.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(", ").join(names))
        )


def mark(link: psycopg.Connection[Any], name: str) -> None:
    """Say that a schema is one of ours: see `MARK`."""
    from psycopg import sql

    link.execute(
        sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(name), sql.Literal(MARK))
    )


def revision_in(link: psycopg.Connection[Any], schema: str) -> str | None:
    """The alembic revision of the tables in a schema."""
    from psycopg import sql

    if not is_plain_table(link, schema, "alembic_version"):
        return None
    table = sql.Identifier(schema, "alembic_version")
    row = link.execute(sql.SQL("SELECT version_num FROM {}").format(table)).fetchone()
    return None if row is None else str(row[0])


def all_in(link: psycopg.Connection[Any], schema: str) -> Own:
    """All that is in a schema which a restore has made."""
    return Own.of(link.execute(ALL, {"schema": schema}))


def move(link: psycopg.Connection[Any], own: Own, source: str, target: str) -> None:
    """Move tables, sequences and types from one schema to another. Raises psycopg.Error."""
    from psycopg import sql

    for kind, name in moved(link, own):
        move = sql.SQL("ALTER {} {} SET SCHEMA {}")
        link.execute(
            move.format(sql.SQL(kind), sql.Identifier(source, name), sql.Identifier(target))
        )
