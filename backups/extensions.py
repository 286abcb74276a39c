"""The extensions of a database: what a backup records of them, and making them ahead of its restore."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from backups.manifest import DatabaseRecord, Extension
from infra.errors import LettaOpsError

if TYPE_CHECKING:
    import psycopg

# In the order in which they were made: one may need another. plpgsql is in every database.
RECORDED = """
SELECT e.extname, e.extversion, n.nspname FROM pg_extension e
JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql' ORDER BY e.oid
"""


def read_extensions(link: psycopg.Connection[Any]) -> dict[str, Extension]:
    return {name: Extension(*rest) for name, *rest in link.execute(RECORDED).fetchall()}


def missing_extensions(link: psycopg.Connection[Any], names: Iterable[str]) -> list[str]:
    """Those of `names` that the server at `link` doesn't offer, sorted."""
    offered = {name for (name,) in link.execute("SELECT name FROM pg_available_extensions")}
    return sorted(set(names) - offered)


def extensions_of(record: DatabaseRecord) -> Mapping[str, Extension]:
    """What a backup's database had; of one in format 1 only pgvector is known."""
    if record.extensions or record.pgvector is None:
        return record.extensions
    return {"vector": Extension(record.pgvector, record.pgvector_schema or "public")}


def ensure_offered(link: psycopg.Connection[Any], record: DatabaseRecord) -> None:
    """Raise LettaOpsError (`extension-missing`) for extensions that the server doesn't have."""
    if missing := missing_extensions(link, extensions_of(record)):
        raise LettaOpsError(
            "extension-missing",
            f"the backup's database has extensions that the PostgreSQL here does not offer:"
            f" {', '.join(missing)}",
            "install them beside that PostgreSQL (Debian: postgresql-contrib and the like), or restore"
            " into one that has them",
        )


def make_extensions(
    link: psycopg.Connection[Any], extensions: Mapping[str, Extension], owner: str
) -> list[str]:
    """Make `extensions` where they were; return in words which have another version here.

    A schema that isn't there is made for `owner`. Raises psycopg.Error.
    """
    from psycopg import sql

    others = []
    for name, extension in extensions.items():
        home = sql.Identifier(extension.schema)
        if not _has_schema(link, extension.schema):
            schema = sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}")
            link.execute(schema.format(home, sql.Identifier(owner)))
        version: sql.Composable = sql.SQL("")
        if _offers(link, name, extension.version):
            version = sql.SQL(" VERSION {}").format(sql.Literal(extension.version))
        query = sql.SQL("CREATE EXTENSION IF NOT EXISTS {} SCHEMA {}{}")
        link.execute(query.format(sql.Identifier(name), home, version))
        found = link.execute(
            "SELECT extversion FROM pg_extension WHERE extname = %s", [name]
        ).fetchone()
        if found and found[0] != extension.version:
            others.append(f"{name} {found[0]} in place of {extension.version}")
    return others


def _has_schema(link: psycopg.Connection[Any], name: str) -> bool:
    return bool(link.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [name]).fetchone())


def _offers(link: psycopg.Connection[Any], name: str, version: str) -> bool:
    query = "SELECT 1 FROM pg_available_extension_versions WHERE name = %s AND version = %s"
    return bool(link.execute(query, [name, version]).fetchone())
