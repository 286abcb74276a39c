"""What tables are besides rows and definitions: whose, and who may do what; read, and given to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backups.rights import grant, grantee_of
from backups.scope import Own

if TYPE_CHECKING:
    import psycopg

# Whose they are, and what identifies their rows to a subscriber.
OWNERS = """
SELECT c.relname, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.relowner::regrole::text,
  CASE WHEN c.relkind = 'r' THEN c.relreplident::text END
FROM pg_class c WHERE c.oid = ANY(%(relations)s::oid[]) AND NOT EXISTS (SELECT FROM pg_depend d
  WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid
  AND d.deptype IN ('a', 'i'))
UNION ALL SELECT t.typname, 'TYPE', t.typowner::regrole::text, NULL
FROM pg_type t WHERE t.oid = ANY(%(types)s::oid[])
"""
# What a table consists of besides rows.
PARTS = """
SELECT c.relname, 'column ' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.oid = ANY(%(relations)s::oid[]) AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT c.relname, 'index ' || x.relname FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid
JOIN pg_class x ON x.oid = i.indexrelid WHERE c.oid = ANY(%(relations)s::oid[])
UNION ALL SELECT c.relname, 'constraint ' || k.conname FROM pg_class c
JOIN pg_constraint k ON k.conrelid = c.oid WHERE c.oid = ANY(%(relations)s::oid[])
AND k.contype IN ('c', 'f', 'u', 'p', 'x')
"""
IDENTITIES = {"f": "FULL", "n": "NOTHING", "d": "DEFAULT"}
# Of relations, their columns and types, by name: as set, and with what it is where nothing is set.
ACLS = """
SELECT c.relname, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, NULL, c.relacl::text,
  coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))::text
FROM pg_class c WHERE c.oid = ANY(%(relations)s::oid[])
UNION ALL SELECT c.relname, 'TABLE', a.attname, a.attacl::text, a.attacl::text
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
WHERE c.oid = ANY(%(relations)s::oid[]) AND a.attacl IS NOT NULL
UNION ALL SELECT t.typname, 'TYPE', NULL, t.typacl::text,
  coalesce(t.typacl, acldefault('T', t.typowner))::text
FROM pg_type t WHERE t.oid = ANY(%(types)s::oid[])
"""
GRANTED = """
SELECT coalesce(g.rolname, ''), x.privilege_type, x.is_grantable
FROM aclexplode(%s::aclitem[]) x LEFT JOIN pg_roles g ON g.oid = x.grantee
"""
Owners = dict[tuple[str, str], tuple[str, str | None]]  # by name and kind; see OWNERS
# By name, kind and column: the grants as they are set, and as they work.
Acls = dict[tuple[str, str, str | None], tuple[str | None, str | None]]
UNSET = (None, None)


@dataclass(frozen=True)
class Standing:
    """How a set of tables, sequences and types stands."""

    owners: Owners
    acls: Acls
    parts: frozenset[tuple[str, str]]  # of which table, and what

    @classmethod
    def of(cls, link: psycopg.Connection[Any], own: Own) -> Standing:
        """Raises psycopg.Error."""
        return cls(
            {
                (name, kind): (owner, identity)
                for name, kind, owner, identity in link.execute(OWNERS, own.parameters)
            },
            _acls(link, own),
            frozenset(link.execute(PARTS, own.parameters).fetchall()),
        )


def give_standing(
    link: psycopg.Connection[Any], schema: str, before: Standing, now: Standing, own: Own
) -> None:
    """Let what is in `schema` (`own`), and stands as `now`, stand as what was there before. Raises
    psycopg.Error."""
    _copy_owners(link, schema, before, now)
    _copy_grants(link, schema, before.acls, _acls(link, own))  # a new owner changes them


def _acls(link: psycopg.Connection[Any], own: Own) -> Acls:
    return {
        (name, kind, column): (raw, effective)
        for name, kind, column, raw, effective in link.execute(ACLS, own.parameters)
    }


def _copy_owners(link: psycopg.Connection[Any], schema: str, was: Standing, now: Standing) -> None:
    """Let what is there now belong to whom it belonged before, and subscribers know its rows as then."""
    from psycopg import sql

    for (name, kind), (owner, identity) in now.owners.items():
        before = was.owners.get((name, kind))
        if before is None:
            continue
        what = sql.SQL("ALTER {} {}").format(sql.SQL(kind), sql.Identifier(schema, name))
        if before[0] != owner:
            link.execute(what + sql.SQL(" OWNER TO {}").format(sql.SQL(before[0])))
        if before[1] != identity and before[1] in IDENTITIES:
            link.execute(what + sql.SQL(f" REPLICA IDENTITY {IDENTITIES[before[1]]}"))


def _copy_grants(link: psycopg.Connection[Any], schema: str, was: Acls, now: Acls) -> None:
    """Let everybody do with what is there now what he could with what was there before."""
    from psycopg import sql

    for key in dict.fromkeys([*was, *now]):
        name, kind, column = key
        if (name, kind, None) not in was or (name, kind, None) not in now:
            continue  # of a table that wasn't there, or isn't any more
        (old, granted), (new, standing) = was.get(key, UNSET), now.get(key, UNSET)
        if old == new:
            continue
        target = sql.SQL(" ON {} {}").format(sql.SQL(kind), sql.Identifier(schema, name))
        if column is not None:
            target = sql.SQL(" ({})").format(sql.Identifier(column)) + target
        for grantee in dict.fromkeys(who for who, *_ in link.execute(GRANTED, [standing])):
            link.execute(sql.SQL("REVOKE ALL{} FROM {}").format(target, grantee_of(grantee)))
        for grantee, privilege, more in link.execute(GRANTED, [granted]).fetchall():
            link.execute(grant(sql.SQL(privilege), target, grantee, more=more))
