"""Restoring a dump into a database of its own, whatever roles, schemas and settings it came from.

What pg_restore alone gets wrong (and why it looks like total loss then): it knows nothing of the
owner that the server here has, of the schema in which it looks, of settings like the search path
that belong to a database, and it can't make extensions without rights. An administrator makes the
database and what only he may make; everything else is done by its owner.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.catalog import Backup
from backups.extensions import ensure_offered, extensions_of, make_extensions
from backups.layout import (
    copy_settings,
    creation,
    drop_empty,
    move_extension,
    move_schema,
    reset_settings,
)
from backups.loading import HINT, Dump, load
from backups.manifest import LETTA, Properties
from backups.opening import Key
from backups.rights import apply_rights
from backups.scope import make_types
from backups.stores.store import Store
from infra.database.administration import DatabaseAccess
from infra.database.facts import MARK, find_pgvector, read_slots
from infra.errors import LettaOpsError
from infra.process import Report

if TYPE_CHECKING:
    import psycopg


COMMENT = """
SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = %s
"""
# Of what is no extension's.
ANYTHING = """
SELECT 1 FROM (
  SELECT 'pg_class'::regclass, oid FROM pg_class UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc
  UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type
  UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace
  UNION ALL SELECT 'pg_largeobject'::regclass, oid FROM pg_largeobject_metadata
) o (classid, objid) WHERE objid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d
  WHERE d.classid = o.classid AND d.objid = o.objid AND d.deptype IN ('e', 'i'))
LIMIT 1
"""
RIGHT_LACKS = "42501"  # SQLSTATE
COPY_TRIES = 50  # clients may connect again and again until the server is really gone
WITH_EXTENSION = "template1"  # where an administrator may have made it


@dataclass(frozen=True)
class SideDatabase:
    """The database to make: `owner` owns it and all in it; Letta's tables go to `schema` (None:
    where they were), the extension to `extension_schema`. `like`: the database whose settings and
    grants it is to have."""

    name: str
    owner: str
    schema: str | None = None
    extension_schema: str | None = None
    like: str | None = None


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
    else can look into; `trusted`: see `backups.loading.Dump`. Raises LettaOpsError; what was made
    is dropped again.
    """
    import psycopg

    drop = partial(drop_database, access, side.name)
    try:
        create_database(access, side, backup.manifest.database.properties, report)
        _prepare(access, side, backup, report)
        dump_at = partial(
            Dump.of, access, owner, side.name, backup, scratch, report, trusted=trusted
        )
        load(dump_at, store, backup, key, scratch, report)
        _put_right(access, side, backup, report, trusted=trusted)
    except psycopg.Error as error:
        failure = failed(error)
        drop_after(failure, drop, side.name)
        raise failure from None
    except BaseException as error:
        drop_after(error, drop, side.name)
        raise


def create_database(
    access: DatabaseAccess, side: SideDatabase, properties: Properties | None, report: Report
) -> None:
    """Make an empty database, as the backup's was, as far as this server has its locale: what differs is
    told."""
    import psycopg
    from psycopg import sql

    template = _template(access)
    drop_database(access, side.name)
    with access.connect(access.maintenance) as link:
        query = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} ENCODING 'UTF8'").format(
            sql.Identifier(side.name), sql.Identifier(side.owner), sql.Identifier(template)
        )
        places = [name for (name,) in link.execute("SELECT spcname FROM pg_tablespace")]
        *better, last = creation(properties, places)
        refused: str | None = None
        for words in better:
            try:
                link.execute(query + words)
                break
            except psycopg.Error as error:
                if link.broken:
                    raise
                refused = str(error).strip().splitlines()[0]
        else:
            link.execute(query + last)
        if refused is not None:
            report(f"database: where it lies or how its texts sort is not as it was: {refused}")
        set_mark(link, side.name, marked=True)
        if properties is not None and properties.tablespace not in places:
            report(f"database: the tablespace {properties.tablespace} is not here")
        if side.like is not None:
            # What we may not set is asked before anything is loaded.
            with link.transaction(force_rollback=True):
                copy_settings(link, side.like, side.name)


def copy_database(access: DatabaseAccess, side: SideDatabase) -> None:
    """Make `side` a copy of the database that it is to be like, files and all: nobody may be connected
    to that one meanwhile, and who is gets thrown out. Raises LettaOpsError."""
    import psycopg
    from psycopg import sql

    assert side.like is not None  # noqa: S101  # what is copied
    copy = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY FILE_COPY").format(
        *(sql.Identifier(name) for name in (side.name, side.owner, side.like))
    )
    drop_database(access, side.name)
    with access.connect(access.maintenance) as link:
        for last in (*[False] * (COPY_TRIES - 1), True):
            end_sessions(link, side.like)
            try:
                link.execute(copy)
                break
            except psycopg.errors.ObjectInUse as error:
                if last:
                    raise failed(error) from None
            except psycopg.Error as error:
                raise failed(error) from None
        set_mark(link, side.name, marked=True, comment_of=side.like)
        copy_settings(link, side.like, side.name)


def end_sessions(link: psycopg.Connection[Any], name: str) -> None:
    """End every other session in a database: it is neither renamed nor copied while there is one.

    But for autovacuum's, which are nobody's: only a superuser may end them, and Postgres does it itself.
    """
    link.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = %s AND pid <> pg_backend_pid() AND usesysid IS NOT NULL",
        [name],
    )


def _template(access: DatabaseAccess) -> str:
    """An empty database; one with the extension, where we may not make that ourselves."""
    if not access.is_superuser:
        with suppress(LettaOpsError), access.connect(WITH_EXTENSION) as link:
            if find_pgvector(link) and link.info.parameter_status("server_encoding") == "UTF8":
                return WITH_EXTENSION
    return "template0"


def drop_database(access: DatabaseAccess, name: str) -> None:
    """Drop a database of a restore, also one that is in use; nothing happens when there is none.

    Raises LettaOpsError (`database-foreign`) for one that somebody else made.
    """
    ensure_ours(access, name)
    with access.connect(access.maintenance) as link:
        _drop(link, name)


def is_ours(access: DatabaseAccess, name: str) -> bool:
    """Whether there is a database of this name, and a restore has made it or set it aside."""
    with access.connect(access.maintenance) as link:
        row = link.execute(COMMENT, [name]).fetchone()
    return row is not None and (row[0].endswith(MARK) or _is_empty(access, name))


def ensure_ours(access: DatabaseAccess, name: str) -> None:
    """Raise LettaOpsError (`database-foreign`) for a database of this name that no restore has made."""
    with access.connect(access.maintenance) as link:
        there = link.execute(COMMENT, [name]).fetchone() is not None
    if not there or is_ours(access, name):
        return
    raise LettaOpsError(
        "database-foreign",
        f"there is a database {name} that letta-ops did not make: it needs that name, and drops no"
        " database of others",
        "give yours another name (ALTER DATABASE ... RENAME TO ...), then run this again",
    )


def set_mark(
    link: psycopg.Connection[Any], name: str, *, marked: bool, comment_of: str | None = None
) -> None:
    """Write into the comment of database `name` whether it is one that a restore may drop; the rest of
    it stays, or is that of database `comment_of`."""
    from psycopg import sql

    (comment,) = link.execute(COMMENT, [comment_of or name]).fetchone() or ("",)
    comment = comment.removesuffix(MARK).rstrip()
    if marked:
        comment = f"{comment} {MARK}".lstrip()
    text = sql.Literal(comment) if comment else sql.SQL("NULL")
    link.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), text))


def _is_empty(access: DatabaseAccess, name: str) -> bool:
    """Whether nothing is in it: a restore may have been killed before it could set its mark."""
    with access.examine(name) as link:
        return link.execute(ANYTHING).fetchone() is None


def drop_after(error: BaseException, drop: Callable[[], None], name: str) -> bool:
    """Drop what is called `name` because of `error`, which is told when that fails too; False: it did."""
    import psycopg

    try:
        drop()
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
    if getattr(error, "sqlstate", None) == RIGHT_LACKS:
        return LettaOpsError(
            "database-privileges",
            f"the role of this deployment may not do what a restore needs: {reason}",
            "docs/external-database.md has what it needs; nothing was replaced",
        )
    return LettaOpsError("restore-failed", f"restoring the database failed: {reason}", HINT)


def _prepare(access: DatabaseAccess, side: SideDatabase, backup: Backup, report: Report) -> None:
    """Make the extensions where the dump will look for them: their types are named with their schema."""
    database = backup.manifest.database
    with access.examine(side.name) as link:
        ensure_offered(link, database)
        if database.scope == LETTA:
            make_types(link, database, side.owner)
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


def _put_right(
    access: DatabaseAccess, side: SideDatabase, backup: Backup, report: Report, *, trusted: bool
) -> None:
    """Everything is whose it was, and where the server here will look."""
    database = backup.manifest.database
    with access.connect(access.maintenance) as link:
        reset_settings(link, side.name)  # what was loaded may have set some
    with access.examine(side.name) as link:
        if database.rights is not None:
            trusted = trusted and access.is_superuser
            for line in apply_rights(link, database.rights, side.owner, trusted=trusted):
                report(f"database: leaving out {line}")
        if side.schema and database.schema and side.schema != database.schema:
            move_schema(link, database.schema, side.schema, side.owner)
        if side.extension_schema and database.pgvector is not None:
            _move_extension(link, side.extension_schema, report)
        if side.schema and database.schema not in (None, side.schema, "public"):
            drop_empty(link, str(database.schema))


def _move_extension(link: psycopg.Connection[Any], target: str, report: Report) -> None:
    """Put the extension where the server here will look, unless something else has its types' names."""
    import psycopg

    try:
        with link.transaction():
            move_extension(link, target)
    except (psycopg.errors.DuplicateObject, psycopg.errors.DuplicateFunction) as error:
        reason = str(error).strip().splitlines()[0]
        report(f"database: the extension vector stays where it was: {reason}")


def _each(access: DatabaseAccess, side: SideDatabase, statement: str) -> None:
    from psycopg import sql

    with access.connect(access.maintenance) as link:
        link.execute(sql.SQL(statement).format(sql.Identifier(side.name)))


def _drop(link: psycopg.Connection[Any], name: str) -> None:
    import psycopg
    from psycopg import sql

    try:
        link.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )
    except psycopg.errors.ObjectInUse as error:
        slots = read_slots(link, name)
        names = f" (its slots of replication: {', '.join(slots)})" if slots else ""
        raise LettaOpsError(
            "database-in-use",
            f"database {name} can't be dropped: {error.diag.message_primary}{names}",
            "end what reads from it (pg_replication_slots, pg_prepared_xacts), then run this again",
        ) from None


def ensure_unused(link: psycopg.Connection[Any], *names: str) -> None:
    """Raise LettaOpsError (`database-in-use`) where somebody reads from one by a slot of replication."""
    slots = [slot for name in names for slot in read_slots(link, name, active=True)]
    if slots:
        raise LettaOpsError(
            "database-in-use",
            f"an earlier restore has left a database that can't be dropped: {', '.join(slots)} of"
            " replication is read from",
            "end what reads from it, then run this again",
        )
