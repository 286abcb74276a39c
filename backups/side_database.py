"""Restoring a dump into a database of its own, whatever roles, schemas and settings it came from.

What pg_restore alone gets wrong (and why it looks like total loss then): it knows nothing of the
owner that the server here has, of the schema in which it looks, of settings like the search path
that belong to a database, and it can't make extensions without rights. An administrator makes the
database and what only he may make; everything else is done by its owner.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.catalog import Backup
from backups.extensions import ensure_offered, extensions_of, make_extensions
from backups.layout import move_extension, move_schema
from backups.loading import HINT, load
from backups.opening import Key
from backups.rights import apply_rights
from backups.stores.store import Store
from infra.database.administration import DatabaseAccess
from infra.database.facts import find_pgvector
from infra.errors import LettaOpsError
from infra.process import Report

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
    owner: DatabaseAccess,
    side: SideDatabase,
    store: Store,
    backup: Backup,
    key: Key,
    scratch: Path,
    report: Report,
    *,
    trusted: bool,
) -> None:
    """Make `side`, with what the backup holds of the database; one of this name is dropped first.

    `owner` leads to the same Postgres as the database's owner; `scratch` is a folder that nobody
    else can look into; `trusted`: see `backups.loading.load`. Raises LettaOpsError; what was made
    is dropped again.
    """
    import psycopg

    try:
        create_database(access, side)
        _prepare(access, side, backup, report)
        load(access, owner, side.name, store, backup, key, scratch, report, trusted=trusted)
        _put_right(access, side, backup, report)
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


def _prepare(access: DatabaseAccess, side: SideDatabase, backup: Backup, report: Report) -> None:
    """Make the extensions where the dump will look for them: their types are named with their schema."""
    database = backup.manifest.database
    with access.connect(side.name) as link:
        ensure_offered(link, database)
        for other in make_extensions(link, extensions_of(database), side.owner):
            report(f"database: {other}")
        if database.pgvector_schema is not None:
            move_extension(link, database.pgvector_schema)
    _set_jobs_aside(access, side)


def _set_jobs_aside(access: DatabaseAccess, side: SideDatabase) -> None:
    """Settings of this database until the end: more memory for indexes, and no commit waits for the
    disk, since what a crash takes is made anew."""
    _each(access, side, "ALTER DATABASE {} SET maintenance_work_mem = '256MB'")
    _each(access, side, "ALTER DATABASE {} SET synchronous_commit = off")


def _put_right(access: DatabaseAccess, side: SideDatabase, backup: Backup, report: Report) -> None:
    """Everything is whose it was, and where the server here will look."""
    database = backup.manifest.database
    with access.connect(side.name) as link:
        if database.rights is not None:
            for line in apply_rights(
                link, database.rights, side.owner, is_superuser=access.is_superuser
            ):
                report(f"database: leaving out {line}")
        if side.schema and database.schema and side.schema != database.schema:
            move_schema(link, database.schema, side.schema, side.owner)
        if side.extension_schema and database.pgvector is not None:
            move_extension(link, side.extension_schema)
    _each(access, side, "ALTER DATABASE {} RESET maintenance_work_mem")
    _each(access, side, "ALTER DATABASE {} RESET synchronous_commit")


def _each(access: DatabaseAccess, side: SideDatabase, statement: str) -> None:
    from psycopg import sql

    with access.connect(access.maintenance) as link:
        link.execute(sql.SQL(statement).format(sql.Identifier(side.name)))


def _drop(link: psycopg.Connection[Any], name: str) -> None:
    from psycopg import sql

    link.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
