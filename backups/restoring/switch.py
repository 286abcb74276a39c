"""The switch from the live database and memory to the restored ones, and the way back from anywhere.

Renaming both databases is one transaction. Which of the two lives is read from their names, so that
going back needs to know nothing but the journal, also after `kill -9` at any line.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.restoring.journal import Journal, journal_file, read_journal
from backups.restoring.plan import exists
from backups.side_database import drop_database
from backups.sources.memory_files import MemoryPlace
from infra.administration import Way, way_in
from infra.deployment import Deployment
from infra.errors import LettaOpsError
from infra.process import Report
from infra.profiles import ADOPTED_KEY, PREVIOUS_KEY, remember
from infra.servers import start_server, stop_server

if TYPE_CHECKING:
    import psycopg

BUSY_SECONDS = 20.0  # clients may connect again and again until the server is really gone


def switch_databases(way: Way, journal: Journal) -> None:
    """Put the restored database in the place of the live one, which is kept as `previous`."""
    _rename(way, journal, [(journal.name, journal.previous)] if journal.had_database else [],
            (journal.side, journal.name))  # fmt: skip


def switched(way: Way, journal: Journal) -> bool:
    """Whether the restored database is the live one now: nothing else has made what is asked for."""
    return exists(way, journal.previous if journal.had_database else journal.name)


def go_back(deployment: Deployment, journal: Journal, report: Report) -> None:
    """Make everything as it was before the restore; safe to run again, and from any point of it.

    Raises LettaOpsError when that is not possible now; the journal stays until it was.
    """
    report("going back: the server is stopped, and what was there before takes its place again")
    stop_server(deployment)
    with way_in(deployment) as way:
        if switched(way, journal):
            back = [(journal.name, journal.side)]
            if journal.had_database:
                _rename(way, journal, back, (journal.previous, journal.name))
            else:
                _rename(way, journal, [], back[0])
        drop_database(way, journal.side)
    if journal.had_memory:
        MemoryPlace(deployment).undo()
    if journal.old_key is not None and deployment.profile is not None:
        kept = {"server.encryption_key": journal.old_key, ADOPTED_KEY: None, PREVIOUS_KEY: None}
        remember(deployment.profile, kept)
        from infra.provision import Request, up

        up(Request(deployment.stack, held=True), report)
    else:
        start_server(deployment)
    journal_file(deployment).unlink(missing_ok=True)
    report("going back: done, the server runs with what it had before")


def finish_interrupted(deployment: Deployment, report: Report) -> None:
    """Undo a restore that was killed in the middle, if there is one. The caller holds the lock."""
    path: Path = journal_file(deployment)
    journal = read_journal(path)
    if journal is not None:
        report(f"an earlier restore (of {journal.backup}) was interrupted before it was proven")
        go_back(deployment, journal, report)


def _rename(
    way: Way, journal: Journal, first: list[tuple[str, str]], then: tuple[str, str]
) -> None:
    import psycopg

    deadline = time.monotonic() + BUSY_SECONDS
    with way.connect(_not_one_of(way, journal)) as link:
        try:
            while True:
                try:
                    with link.transaction():
                        for old, new in [*first, then]:
                            _close(link, old)
                            _rename_one(link, old, new)
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


def _not_one_of(way: Way, journal: Journal) -> str:
    """A database to be connected to while those of the journal are renamed."""
    if way.maintenance not in (journal.name, journal.side, journal.previous):
        return way.maintenance
    return "postgres"


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
