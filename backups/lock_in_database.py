"""The lock in a deployment's Postgres: it ends with the session that holds it, however that ends."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.identity import Process
from infra.stack.deployment import Deployment
from infra.targets import host

if TYPE_CHECKING:
    import psycopg

# A lock of the transaction rather than of the session: a pooler that lends sessions for one
# transaction each must not hand ours, with the lock, to somebody else.
SETTINGS = """
    SELECT set_config('application_name', %s, true),
        set_config('statement_timeout', '15s', true),
        set_config('idle_in_transaction_session_timeout', '0', true),
        set_config('tcp_keepalives_idle', '30', true),
        set_config('tcp_keepalives_interval', '10', true),
        set_config('tcp_keepalives_count', '3', true)
"""
UNLIMITED = "SELECT set_config('transaction_timeout', '0', true)"  # since PostgreSQL 17
TAKE = "SELECT pg_try_advisory_xact_lock(%s, %s)"
# Postgres keeps such locks apart by database. Who isn't administrator takes it in another one than who
# is: so everybody looks at all of them.
HOLDER = """
    SELECT activity.application_name
    FROM pg_locks held JOIN pg_stat_activity activity USING (pid)
    WHERE held.locktype = 'advisory' AND held.granted AND held.pid <> pg_backend_pid()
        AND held.classid = %s::int8::oid AND held.objid = %s::int8::oid AND held.objsubid = 2
"""
CLUSTER = "SELECT system_identifier || '/' || current_database() FROM pg_control_system()"
OURS = """
    SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()
        AND classid = %s::int8::oid AND objid = %s::int8::oid
"""
SESSION_NAME = re.compile(
    r"letta-ops (?P<purpose>.+): (?P<who>.*) pid (?P<pid>\d+) (?P<since>\d\d:\d\d)"
)
LONGEST_NAME = 63  # bytes of an application_name
CLASS = 0x1E77A  # of the advisory locks of letta-ops, among those of others
# A host that has gone is noticed from both ends, also where nothing is sent for hours.
KEEPALIVES = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


class DatabaseLock:
    """A session that holds the lock of one deployment. Safe to use from several threads.

    `cluster` is the Postgres and the database where it does, None where that isn't told.
    """

    def __init__(
        self, link: psycopg.Connection[Any], key: tuple[int, int], cluster: str | None
    ) -> None:
        self._link, self._key, self.cluster = link, key, cluster

    def is_held(self) -> bool:
        """Ask the server, through the very session that took it."""
        import psycopg

        try:
            return bool(_row(self._link, OURS, self._key))
        except psycopg.Error:
            return False

    def release(self) -> None:
        """Let go of it, and leave the database that it was taken in."""
        import psycopg

        with suppress(psycopg.Error):
            self._link.execute("ROLLBACK")  # closing alone would not wait until it is free
        self._link.close()


@contextmanager
def database_lock(
    deployment: Deployment, identifier: str, worker: Process, purpose: str
) -> Iterator[DatabaseLock]:
    """Hold the lock for the block, in the database that is there whatever happens to Letta's own.

    Raises LettaOpsError: `locked` naming the holder, and those of `Host.administrator`.
    """
    key = (CLASS, _number(identifier))
    with host(deployment).administrator() as access:
        patient = replace(access, settings={**access.settings, **KEEPALIVES})
        with patient.connect(access.maintenance) as link:
            lock = DatabaseLock(link, key, _cluster(link))
            try:
                _take(
                    link, key, session_name(worker, purpose, dt.datetime.now(dt.UTC)), access.place
                )
                yield lock
            finally:
                lock.release()


def _cluster(link: psycopg.Connection[Any]) -> str | None:
    import psycopg

    try:
        row = _row(link, CLUSTER)
    except psycopg.Error:
        return None  # some services of others don't let one look
    return None if row is None else str(row[0])


def _take(link: psycopg.Connection[Any], key: tuple[int, int], name: str, place: str) -> None:
    import psycopg

    try:
        link.execute("BEGIN")
        _row(link, SETTINGS, [name])
        if link.info.server_version >= 170000:
            _row(link, UNLIMITED)
        taken = _row(link, TAKE, key) == (True,)
        holder = _row(link, HOLDER, key)
    except psycopg.Error as error:
        raise LettaOpsError(
            "database-unreachable",
            f"the database {place} does not give the lock: {str(error).strip().splitlines()[0]}",
            "see whether Postgres is well (`letta-ops check`)",
        ) from None
    if not taken or holder is not None:
        raise holder_of(holder[0] if holder else "")


def _row(
    link: psycopg.Connection[Any], query: str, values: Sequence[object] = ()
) -> tuple[Any, ...] | None:
    """The first row of the answer. Asked in the protocol's simple way: in the extended one, what has
    been answered keeps its snapshot, which for hours would hold back vacuum.
    """
    import psycopg

    with psycopg.ClientCursor(link) as cursor:
        return cursor.execute(query, values).fetchone()


def locked_by(who: str, purpose: str, since: str, pid: object) -> LettaOpsError:
    """The refusal of everybody but the holder; `since` is a time of day in UTC."""
    what = f"`{purpose}`" if purpose else "something"
    began = f" since {since} UTC" if since else ""
    process = f" (pid {pid})" if pid else ""
    return LettaOpsError(
        "locked",
        f"{who or 'somebody'} is doing {what} on this deployment{began}{process}",
        "wait until it has finished, then run this again; if that process hangs, end it where it"
        " runs: its lock goes with it",
    )


def session_name(worker: Process, purpose: str, now: dt.datetime) -> str:
    """`letta-ops PURPOSE: WHO@HOST pid PID HH:MM`; where it is too long, the end of the host goes.

    The time is in it because only the administrator sees since when others' sessions are there.
    """
    tail = f" pid {worker.pid} {now:%H:%M}"
    begun = f"letta-ops {purpose}: {worker}".encode("ascii", "replace")
    return begun[: LONGEST_NAME - len(tail)].decode() + tail


def holder_of(name: str) -> LettaOpsError:
    """The refusal that names who is in a session's name."""
    found = SESSION_NAME.fullmatch(name)
    return locked_by(*(found.group("who", "purpose", "since", "pid") if found else [""] * 4))


def _number(identifier: str) -> int:
    """A number of 31 bits: Postgres takes it signed, and shows it unsigned."""
    return int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:4], "big") >> 1
