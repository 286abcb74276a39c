"""The switch from the live database and memory to the restored ones, and the way back from anywhere.

Renaming the databases is one transaction. Which of them lives is read from the number of the restored
one, so that going back needs to know nothing but the journal, also after `kill -9` at any line.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from typing import TYPE_CHECKING, Any

from backups.restoring.journal import Journal, journal_file, read_journal
from backups.restoring.plan import exists
from backups.restoring.scratch import remove_leftovers
from backups.side_database import drop_database, set_mark
from backups.sources.memory_files import MemoryPlace
from infra.audit.log import Event
from infra.audit.trail import append
from infra.database.administration import DatabaseAccess
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.servers import start_server, stop_server
from infra.stack.deployment import ADMIN_ROLE, Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.stack.profile import ADOPTED_KEY, ENCRYPTION_KEY, remember
from infra.stack.secrets import kept_value
from infra.targets import host

if TYPE_CHECKING:
    import psycopg

BUSY_SECONDS = 20.0  # clients may connect again and again until the server is really gone


def switch_databases(access: DatabaseAccess, journal: Journal) -> None:
    """Put the restored database in the place of the live one, which is kept as `previous`.

    What an earlier restore has replaced stays too, as `older`, until this one is proven.
    """
    moves = [(journal.side, journal.name)]
    if journal.had_database:
        moves.insert(0, (journal.name, journal.previous))
    if exists(access, journal.previous):
        moves.insert(0, (journal.previous, journal.older))
    _rename(access, journal, moves)


def go_back(deployment: Deployment, journal: Journal, report: Report) -> None:
    """Make everything as it was before the restore; safe to run again, and from any point of it.

    A restored database that served for a moment is kept as `undone`: somebody may have written to
    it. Raises LettaOpsError when that is not possible now; the journal stays until it was.
    """
    report("going back: the server is stopped, and what was there before takes its place again")
    stop_server(deployment)
    with host(deployment).administrator() as access:
        if _name_of(access, journal.side_oid) == journal.side:
            with access.connect(access.maintenance) as link:
                set_mark(link, journal.side, marked=True)  # whoever wrote the journal has made it
        if _name_of(access, journal.side_oid) == journal.name:
            drop_database(access, journal.side)  # not that one: of an earlier time
            _switch_back(access, journal)
        elif journal.undoes and not exists(access, journal.name):
            _rename(access, journal, [(journal.previous, journal.name)])
        drop_database(access, journal.side)
    if journal.had_memory:
        MemoryPlace.of(deployment).undo()
    if journal.old_keys is not None and deployment.profile is not None:
        remember(deployment.profile, journal.old_keys)
        _adopt(deployment)
    if journal.old_keys is not None or journal.provisions:
        from infra.provision import Request, up

        up(Request(deployment.stack, held=True), report)
    else:
        start_server(deployment)
    journal_file(deployment).unlink(missing_ok=True)
    report("going back: done, the server runs with what it had before")


def _adopt(deployment: Deployment) -> None:
    """Say that the key in the profile belongs to the data, though `up` may know the backup's by now."""
    folder, profile = deployment.folder, deployment.profile
    if folder is not None and profile is not None:
        key = kept_value(folder, ENCRYPTION_KEY)
        adopted = None if key is None else key_fingerprint(Sensitive(key))
        remember(profile, {ADOPTED_KEY: adopted})


def _switch_back(access: DatabaseAccess, journal: Journal) -> None:
    moves = [(journal.name, journal.undone)]
    if exists(access, journal.undone):  # of an earlier time: it goes with the side database
        moves.insert(0, (journal.undone, journal.side))
    if journal.had_database:
        moves.append((journal.previous, journal.name))
    if exists(access, journal.older):
        moves.append((journal.older, journal.previous))
    _rename(access, journal, moves)


def finish_interrupted(deployment: Deployment, report: Report) -> None:
    """Undo a restore that was killed in the middle, if there is one. The caller holds the lock.

    The undoing of a proven one is finished when it had begun, else forgotten.
    """
    remove_leftovers(deployment, report)
    journal = read_journal(deployment)
    if journal is None:
        return
    if journal.proven:
        report(f"an earlier restore (of {journal.backup}) was killed after it had taken effect")
        _record(deployment, journal)
        journal_file(deployment).unlink()
    elif not journal.undoes:
        report(f"an earlier restore (of {journal.backup}) was interrupted before it was proven")
        go_back(deployment, journal, report)
    elif has_begun(deployment, journal):
        report("the undoing of a restore was interrupted: it goes on")
        go_back(deployment, journal, report)
    else:
        report("the undoing of a restore was interrupted before anything was changed")
        forget(deployment)


def _record(deployment: Deployment, journal: Journal) -> None:
    """See to it that the audit trail tells of a restore whose command can't any more."""
    event = Event(
        "backup restore",
        journal.backup,
        "done",
        dt.datetime.now(dt.UTC),
        0.0,
        {"backup": journal.backup, "killed": "after it had taken effect"},
        id=uuid.UUID(journal.record) if journal.record else uuid.uuid4(),
    )
    append(deployment, event)


def has_begun(deployment: Deployment, journal: Journal) -> bool:
    """Whether undoing a proven restore has changed anything: the databases come first."""
    with host(deployment).administrator() as access:
        return _name_of(access, journal.side_oid) != journal.name


def forget(deployment: Deployment) -> None:
    """End an undoing that has not begun: the server, which it stopped, runs again."""
    start_server(deployment)
    journal_file(deployment).unlink(missing_ok=True)


def oid_of(access: DatabaseAccess, name: str) -> int:
    """The number of a database: it stays the same whatever the database is called."""
    with access.connect(access.maintenance) as link:
        row = link.execute("SELECT oid FROM pg_database WHERE datname = %s", [name]).fetchone()
    assert row is not None  # noqa: S101  # it was made a moment ago
    return int(row[0])


def _name_of(access: DatabaseAccess, oid: int) -> str | None:
    with access.connect(access.maintenance) as link:
        row = link.execute("SELECT datname FROM pg_database WHERE oid = %s", [oid]).fetchone()
    return None if row is None else str(row[0])


def _rename(access: DatabaseAccess, journal: Journal, moves: list[tuple[str, str]]) -> None:
    """Rename databases, all of them or none: it is one transaction."""
    import psycopg

    deadline = time.monotonic() + BUSY_SECONDS
    with access.connect(_not_one_of(access, journal)) as link:
        try:
            while True:
                try:
                    with link.transaction():
                        for old, new in moves:
                            _close(link, old)
                            _rename_one(link, old, new)
                            set_mark(link, new, marked=new != journal.name)
                except psycopg.errors.ObjectInUse:
                    if time.monotonic() > deadline:
                        raise
                else:
                    return
        except psycopg.Error as error:
            raise LettaOpsError(
                "switch-failed",
                f"the databases can't be renamed: {str(error).strip().splitlines()[0]}",
                "end what is connected to them (pg_stat_activity), then run this again",
            ) from None


def _not_one_of(access: DatabaseAccess, journal: Journal) -> str:
    """A database to be connected to while those of the journal are renamed."""
    return ADMIN_ROLE if access.maintenance == journal.name else access.maintenance


def _close(link: psycopg.Connection[Any], name: str) -> None:
    """End every other session in a database: a rename is refused while there is one."""
    link.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = %s AND pid <> pg_backend_pid()",
        [name],
    )


def _rename_one(link: psycopg.Connection[Any], old: str, new: str) -> None:
    from psycopg import sql

    link.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
    )
