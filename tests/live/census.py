"""What a database holds besides rows: whose everything is, who may do what, and how it is defined."""

from __future__ import annotations

from typing import Any

import psycopg

OWN = (
    "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
    " AND n.nspname !~ '^letta_(ops|restoring|previous|older|undone)'"
)
# Of everything that is not Postgres' own: whose it is, who may do what, and how it is defined.
CENSUS = (
    "SELECT 'database owner', pg_get_userbyid(datdba) FROM pg_database WHERE datname = %(name)s",
    (
        "SELECT nspname, pg_get_userbyid(nspowner), nspacl::text, obj_description(oid, 'pg_namespace')"
        " FROM pg_namespace n WHERE {own}"
    ),
    (
        "SELECT n.nspname, relname, relkind, pg_get_userbyid(relowner), relacl::text, relrowsecurity,"
        " relforcerowsecurity FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE {own} AND relkind <> 'i'"
    ),
    (
        "SELECT c.oid::regclass::text, attname, attacl::text FROM pg_attribute a JOIN pg_class c"
        " ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE {own}"
        " AND attacl IS NOT NULL"
    ),
    (
        "SELECT p.oid::regprocedure::text, pg_get_userbyid(proowner), proacl::text, prosrc, prosecdef,"
        " obj_description(p.oid, 'pg_proc') FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace"
        " WHERE {own} AND p.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid"
        " AND d.deptype = 'e')"
    ),
    (
        "SELECT polname, polrelid::regclass::text, polroles::regrole[]::text,"
        " pg_get_expr(polqual, polrelid), obj_description(oid, 'pg_policy') FROM pg_policy"
    ),
    (
        "SELECT defaclrole::regrole::text, defaclnamespace::regnamespace::text, defaclobjtype,"
        " defaclacl::text FROM pg_default_acl"
    ),
    (
        "SELECT evtname, evtevent, evttags::text, evtfoid::regprocedure::text, evtenabled,"
        " pg_get_userbyid(evtowner), obj_description(oid, 'pg_event_trigger') FROM pg_event_trigger"
    ),
    (
        "SELECT pubname, puballtables, pubinsert, pubupdate, (SELECT array_agg(prrelid::regclass::text"
        " ORDER BY prrelid::regclass::text)"
        " FROM pg_publication_rel WHERE prpubid = p.oid) FROM pg_publication p"
    ),
    (
        "SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace"
    ),
    (
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index i JOIN pg_class c"
        " ON c.oid = indexrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE {own}"
    ),
    (
        "SELECT c.oid::regclass::text, pg_get_viewdef(c.oid), reloptions::text,"
        " obj_description(c.oid, 'pg_class') FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = relnamespace WHERE {own} AND relkind IN ('v', 'm')"
    ),
    (
        "SELECT tgrelid::regclass::text, pg_get_triggerdef(t.oid), tgenabled,"
        " obj_description(t.oid, 'pg_trigger') FROM pg_trigger t WHERE NOT tgisinternal"
    ),
    "SELECT pg_get_statisticsobjdef(oid), stxowner::regrole::text FROM pg_statistic_ext",
    "SELECT * FROM pg_publication_tables",
    (
        "SELECT conrelid::regclass::text, conname, obj_description(k.oid, 'pg_constraint')"
        " FROM pg_constraint k JOIN pg_namespace n ON n.oid = connamespace WHERE {own} AND contype = 'f'"
    ),
    "SELECT extname, extversion, extnamespace::regnamespace::text FROM pg_extension",
)


def taken(link: psycopg.Connection[Any], *rows: str) -> list[Any]:
    """A census of all but what is ours, with the answers to some queries more. What restores make and
    set aside is ours."""
    values = {"name": link.info.dbname}
    return [
        sorted(map(repr, link.execute(query.replace("{own}", OWN), values).fetchall()))
        for query in (*CENSUS, *rows)
    ]


def changes(before: list[Any], after: list[Any]) -> list[str]:
    """What is in one census and not in the other."""
    pairs = zip(before, after, strict=True)
    return [
        f"{sign} {line}"
        for old, new in pairs
        for sign, one, other in (("-", old, new), ("+", new, old))
        for line in one
        if line not in other
    ]
