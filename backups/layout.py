"""Where things lie in a database: moving Letta's tables and the extension between schemas, and the
settings that belong to a database from one to another."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from backups.manifest import Properties
from infra.database.facts import find_pgvector, names_in

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

LETTA_OPS = "letta_ops"

# What of a schema can be moved by itself; the rest (indexes, row types, owned sequences) goes along.
# Routines first: they are named with their arguments' types, where those are now.
MOVABLE = """
SELECT 'ROUTINE', p.oid::regprocedure::text
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = %(schema)s
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
  AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
  WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, format('%%I.%%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
  AND (d.deptype = 'e' OR (c.relkind = 'S' AND d.deptype IN ('a', 'i'))))
UNION ALL
SELECT CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END,
  format('%%I.%%I', n.nspname, t.typname)
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE n.nspname = %(schema)s AND (t.typtype IN ('e', 'd', 'r', 'm') OR c.relkind = 'c')
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass
  AND d.objid = t.oid AND d.deptype = 'e')
"""
SETTINGS = """
SELECT r.rolname, unnest(s.setconfig) FROM pg_db_role_setting s
JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE d.datname = %s
"""
PROPERTIES = """
SELECT to_jsonb(d), t.spcname, d.datname FROM pg_database d
JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = current_database()
"""
LIMIT = "SELECT datconnlimit FROM pg_database WHERE datname = %s"
# What `CREATE DATABASE` calls what the catalog has in one letter.
PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
LOCALE_OPTIONS = {"i": "ICU_LOCALE", "b": "BUILTIN_LOCALE"}
GRANTS = """
SELECT coalesce(g.rolname, ''), a.privilege_type FROM pg_database d,
LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
LEFT JOIN pg_roles g ON g.oid = a.grantee
WHERE d.datname = %s AND a.grantee <> d.datdba
"""


def move_schema(link: psycopg.Connection[Any], source: str, target: str, owner: str) -> None:
    """Move everything in schema `source` to `target`, which is made when it isn't there."""
    from psycopg import sql

    link.execute(
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(
            sql.Identifier(target), sql.Identifier(owner)
        )
    )
    link.execute("SET search_path = pg_catalog")
    for kind, name in link.execute(MOVABLE, {"schema": source}).fetchall():
        query = sql.SQL("ALTER {} {} SET SCHEMA {}").format(
            sql.SQL(kind), sql.SQL(name), sql.Identifier(target)
        )
        link.execute(query)


def drop_empty(link: psycopg.Connection[Any], schema: str) -> None:
    """Drop a schema that everything was moved out of; one with something in it stays.

    One with the owner's name would be the first in the owner's search path: what migrations make from now
    on would come to lie there, and not beside the rest.
    """
    import psycopg
    from psycopg import sql

    with suppress(psycopg.errors.DependentObjectsStillExist):
        link.execute(sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(schema)))


def move_extension(link: psycopg.Connection[Any], target: str) -> None:
    """Put the extension where the target had it: its operators are looked for by the search path."""
    from psycopg import sql

    found = find_pgvector(link)
    if found is not None and found.schema != target:
        query = sql.SQL("ALTER EXTENSION vector SET SCHEMA {}").format(sql.Identifier(target))
        link.execute(query)


def read_properties(link: psycopg.Connection[Any]) -> Properties:
    """Read what belongs to the database at `link` itself."""
    ((found, tablespace, name),) = link.execute(PROPERTIES).fetchall()
    return Properties(
        found.get("datlocprovider", "c"),  # since PostgreSQL 15
        found["datcollate"],
        found["datctype"],
        found.get("datlocale", found.get("daticulocale")),  # its name before PostgreSQL 17
        found.get("daticurules"),
        tablespace,
        found["datconnlimit"],
        # A setting of an application's own may be a secret: a manifest lies in the clear.
        tuple(
            (role, assignment)
            for role, assignment in link.execute(SETTINGS, [name])
            if "." not in assignment.partition("=")[0]
        ),
    )


def creation(properties: Properties | None, tablespaces: Collection[str]) -> list[sql.Composable]:
    """What `CREATE DATABASE` is told so that a database is as it was: its locale and tablespace, and
    less and less of it, for a server that doesn't have that."""
    from psycopg import sql

    nothing: sql.Composable = sql.SQL("")
    if properties is None or properties.provider not in PROVIDERS:
        return [nothing]
    place = nothing
    # The default one is what it is without: to name it takes a right.
    if properties.tablespace in set(tablespaces) - {"pg_default"}:
        place = sql.SQL(" TABLESPACE {}").format(sql.Identifier(properties.tablespace))
    words = {
        "LC_COLLATE": properties.collate,
        "LC_CTYPE": properties.ctype,
        LOCALE_OPTIONS.get(properties.provider, ""): properties.locale,
        "ICU_RULES": properties.rules,
    }
    locale = sql.SQL(" LOCALE_PROVIDER {}").format(sql.Identifier(PROVIDERS[properties.provider]))
    for word, value in words.items():
        if word and value:
            locale += sql.SQL(" {} {}").format(sql.SQL(word), sql.Literal(value))
    return [locale + place, locale, nothing]


def copy_settings(link: psycopg.Connection[Any], source: str, target: str) -> None:
    """Give database `target` the settings (search path!), the grants and the limit of connections that
    `source` has. Raises psycopg.Error for what we may not set."""
    from psycopg import sql

    apply_settings(link, link.execute(SETTINGS, [source]).fetchall(), target)
    database = sql.Identifier(target)
    link.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    for role, privilege in link.execute(GRANTS, [source]).fetchall():
        grantee = sql.Identifier(role) if role else sql.SQL("PUBLIC")
        query = sql.SQL("GRANT {} ON DATABASE {} TO {}").format(
            sql.SQL(privilege), database, grantee
        )
        link.execute(query)
    (limit,) = link.execute(LIMIT, [source]).fetchone() or (-1,)
    link.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(database, limit))


def apply_settings(
    link: psycopg.Connection[Any], settings: Iterable[tuple[str | None, str]], target: str
) -> None:
    """Set what belongs to database `target`. Raises psycopg.Error for what we may not set."""
    from psycopg import sql

    for role, assignment in settings:
        name, _, value = assignment.partition("=")
        whom = (
            sql.SQL("DATABASE {}").format(sql.Identifier(target))
            if role is None
            else sql.SQL("ROLE {} IN DATABASE {}").format(
                sql.Identifier(role), sql.Identifier(target)
            )
        )
        # A search path is a list: as one literal it would be the name of one odd schema.
        values = names_in(value) if name in LISTS else [value]
        shown = sql.SQL(", ").join(sql.Literal(each) for each in values)
        query = sql.SQL("ALTER {} SET {} TO {}").format(
            whom, sql.Identifier(*name.split(".")), shown
        )
        link.execute(query)


def reach_extension(link: psycopg.Connection[Any], owner: str) -> None:
    """Let `owner`, who is connected to the database at `link`, find the extension by plain names."""
    from psycopg import sql

    found = find_pgvector(link)
    (path,) = link.execute("SELECT current_schemas(true)").fetchone() or ([],)
    if found is None or found.schema in path:
        return
    (setting,) = link.execute("SELECT current_setting('search_path')").fetchone() or ("",)
    names = sql.SQL(", ").join(map(sql.Literal, [*names_in(setting), found.schema]))
    query = sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path TO {}")
    link.execute(query.format(sql.Identifier(owner), sql.Identifier(link.info.dbname), names))


def reset_settings(link: psycopg.Connection[Any], name: str) -> None:
    """Take all settings of database `name` away, from a session in another one."""
    from psycopg import sql

    database = sql.Identifier(name)
    link.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(database))
    for role in {role for role, _ in link.execute(SETTINGS, [name]).fetchall()} - {None}:
        query = sql.SQL("ALTER ROLE {} IN DATABASE {} RESET ALL")
        link.execute(query.format(sql.Identifier(role), database))


def first_grants(link: psycopg.Connection[Any], name: str, reader: str) -> None:
    """Let nobody but the owner and `reader` connect to database `name`, which is new."""
    from psycopg import sql

    database = sql.Identifier(name)
    link.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    link.execute(
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, sql.Identifier(reader))
    )


# Settings whose value is a list of names, as pg_dump treats them (GUC_LIST_QUOTE).
LISTS = (
    "search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries",
    "shared_preload_libraries", "unix_socket_directories",
)  # fmt: skip
