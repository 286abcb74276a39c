"""Whose the objects of a database are, and who may do what with them: read, and put back.

A dump is loaded by the database's owner, so that nothing in it runs with more rights. What somebody
else owns or may do is put right afterwards, by statements of our own, and a role that is not here costs
only what is its own. Words of the dump are run by an administrator only where its owner may not
(`Rights.privileged`), and the backup is signed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backups.layout import LETTA_OPS
from backups.manifest import Acl, Address, EventTrigger, Rights
from infra.errors import LettaOpsError

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    from backups.scope import Own

PUBLIC = ""
OWNER = """
SELECT r.rolname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_roles r ON r.oid = c.relowner WHERE n.nspname = %s AND c.relname = 'alembic_version'
"""
# Of an object `o` (classid, objid): whether it is the database's own. The schema public is among what
# every database has, and yet is everybody's to change.
OWN = """
((o.objid >= 16384 OR (o.classid = 'pg_namespace'::regclass AND o.objid = to_regnamespace('public')))
AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = o.classid AND e.objid = o.objid
  AND e.deptype = 'e')
AND NOT EXISTS (SELECT FROM pg_class t WHERE o.classid = 'pg_class'::regclass AND t.oid = o.objid
  AND t.relpersistence = 't'))
"""
# Without a scope, all are in it.
IN_SCOPE = """
(%(relations)s::oid[] IS NULL
  OR o.classid = 'pg_class'::regclass AND o.objid = ANY(%(relations)s::oid[])
  OR o.classid = 'pg_type'::regclass AND o.objid = ANY(%(types)s::oid[]))
"""
# Its type is NULL for what is dropped at this moment.
ADDRESS = "pg_identify_object_as_address(o.classid, o.objid, o.objsubid)"
# A sequence of a column, and what is part of something else, follow what they belong to.
OWNERS = f"""
SELECT a.type, a.object_names, a.object_args, r.rolname
FROM (SELECT classid, objid, objsubid, refobjid FROM pg_shdepend
  WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND refclassid = 'pg_authid'::regclass AND deptype = 'o' AND objsubid = 0
  AND classid <> ALL (ARRAY['pg_event_trigger', 'pg_default_acl', 'pg_user_mapping']::regclass[])) o
JOIN pg_roles r ON r.oid = o.refobjid, {ADDRESS} a
WHERE a.type IS NOT NULL AND r.rolname <> %(owner)s AND {OWN} AND {IN_SCOPE}
AND NOT (o.objid = to_regnamespace('public') AND r.rolname = 'pg_database_owner')
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.objid
  AND d.deptype IN ('a', 'i'))
ORDER BY 1, 2, 3
"""  # noqa: S608  # of constants
GRANTS = f"""
SELECT a.type, a.object_names, a.object_args, coalesce(
  (SELECT json_agg(json_build_array(coalesce(g.rolname, ''), x.privilege_type, x.is_grantable))
   FROM aclexplode(o.acl) x LEFT JOIN pg_roles g ON g.oid = x.grantee), '[]')
FROM (
  SELECT 'pg_class'::regclass, oid, 0, relacl FROM pg_class
  UNION ALL SELECT 'pg_class'::regclass, attrelid, attnum, attacl FROM pg_attribute
    WHERE NOT attisdropped
  UNION ALL SELECT 'pg_proc'::regclass, oid, 0, proacl FROM pg_proc
  UNION ALL SELECT 'pg_namespace'::regclass, oid, 0, nspacl FROM pg_namespace
  UNION ALL SELECT 'pg_type'::regclass, oid, 0, typacl FROM pg_type
  UNION ALL SELECT 'pg_language'::regclass, oid, 0, lanacl FROM pg_language
  UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0, fdwacl FROM pg_foreign_data_wrapper
  UNION ALL SELECT 'pg_foreign_server'::regclass, oid, 0, srvacl FROM pg_foreign_server
  UNION ALL SELECT 'pg_largeobject'::regclass, oid, 0, lomacl FROM pg_largeobject_metadata
) o (classid, objid, objsubid, acl), {ADDRESS} a
WHERE a.type IS NOT NULL AND o.acl IS NOT NULL AND {OWN} AND {IN_SCOPE} ORDER BY 1, 2, 3
"""  # noqa: S608  # of constants
DEFAULT_GRANTS = """
SELECT r.rolname, n.nspname, d.defaclobjtype::text, coalesce(
  (SELECT json_agg(json_build_array(coalesce(g.rolname, ''), x.privilege_type, x.is_grantable))
   FROM aclexplode(d.defaclacl) x LEFT JOIN pg_roles g ON g.oid = x.grantee), '[]')
FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole
LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace ORDER BY 1, 2, 3
"""
POLICIES = """
SELECT 'pg_policy'::regclass::oid || ' ' || p.oid,
  (SELECT array_agg(r.rolname::text ORDER BY r.rolname) FROM pg_roles r WHERE r.oid = ANY(p.polroles))
FROM pg_policy p WHERE p.polroles <> '{0}'
AND (%(relations)s::oid[] IS NULL OR p.polrelid = ANY(%(relations)s::oid[])) ORDER BY p.oid
"""
# Publications of schemas are only since PostgreSQL 15.
OF_SCHEMAS = """
  UNION ALL SELECT 'pg_publication'::regclass, pnpubid, 0 FROM pg_publication_namespace
  UNION ALL SELECT 'pg_publication_namespace'::regclass, oid, 0 FROM pg_publication_namespace
  UNION ALL SELECT 'pg_publication_rel'::regclass, r.oid, 0 FROM pg_publication_rel r
    WHERE EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnpubid = r.prpubid)
"""
SCHEMAS_PUBLISHED = 150_000
# What only an administrator may make: an owner who could would soon be one.
PRIVILEGED = f"""
SELECT o.classid::oid || ' ' || o.objid, a.type, a.object_names, a.object_args
FROM (
  SELECT 'pg_proc'::regclass, p.oid, 0 FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE NOT l.lanpltrusted AND l.lanname <> 'sql' OR p.proleakproof
    OR EXISTS (SELECT FROM unnest(p.proconfig) c JOIN pg_settings s ON s.name = split_part(c, '=', 1)
      WHERE s.context = 'superuser')
  UNION ALL SELECT 'pg_type'::regclass, oid, 0 FROM pg_type t WHERE typtype = 'p' OR (typtype = 'b'
    AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid))
  UNION ALL SELECT 'pg_cast'::regclass, oid, 0 FROM pg_cast WHERE castsource < 16384
    AND casttarget < 16384
  UNION ALL SELECT 'pg_opclass'::regclass, oid, 0 FROM pg_opclass
  UNION ALL SELECT 'pg_opfamily'::regclass, oid, 0 FROM pg_opfamily
  UNION ALL SELECT 'pg_am'::regclass, oid, 0 FROM pg_am
  UNION ALL SELECT 'pg_language'::regclass, oid, 0 FROM pg_language
  UNION ALL SELECT 'pg_ts_parser'::regclass, oid, 0 FROM pg_ts_parser
  UNION ALL SELECT 'pg_ts_template'::regclass, oid, 0 FROM pg_ts_template
  UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0 FROM pg_foreign_data_wrapper
  UNION ALL SELECT 'pg_foreign_server'::regclass, oid, 0 FROM pg_foreign_server
  UNION ALL SELECT 'pg_publication'::regclass, oid, 0 FROM pg_publication p WHERE puballtables
{OF_SCHEMAS}) o (classid, objid, objsubid), {ADDRESS} a
WHERE a.type IS NOT NULL AND {OWN} ORDER BY o.classid::oid, o.objid
"""  # noqa: S608  # of constants
EVENT_TRIGGERS = f"""
SELECT e.evtname, e.evtevent, coalesce(e.evttags, '{{}}'),
  json_build_array(a.type, a.object_names, a.object_args),
  e.evtenabled::text, obj_description(e.oid, 'pg_event_trigger'),
  (SELECT r.rolsuper AND NOT p.prosecdef FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
    WHERE p.oid = e.evtfoid)
FROM pg_event_trigger e, LATERAL (SELECT 'pg_proc'::regclass, e.evtfoid, 0) o (classid, objid, objsubid),
  {ADDRESS} a WHERE NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e')
ORDER BY e.evtname
"""  # noqa: S608  # of constants
IDENTITY = f"""
SELECT f.identity FROM pg_get_object_address(%s, %s::text[], %s::text[]) o,
pg_identify_object(o.classid, o.objid, o.objsubid) f
WHERE {OWN} AND o.classid <> ALL (ARRAY['pg_database', 'pg_tablespace', 'pg_authid']::regclass[])
"""  # noqa: S608  # of constants
# Roles that nothing out of a backup is given to: whoever owns a function, or a table with an index
# on one, is who it runs as.
ADMINISTRATORS = """
SELECT rolname FROM pg_roles r WHERE rolsuper
OR (rolname ~ '^pg_' AND rolname <> 'pg_database_owner')
OR EXISTS (SELECT FROM pg_roles s WHERE s.rolsuper AND pg_has_role(r.oid, s.oid, 'MEMBER'))
"""
# As statements call what addresses call otherwise, or not at all.
OWNED_AS = {"statistics object": "STATISTICS", "composite type": "TYPE"}
# ... or whose owner must be an administrator: that of all tables.
WITHOUT_OWNER = (
    "access method", "cast", "text search parser", "text search template", "publication",
    "publication namespace", "publication relation",
)  # fmt: skip
GRANTED_ON = {
    "table": "TABLE", "view": "TABLE", "materialized view": "TABLE", "foreign table": "TABLE",
    "sequence": "SEQUENCE", "function": "ROUTINE", "procedure": "ROUTINE", "aggregate": "ROUTINE",
    "schema": "SCHEMA", "type": "TYPE", "language": "LANGUAGE", "server": "FOREIGN SERVER",
    "foreign-data wrapper": "FOREIGN DATA WRAPPER", "large object": "LARGE OBJECT",
}  # fmt: skip
DEFAULTS_ON = {
    "r": "TABLES",
    "S": "SEQUENCES",
    "f": "ROUTINES",
    "T": "TYPES",
    "n": "SCHEMAS",
    "L": "LARGE OBJECTS",
}
ENABLED = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
EVENT_TRIGGERS_OFF = 170_000  # the first version in which a session can do without them


def read_rights(link: psycopg.Connection[Any], schema: str, own: Own | None = None) -> Rights:
    """Read the rights in a database with Letta's tables in `schema`; `own`: on what is Letta's alone.
    Raises psycopg.Error."""
    (owner,) = link.execute(OWNER, [schema]).fetchone() or ("",)
    scope = own.parameters if own else {"relations": None, "types": None}

    def found(query: str) -> list[Any]:
        return link.execute(query, {"owner": owner, **scope} if "%(" in query else None).fetchall()

    owners = tuple((_address(*row[:3]), row[3]) for row in found(OWNERS))
    grants = tuple((_address(*row[:3]), _acl(row[3])) for row in found(GRANTS))
    policies = {row[0]: tuple(row[1] or ()) for row in found(POLICIES)}
    if own:
        return Rights(owner, owners, grants, policies=policies)
    published = link.info.server_version >= SCHEMAS_PUBLISHED
    privileged = PRIVILEGED if published else PRIVILEGED.replace(OF_SCHEMAS, "")

    return Rights(
        owner,
        owners,
        grants,
        tuple((*row[:3], _acl(row[3])) for row in found(DEFAULT_GRANTS)),
        policies,
        {row[0]: _address(*row[1:]) for row in found(privileged)},
        tuple(
            EventTrigger(name, event, tuple(tags), _address(*function), enabled, comment, theirs)
            for name, event, tags, function, enabled, comment, theirs in found(EVENT_TRIGGERS)
        ),
    )


def roles_in(rights: Rights) -> set[str]:
    """The roles, besides the owner, of which `rights` speak."""
    acls = [acl for _, acl in rights.grants] + [acl for *_, acl in rights.default_grants]
    named = {
        *(role for _, role in rights.owners),
        *(role for role, *_ in rights.default_grants),
        *(grantee for acl in acls for grantee, *_ in acl),
        *(role for roles in rights.policies.values() for role in roles),
    }
    return {role for role in named - {PUBLIC, rights.owner} if not role.startswith("pg_")}


def missing_roles(link: psycopg.Connection[Any], rights: Rights) -> list[str]:
    """Those of `roles_in` that this Postgres doesn't have, sorted."""
    there = {name for (name,) in link.execute("SELECT rolname FROM pg_roles")}
    return sorted(roles_in(rights) - there)


def make_roles(link: psycopg.Connection[Any], names: Iterable[str]) -> None:
    """Make roles that can't log in: for a database that nobody will live in."""
    from psycopg import sql

    for name in names:
        link.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))


def apply_rights(
    link: psycopg.Connection[Any], rights: Rights, owner: str, *, trusted: bool
) -> list[str]:
    """Put `rights` into a database that is `owner`'s; return in words what was left out.

    `trusted`: an administrator's session, and the backup is signed. Raises psycopg.Error only where
    the connection is lost: what is left out costs nothing else.
    """
    import psycopg

    left_out: list[str] = []
    for what, statements in _steps(link, rights, owner, left_out, trusted=trusted):
        try:
            with link.transaction():
                for statement in statements:
                    link.execute(statement)
        except (psycopg.Error, LettaOpsError, KeyError) as error:
            if link.broken:
                raise
            left_out.append(f"{what}: {str(error).strip().splitlines()[0]}")
    return left_out


Step = tuple[str, Iterable["sql.Composed"]]


def _steps(
    link: psycopg.Connection[Any],
    rights: Rights,
    owner: str,
    left_out: list[str],
    *,
    trusted: bool,
) -> Iterator[Step]:
    roles = _Roles.of(link, rights.owner, owner)
    for address, name in rights.owners:
        if address.names[:1] != (LETTA_OPS,) and (role := roles.owning(name)):
            yield f"the owner of {address}", _owner(link, address, role)
    for address, acl in rights.grants:
        if address.names[:1] != (LETTA_OPS,):
            yield f"grants on {address}", _grants(link, address, roles.known(acl))
    for name, schema, kind, acl in rights.default_grants:
        if role := roles.owning(name):
            what = f"default privileges of {role}"
            yield what, _default_grants(role, schema, kind, roles.known(acl))
    for trigger in rights.event_triggers:
        why = _not_made(link, trigger, trusted=trusted)
        if why is None:
            yield f"event trigger {trigger.name}", _event_trigger(link, trigger)
        else:
            left_out.append(f"event trigger {trigger.name}: {why}")
    left_out += roles.told()


@dataclass(frozen=True)
class _Roles:
    """Roles of a backup, as they are called here; those that aren't are counted."""

    there: frozenset[str]
    superusers: frozenset[str]  # they need no grant
    administrators: frozenset[str]
    renamed: Mapping[str, str]
    missing: Counter[str]
    refused: Counter[str]

    @classmethod
    def of(cls, link: psycopg.Connection[Any], was: str, owner: str) -> _Roles:
        def names(query: str) -> frozenset[str]:
            return frozenset(name for (name,) in link.execute(query))

        there = names("SELECT rolname FROM pg_roles")
        superusers = names("SELECT rolname FROM pg_roles WHERE rolsuper")
        return cls(there, superusers, names(ADMINISTRATORS), {was: owner}, Counter(), Counter())

    def named(self, name: str) -> str | None:
        role = self.renamed.get(name, name)
        if role in self.there:
            return role
        self.missing[role] += 1
        return None

    def owning(self, name: str) -> str | None:
        """The role if it may be an owner."""
        role = self.named(name)
        if role in self.administrators:
            self.refused[role] += 1
            return None
        return role

    def known(self, acl: Acl) -> Acl:
        """Of `acl` what is for everybody, or for roles that are here, as they are called here."""
        found = ((self.named(who) if who else PUBLIC, what, more) for who, what, more in acl)
        return tuple(
            (who, what, more)
            for who, what, more in found
            if who is not None and who not in self.superusers
        )

    def told(self) -> Iterator[str]:
        for role, count in sorted(self.missing.items()):
            yield f"what role {role} owns or may do ({count}): it is not here"
        for role, count in sorted(self.refused.items()):
            yield f"what role {role} owns ({count}): it is an administrator, a backup's code never is"


def give(link: psycopg.Connection[Any], addresses: Iterable[Address], role: str) -> None:
    """Make `role` the owner of the objects that can have one. Raises psycopg.Error."""
    for address in addresses:
        if address.type not in WITHOUT_OWNER:
            for statement in _owner(link, address, role):
                link.execute(statement)


def _owner(link: psycopg.Connection[Any], address: Address, role: str) -> Iterator[sql.Composed]:
    from psycopg import sql

    kind = OWNED_AS.get(address.type, address.type.upper().replace("-", " "))
    yield sql.SQL("ALTER {} {} OWNER TO {}").format(
        sql.SQL(kind), identity(link, address), sql.Identifier(role)
    )


def _grants(link: psycopg.Connection[Any], address: Address, acl: Acl) -> Iterator[sql.Composed]:
    from psycopg import sql

    column = None
    if address.type.endswith(" column"):
        column = sql.Identifier(address.names[-1])
        address = Address(address.type.removesuffix(" column"), address.names[:-1])
    target = sql.SQL(" ON {} {}").format(sql.SQL(GRANTED_ON[address.type]), identity(link, address))
    if column is None:
        yield sql.SQL("REVOKE ALL{} FROM PUBLIC").format(target)
    for who, privilege, more in acl:
        what: sql.Composable = sql.SQL(_privilege(privilege))
        if column is not None:
            what = sql.SQL("{} ({})").format(what, column)
        yield grant(what, target, who, more=more)


def _default_grants(role: str, schema: str | None, kind: str, acl: Acl) -> Iterator[sql.Composed]:
    from psycopg import sql

    where: sql.Composable = sql.SQL("")
    if schema is not None:
        where = sql.SQL(" IN SCHEMA {}").format(sql.Identifier(schema))
    whose = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {}{}").format(sql.Identifier(role), where)
    target = sql.SQL(f" ON {DEFAULTS_ON[kind]}")
    if schema is None:  # it says all, and not only what it adds
        yield whose + sql.SQL(" REVOKE ALL{} FROM PUBLIC").format(target)
    for who, privilege, more in acl:
        statement = grant(sql.SQL(_privilege(privilege)), target, who, more=more)
        yield whose + sql.SQL(" ") + statement


def grant(what: sql.Composable, target: sql.Composable, who: str, *, more: bool) -> sql.Composed:
    """`more`: it may be handed on."""
    from psycopg import sql

    option = sql.SQL(" WITH GRANT OPTION") if more else sql.SQL("")
    return sql.SQL("GRANT {}{} TO {}{}").format(what, target, grantee_of(who), option)


def grantee_of(who: str) -> sql.Composable:
    """Whom a statement names."""
    from psycopg import sql

    return sql.Identifier(who) if who else sql.SQL("PUBLIC")


def _not_made(link: psycopg.Connection[Any], trigger: EventTrigger, *, trusted: bool) -> str | None:
    """Why an event trigger is not made here; None: it is."""
    if not trusted:
        return "only an administrator may make one, of a signed backup"
    if trigger.event == "login":
        return "it would run as whoever logs in, an administrator among them"
    if link.info.server_version < EVENT_TRIGGERS_OFF:
        return "this PostgreSQL would run it for its administrator, too"
    return None


def _event_trigger(link: psycopg.Connection[Any], trigger: EventTrigger) -> Iterator[sql.Composed]:
    from psycopg import sql

    name, function = sql.Identifier(trigger.name), identity(link, trigger.function)
    tags = sql.SQL(", ").join(sql.Literal(tag) for tag in trigger.tags)
    when: sql.Composable = sql.SQL("")
    if trigger.tags:
        when = sql.SQL(" WHEN TAG IN ({})").format(tags)
    yield sql.SQL("CREATE EVENT TRIGGER {} ON {}{} EXECUTE FUNCTION {}").format(
        name, sql.Identifier(trigger.event), when, function
    )
    if trigger.enabled in ENABLED:
        yield sql.SQL("ALTER EVENT TRIGGER {} {}").format(name, sql.SQL(ENABLED[trigger.enabled]))
    if trigger.comment is not None:
        yield sql.SQL("COMMENT ON EVENT TRIGGER {} IS {}").format(
            name, sql.Literal(trigger.comment)
        )
    if trigger.of_administrator and not _is_definer(link, trigger.function):
        # Its owner could put other code into it, for whoever changes a definition next.
        yield sql.SQL("ALTER FUNCTION {} OWNER TO CURRENT_USER").format(function)


def _is_definer(link: psycopg.Connection[Any], function: Address) -> bool:
    """Whether a function runs as its owner, whoever calls it."""
    query = """
        SELECT p.prosecdef FROM pg_get_object_address(%s, %s::text[], %s::text[]) o
        JOIN pg_proc p ON o.classid = 'pg_proc'::regclass AND p.oid = o.objid
    """
    names = [function.type, list(function.names), list(function.arguments)]
    return link.execute(query, names).fetchone() != (False,)


def identity(link: psycopg.Connection[Any], address: Address) -> sql.SQL:
    """What statements call an object, quoted by Postgres itself. Raises psycopg.Error where it isn't."""
    from psycopg import sql

    row = link.execute(
        IDENTITY, [address.type, list(address.names), list(address.arguments)]
    ).fetchone()
    if row is None:
        raise LettaOpsError("not-its-own", "it is not the database's own", "look at the manifest")
    return sql.SQL(row[0])


def _privilege(name: str) -> str:
    """A manifest could say anything."""
    return name if re.fullmatch(r"[A-Z ]+", name) else ""


def _address(kind: str, names: Iterable[str], arguments: Iterable[str]) -> Address:
    return Address(kind, tuple(names), tuple(arguments))


def _acl(rows: Iterable[Any]) -> Acl:
    return tuple((str(who), str(what), bool(more)) for who, what, more in rows)
