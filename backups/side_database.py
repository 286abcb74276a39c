"""Restoring a dump into a database of its own, whatever roles, schemas and settings it came from.

What pg_restore alone gets wrong (and why it looks like total loss then): it knows nothing of the
owner that the server here has, of the schema in which it looks, of settings like the search path
that belong to a database, and it can't make the extension without rights.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.catalog import Backup
from backups.layout import LETTA_OPS, move_extension, move_schema
from backups.loading import HINT, load
from backups.opening import Key
from backups.stores.store import Store
from infra.database.administration import DatabaseAccess
from infra.database.facts import find_pgvector
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import ADMIN_ROLE

if TYPE_CHECKING:
    import psycopg


WITH_EXTENSION = "template1"  # where an administrator may have made it


@dataclass(frozen=True)
class SideDatabase:
    """The database to make: `owner` owns it and all in it; Letta's tables go to `schema` (None:
    where they were), the extension to `extension_schema`."""

    name: str
    owner: str
    schema: str | None = None
    extension_schema: str | None = None


def restore_database(
    access: DatabaseAccess,
    side: SideDatabase,
    store: Store,
    backup: Backup,
    key: Key,
    scratch: Path,
    report: Report,
) -> None:
    """Make `side`, with what the backup holds of the database; one of this name is dropped first.

    `scratch` is a folder that nobody else can look into. Raises LettaOpsError; what was made is
    dropped again.
    """
    import psycopg

    try:
        create_database(access, side)
        _prepare(access, side, backup)
        role = side.owner if access.is_superuser else None
        load(access, side.name, role, store, backup, key, scratch, report)
        _put_right(access, side, backup)
    except psycopg.Error as error:
        failure = failed(error)
        drop_after(failure, access, side.name)
        raise failure from None
    except BaseException as error:
        drop_after(error, access, side.name)
        raise


def create_database(access: DatabaseAccess, side: SideDatabase) -> None:
    from psycopg import sql

    template = _template(access)
    with access.connect(access.maintenance) as link:
        _drop(link, side.name)
        link.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} ENCODING 'UTF8'").format(
                sql.Identifier(side.name), sql.Identifier(side.owner), sql.Identifier(template)
            )
        )


def _template(access: DatabaseAccess) -> str:
    """An empty database; one with the extension, where we may not make that ourselves."""
    if not access.is_superuser:
        with suppress(LettaOpsError), access.connect(WITH_EXTENSION) as link:
            if find_pgvector(link) and link.info.parameter_status("server_encoding") == "UTF8":
                return WITH_EXTENSION
    return "template0"


def drop_database(access: DatabaseAccess, name: str) -> None:
    """Drop a database, also one that is in use; nothing happens when there is none."""
    with access.connect(access.maintenance) as link:
        _drop(link, name)


def drop_after(error: BaseException, access: DatabaseAccess, name: str) -> bool:
    """Drop a database because of `error`, which is told when that fails too; False: it did."""
    import psycopg

    try:
        drop_database(access, name)
    except (psycopg.Error, LettaOpsError):
        note = (
            f"{name} could not be dropped; the next `letta-ops backup create` or `restore` does it"
        )
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        return False
    return True


def failed(error: Exception) -> LettaOpsError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "permission denied to create database" in reason:
        return LettaOpsError(
            "database-privileges",
            "the role of this deployment may not create the database that is restored into",
            "let it: ALTER ROLE ... CREATEDB (docs/external-database.md)",
        )
    if "permission denied to create extension" in reason or "owner of extension" in reason:
        return LettaOpsError(
            "database-privileges",
            "the role of this deployment may not make the extension vector in a new database",
            "let an administrator make it in template1 (docs/external-database.md)",
        )
    return LettaOpsError("restore-failed", f"restoring the database failed: {reason}", HINT)


def _prepare(access: DatabaseAccess, side: SideDatabase, backup: Backup) -> None:
    """Make the extension where the dump will look for it: its types are named with their schema."""
    from psycopg import sql

    home = backup.manifest.database.pgvector_schema or "public"
    with access.connect(side.name) as link:
        if home != "public":
            link.execute(
                sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(
                    sql.Identifier(home), sql.Identifier(side.owner)
                )
            )
        if backup.manifest.database.pgvector is not None:
            query = sql.SQL("CREATE EXTENSION IF NOT EXISTS vector SCHEMA {}")
            link.execute(query.format(sql.Identifier(home)))
            move_extension(link, home)
    _set_jobs_aside(access, side)


def _set_jobs_aside(access: DatabaseAccess, side: SideDatabase) -> None:
    """Settings of this database until the end: more memory for indexes, and no commit waits for the
    disk, since what a crash takes is made anew."""
    _each(access, side, "ALTER DATABASE {} SET maintenance_work_mem = '256MB'")
    _each(access, side, "ALTER DATABASE {} SET synchronous_commit = off")


def _put_right(access: DatabaseAccess, side: SideDatabase, backup: Backup) -> None:
    """What belongs to us is ours again, and everything is where the server here will look."""
    database = backup.manifest.database
    with access.connect(side.name) as link:
        if access.is_superuser:
            _to_administrator(link)
        if side.schema and database.schema and side.schema != database.schema:
            move_schema(link, database.schema, side.schema, side.owner)
        if side.extension_schema and database.pgvector is not None:
            move_extension(link, side.extension_schema)
    _each(access, side, "ALTER DATABASE {} RESET maintenance_work_mem")
    _each(access, side, "ALTER DATABASE {} RESET synchronous_commit")


def _to_administrator(link: psycopg.Connection[Any]) -> None:
    """Letta's own role must not be able to change our records."""
    from psycopg import sql

    found = link.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [LETTA_OPS]).fetchone()
    if found is None:
        return
    admin = sql.Identifier(ADMIN_ROLE)
    link.execute(sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(sql.Identifier(LETTA_OPS), admin))
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = %s::regnamespace"
    for (name,) in link.execute(tables, [LETTA_OPS]).fetchall():
        table = sql.Identifier(LETTA_OPS, name)
        link.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(table, admin))


def _each(access: DatabaseAccess, side: SideDatabase, statement: str) -> None:
    from psycopg import sql

    with access.connect(access.maintenance) as link:
        link.execute(sql.SQL(statement).format(sql.Identifier(side.name)))


def _drop(link: psycopg.Connection[Any], name: str) -> None:
    from psycopg import sql

    link.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
