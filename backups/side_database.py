"""Restoring a dump into a database of its own, whatever roles, schemas and settings it came from.

What pg_restore alone gets wrong (and why it looks like total loss then): it knows nothing of the
owner that the server here has, of the schema in which it looks, of settings like the search path
that belong to a database, and it can't make the extension without rights.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.catalog import Backup
from backups.layout import LETTA_OPS, move_extension, move_schema
from backups.manifest import DATABASE
from backups.opening import Key, opened_part, the_part
from backups.programs import find_restore
from backups.stores.store import Store
from backups.streams import CHUNK, pulled
from backups.words import size_in_words
from infra.administration import Way
from infra.deployment import ADMIN_ROLE
from infra.errors import LettaOpsError
from infra.process import Report, command, run
from infra.sensitive import Sensitive

if TYPE_CHECKING:
    import psycopg

JOBS = 2
ADMINISTRATION = ("EXTENSION", "COMMENT - EXTENSION")
HINT = (
    "look at Postgres' log (`letta-ops logs postgres`) and the free disk space, then run this again"
)


@dataclass(frozen=True)
class SideDatabase:
    """The database to make: `owner` owns it and all in it; Letta's tables go to `schema` (None:
    where they were), the extension to `extension_schema`."""

    name: str
    owner: str
    schema: str | None = None
    extension_schema: str | None = None


def restore_database(
    way: Way,
    side: SideDatabase,
    store: Store,
    backup: Backup,
    key: Key,
    scratch: Path,
    report: Report,
) -> None:
    """Make `side`, with what the backup's dump holds; one of this name is dropped first.

    The dump is laid down in `scratch`, decrypted, for as long as it takes: only a file can be
    restored by several jobs. Raises LettaOpsError; what was made is dropped again.
    """
    import psycopg

    try:
        create_database(way, side)
        with _laid_down(store, backup, key, scratch, report) as dump:
            _prepare(way, side, backup)
            _restore(way, side, backup, dump, scratch, report)
        _put_right(way, side, backup)
    except psycopg.Error as error:
        told = failed(error)
        drop_after(told, way, side.name)
        raise told from None
    except BaseException as error:
        drop_after(error, way, side.name)
        raise


def create_database(way: Way, side: SideDatabase) -> None:
    from psycopg import sql

    with way.connect(way.maintenance) as link:
        _drop(link, side.name)
        link.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'").format(
                sql.Identifier(side.name), sql.Identifier(side.owner)
            )
        )


def drop_database(way: Way, name: str) -> None:
    """Drop a database, also one that is in use; nothing happens when there is none."""
    with way.connect(way.maintenance) as link:
        _drop(link, name)


def drop_after(error: BaseException, way: Way, name: str) -> bool:
    """Drop a database because of `error`, which is told when that fails too; False: it did."""
    import psycopg

    try:
        drop_database(way, name)
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
    if "permission denied to create extension" in reason:
        return LettaOpsError(
            "database-privileges",
            "the role of this deployment may not make the extension vector in a new database",
            "let it, or restore as a role that may (docs/external-database.md)",
        )
    return LettaOpsError("restore-failed", f"restoring the database failed: {reason}", HINT)


@contextmanager
def _laid_down(
    store: Store, backup: Backup, key: Key, scratch: Path, report: Report
) -> Iterator[Path]:
    """Yield a file with the dump, compared with the manifest; nobody else can read it."""
    part = the_part(backup, DATABASE)
    report(f"database: fetching {size_in_words(part.size)}")
    ensure_room(scratch, part.plain_size)
    descriptor, name = tempfile.mkstemp(prefix="restoring-", suffix=".dump", dir=scratch)
    path = Path(name)
    try:
        _lay_down(store, backup, key, descriptor, scratch)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _lay_down(store: Store, backup: Backup, key: Key, descriptor: int, scratch: Path) -> None:
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            opened_part(store, backup, DATABASE, key) as got,
            pulled(lambda sink: shutil.copyfileobj(got, sink, CHUNK)) as chunks,
        ):
            for chunk in chunks:  # written by this thread, while another one unpacks what is next
                file.write(chunk)
    except OSError as error:
        raise LettaOpsError(
            "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "restore-failed",
            f"the dump can't be written to {scratch}: {error.strerror}",
            "free some disk space there, then run this again",
        ) from None


def ensure_room(scratch: Path, needed: int) -> None:
    """Raise LettaOpsError (`disk-full`) where so many bytes surely don't fit."""
    free = shutil.disk_usage(scratch).free
    if free < needed * 1.05:
        raise LettaOpsError(
            "disk-full",
            f"restoring needs {size_in_words(needed)} in {scratch}, and {size_in_words(free)} are free",
            "free some disk space, then run this again",
        )


def _prepare(way: Way, side: SideDatabase, backup: Backup) -> None:
    """Make the extension where the dump will look for it: its types are named with their schema."""
    from psycopg import sql

    home = backup.manifest.database.pgvector_schema or "public"
    with way.connect(side.name) as link:
        if home != "public":
            link.execute(
                sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(
                    sql.Identifier(home), sql.Identifier(side.owner)
                )
            )
        if backup.manifest.database.pgvector is not None:
            query = sql.SQL("CREATE EXTENSION vector SCHEMA {}").format(sql.Identifier(home))
            link.execute(query)
    _set_jobs_aside(way, side)


def _set_jobs_aside(way: Way, side: SideDatabase) -> None:
    """Settings of this database until the end: more memory for indexes, and no commit waits for the
    disk, since what a crash takes is made anew."""
    _each(way, side, "ALTER DATABASE {} SET maintenance_work_mem = '256MB'")
    _each(way, side, "ALTER DATABASE {} SET synchronous_commit = off")


def _restore(
    way: Way, side: SideDatabase, backup: Backup, dump: Path, scratch: Path, report: Report
) -> None:
    with way.connect(side.name) as link:
        server = link.info.server_version // 10_000
    dumped_with = int(backup.manifest.tools["pg_dump"].split(".")[0])
    program = find_restore(server, dumped_with)
    environment = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", **way.environment(side.name)}
    secrets = (Sensitive(password),) if (password := environment.get("PGPASSWORD")) else ()
    settings: dict[str, Any] = {"environment": environment, "secrets": secrets}
    telling = {"code": "restore-failed", "hint": HINT, "what": "restoring the database"}
    listing = run(command(program.path, "--list", dump, **settings), **telling).stdout
    home = backup.manifest.database.pgvector_schema or "public"
    with tempfile.NamedTemporaryFile("w", dir=scratch, prefix="restoring-") as chosen:
        chosen.writelines(f"{line}\n" for line in _wanted(listing.splitlines(), home))
        chosen.flush()
        role = [f"--role={side.owner}"] if way.all_rights else []
        report(f"database: restoring {len(listing.splitlines())} items with {JOBS} jobs")
        job = command(
            program.path, f"--dbname={side.name}", f"--jobs={JOBS}", "--no-owner",
            "--no-privileges", "--no-password", "--exit-on-error", *role,
            # Of the source's replication: it is not ours to begin, and may need all rights.
            "--no-publications", "--no-subscriptions",
            f"--use-list={chosen.name}", dump, **settings,
        )  # fmt: skip
        run(job, **telling)


def _wanted(listing: list[str], home: str) -> Iterator[str]:
    """Of pg_restore's list, all but what was made already."""
    for line in listing:
        entry = line.partition("; ")[2].split(" ", 2)[-1] if not line.startswith(";") else ""
        made = (*ADMINISTRATION, f"SCHEMA - {home} ", "COMMENT - SCHEMA public")
        if not entry.startswith(made):
            yield line


def _put_right(way: Way, side: SideDatabase, backup: Backup) -> None:
    """What belongs to us is ours again, and everything is where the server here will look."""
    database = backup.manifest.database
    with way.connect(side.name) as link:
        if way.all_rights:
            _to_administrator(link)
        if side.schema and database.schema and side.schema != database.schema:
            move_schema(link, database.schema, side.schema, side.owner)
        if side.extension_schema and database.pgvector is not None:
            move_extension(link, side.extension_schema)
    _each(way, side, "ALTER DATABASE {} RESET maintenance_work_mem")
    _each(way, side, "ALTER DATABASE {} RESET synchronous_commit")


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


def _each(way: Way, side: SideDatabase, statement: str) -> None:
    from psycopg import sql

    with way.connect(way.maintenance) as link:
        link.execute(sql.SQL(statement).format(sql.Identifier(side.name)))


def _drop(link: psycopg.Connection[Any], name: str) -> None:
    from psycopg import sql

    link.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
