"""The scope of backups and restores: all of a database, or what in it is Letta's and ours.

Letta's is what the migrations of its release make, by name, in the schema that its server looks into;
nothing of anybody else is read, locked, dumped or replaced then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backups.layout import LETTA_OPS
from backups.manifest import LETTA, WHOLE, Address, DatabaseRecord, Rights
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.stack.releases import RELEASES, release_at
from infra.targets import host
from letta_ops.registry.postgres import TABLES as REGISTRY

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

OURS = ("audit", "deployment", *REGISTRY)  # in the schema letta_ops
# With the sequences of their columns, also of those that somebody has added.
FOUND = """
WITH named AS (
  SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'S') AND (n.nspname = %(schema)s AND c.relname = ANY(%(relations)s)
    OR n.nspname = %(letta_ops)s AND c.relname = ANY(%(ours)s)))
SELECT 'pg_class', oid FROM named
UNION SELECT 'pg_class', c.oid FROM pg_class c JOIN pg_depend d
  ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
  JOIN named ON named.oid = d.refobjid WHERE c.relkind = 'S' AND d.deptype IN ('a', 'i')
UNION ALL SELECT 'pg_type', t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype = 'e' AND n.nspname = %(schema)s AND t.typname = ANY(%(types)s)
"""
# The words of an enumeration, in their order.
WORDS = """
SELECT t.typname, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_type t
JOIN pg_enum e ON e.enumtypid = t.oid WHERE t.oid = ANY(%s::oid[]) GROUP BY 1 ORDER BY 1
"""
# The entries of a dump that need something which isn't in it: of tables in it, or of their columns,
# constraints, indexes, policies, triggers and rules. What an extension brings is not somebody's.
LEANING = """
WITH own AS (SELECT unnest(%(relations)s::oid[]) AS oid), part (classid, objid, of) AS (
  SELECT 'pg_constraint'::regclass, oid, conrelid FROM pg_constraint
  UNION ALL SELECT 'pg_attrdef'::regclass, oid, adrelid FROM pg_attrdef
  UNION ALL SELECT 'pg_policy'::regclass, oid, polrelid FROM pg_policy
  UNION ALL SELECT 'pg_trigger'::regclass, oid, tgrelid FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT 'pg_rewrite'::regclass, oid, ev_class FROM pg_rewrite
  UNION ALL SELECT 'pg_class'::regclass, indexrelid, indrelid FROM pg_index)
SELECT DISTINCT p.classid::oid || ' ' || p.objid, pg_describe_object(p.classid, p.objid, 0),
  p.classid = 'pg_attrdef'::regclass OR EXISTS (SELECT FROM pg_constraint c
    WHERE p.classid = 'pg_constraint'::regclass AND c.oid = p.objid AND c.contype = 'c')
FROM part p JOIN own ON own.oid = p.of JOIN pg_depend d ON d.classid = p.classid AND d.objid = p.objid
WHERE d.refobjid >= 16384 AND NOT (d.refclassid = 'pg_class'::regclass
  AND d.refobjid IN (SELECT oid FROM own UNION ALL SELECT i.indexrelid FROM pg_index i
    JOIN own ON own.oid = i.indrelid))
AND NOT (d.refclassid = 'pg_type'::regclass AND d.refobjid = ANY(%(types)s::oid[]))
AND d.refclassid <> 'pg_constraint'::regclass
AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid
  AND e.deptype = 'e') ORDER BY 1
"""
# Of those that own objects need: extensions made by somebody for himself are his.
NEEDED_EXTENSIONS = """
SELECT DISTINCT x.extname FROM pg_depend d
JOIN pg_depend e ON e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e'
JOIN pg_extension x ON e.refclassid = 'pg_extension'::regclass AND x.oid = e.refobjid
LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
LEFT JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
WHERE coalesce(a.adrelid, c.conrelid, i.indrelid, d.objid) = ANY(%(relations)s::oid[])
"""


@dataclass(frozen=True)
class Names:
    """What Letta's migrations make, by plain name: tables with sequences, and types."""

    relations: Collection[str]
    types: Collection[str]

    @classmethod
    def of(cls, revision: str | None, record: DatabaseRecord | None = None) -> Names:
        """What a release of this schema makes; of a backup in scope `letta`, what it holds. Raises
        LettaOpsError (`release-unknown`) for a schema that we don't know."""
        if record is not None and record.scope == LETTA:
            prefix = f"{record.schema}."
            held = (*record.tables, *record.sequences)
            relations = {name.removeprefix(prefix) for name in held if name.startswith(prefix)}
            return cls(relations, set(record.types))
        release = release_at(revision)
        if release is None:
            raise LettaOpsError(
                "release-unknown",
                f"this letta-ops knows Letta {', '.join(RELEASES)}, and not the schema {revision}: it"
                " can't tell which tables are Letta's, and which are somebody else's",
                "use a letta-ops that knows that release; or, where all of the database is Letta's,"
                " set backup.scope to database",
            )
        return cls(release.tables, release.types)

    @classmethod
    def known(cls) -> Names:
        """What any release that we know makes."""
        releases = RELEASES.values()
        return cls(
            {name for each in releases for name in each.tables},
            {name for each in releases for name in each.types},
        )

    def __or__(self, other: Names) -> Names:
        return Names(
            {*self.relations, *other.relations},
            {*self.types, *other.types},
        )


@dataclass(frozen=True)
class Own:
    """The numbers (`oid`) of what in one database is Letta's and ours."""

    relations: list[int]
    types: list[int]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, int]]) -> Own:
        """Of pairs of a catalog and a number in it."""
        found: dict[str, list[int]] = {"pg_class": [], "pg_type": []}
        for catalog, oid in rows:
            found[catalog].append(oid)
        return cls(found["pg_class"], found["pg_type"])

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"relations": self.relations, "types": self.types}


def only_lettas(record: DatabaseRecord, *, with_records: bool) -> DatabaseRecord:
    """Of a backup's database what is Letta's, and ours with it."""
    names = Names.of(record.revision, record)
    kept = {f"{record.schema}.{name}" for name in names.relations}
    prefix = f"{LETTA_OPS}." if with_records else "\n"
    tables = {n: t for n, t in record.tables.items() if n in kept or n.startswith(prefix)}
    sequences = {name: value for name, value in record.sequences.items() if name in kept}
    return replace(record, tables=tables, sequences=sequences)


def rights_in(record: DatabaseRecord, schema: str) -> Rights:
    """The rights on what is Letta's, as of tables in `schema`."""
    assert record.rights is not None  # noqa: S101  # the caller has seen them
    names = Names.of(record.revision, record)
    own = {*names.relations, *names.types}

    def moved(address: Address) -> Address | None:
        home, *rest = address.names or ("",)
        if home != record.schema or not rest or rest[0] not in own:
            return None
        return replace(address, names=(schema, *rest))

    return Rights(
        record.rights.owner,
        grants=tuple(
            (here, acl) for each, acl in record.rights.grants if (here := moved(each)) is not None
        ),
    )


def scope_of(deployment: Deployment) -> str:
    """`database`, or `letta` where the database was there before the deployment, unless told."""
    chosen = deployment.backups.backup.scope
    return chosen or (WHOLE if host(deployment).provides_database else LETTA)


def find_own(
    link: psycopg.Connection[Any], schema: str, names: Names, *, with_records: bool = False
) -> Own:
    """What of `names` is in `schema`, and our records with it. Raises psycopg.Error."""
    asked = {
        "schema": schema,
        "relations": list(names.relations),
        "types": list(names.types),
        "letta_ops": LETTA_OPS,
        "ours": list(OURS) if with_records else [],
    }
    return Own.of(link.execute(FOUND, asked))


def ensure_name(schema: str) -> None:
    """Raise LettaOpsError (`schema-name`) for a schema whose tables' names can't be taken apart."""
    if "." in schema:
        raise LettaOpsError(
            "schema-name",
            f"the schema {schema} has a dot in its name: its tables can't be told from those of others",
            "rename it, or set backup.scope to database",
        )


def ensure_all(link: psycopg.Connection[Any], schema: str, own: Own, names: Names) -> None:
    """Raise LettaOpsError (`tables-missing`) where one of the release's tables is not there, or is no
    plain table: a backup without it would look whole."""
    query = """
        SELECT relname FROM pg_class WHERE oid = ANY(%s::oid[])
        AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = pg_class.oid)
    """
    there = {name for (name,) in link.execute(query, [own.relations])}
    if missing := sorted(set(names.relations) - there):
        raise LettaOpsError(
            "tables-missing",
            f"in the schema {schema} there are no such tables, or no plain ones: {', '.join(missing)}",
            "see with `letta-ops check` whether Letta's migrations came to their end; a database that"
            " has them otherwise is backed up with backup.scope database",
        )


def words_of(link: psycopg.Connection[Any], own: Own) -> dict[str, tuple[str, ...]]:
    """The words of own enumerations. Raises psycopg.Error."""
    return {name: tuple(words) for name, words in link.execute(WORDS, [own.types])}


def leaning(link: psycopg.Connection[Any], own: Own) -> tuple[dict[str, str], tuple[str, ...]]:
    """What of own tables needs something of others, as `DatabaseRecord.leaning` has it; and in words
    what of it no table is made without."""
    found = link.execute(LEANING, own.parameters).fetchall()
    warnings = tuple(
        f"{what} needs something that is not Letta's: where that isn't, as in a drill, the table can't"
        " be made"
        for _, what, inside in found
        if inside
    )
    return {number: what for number, what, _ in found}, warnings


def make_types(link: psycopg.Connection[Any], record: DatabaseRecord, owner: str) -> None:
    """Make what a dump in scope `letta` relies on, in an empty database. Raises psycopg.Error."""
    from psycopg import sql

    for schema in (str(record.schema), LETTA_OPS):
        make_schema = sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}")
        link.execute(make_schema.format(sql.Identifier(schema), sql.Identifier(owner)))
    for statement in type_statements(record.types, str(record.schema)):
        link.execute(statement)
    for name in record.types:
        give = sql.SQL("ALTER TYPE {} OWNER TO {}")
        link.execute(give.format(sql.Identifier(str(record.schema), name), sql.Identifier(owner)))


def type_statements(types: Mapping[str, tuple[str, ...]], schema: str) -> Iterator[sql.Composed]:
    """What makes enumerations in `schema`."""
    from psycopg import sql

    for name, values in types.items():
        listing = sql.SQL(", ").join(map(sql.Literal, values))
        yield sql.SQL("CREATE TYPE {} AS ENUM ({})").format(sql.Identifier(schema, name), listing)


def needed_extensions(link: psycopg.Connection[Any], own: Own) -> set[str]:
    return {name for (name,) in link.execute(NEEDED_EXTENSIONS, own.parameters)}
