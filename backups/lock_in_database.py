"""The lock in a deployment's Postgres: it ends with the session that holds it, however that ends."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from infra.administration import way_in
from infra.deployment import Deployment
from infra.errors import LettaOpsError
from infra.identity import Process

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
HOLDER = """
    SELECT activity.application_name, activity.xact_start
    FROM pg_locks held JOIN pg_stat_activity activity USING (pid)
    WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 2
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND held.classid = %s::int8::oid AND held.objid = %s::int8::oid
"""
OURS = """
    SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()
        AND classid = %s::int8::oid AND objid = %s::int8::oid
"""
PREFIX = "letta-ops "
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

    `cluster` is the identifier of the Postgres where it does, None where that isn't told.
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

    Raises LettaOpsError: `locked` naming the holder, and those of `way_in` and of connecting.
    """
    key = (CLASS, _number(identifier))
    with way_in(deployment) as way:
        patient = replace(way, settings={**way.settings, **KEEPALIVES})
        with patient.connect(way.maintenance) as link:
            cluster = _cluster(link)
            _take(link, key, _name(worker, purpose), way.place)
            lock = DatabaseLock(link, key, cluster)
            try:
                yield lock
            finally:
                lock.release()


def _cluster(link: psycopg.Connection[Any]) -> str | None:
    import psycopg

    try:
        row = _row(link, "SELECT system_identifier::text FROM pg_control_system()")
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
        if _row(link, TAKE, key) == (True,):
            return
        holder = _row(link, HOLDER, key)
    except psycopg.Error as error:
        raise LettaOpsError(
            "database-unreachable",
            f"the database {place} does not give the lock: {str(error).strip().splitlines()[0]}",
            "see whether Postgres is well (`letta-ops check`)",
        ) from None
    with suppress(psycopg.Error):
        link.close()
    raise _locked(*(holder or ("", None)))


def _row(
    link: psycopg.Connection[Any], query: str, values: Sequence[object] = ()
) -> tuple[Any, ...] | None:
    """The first row of the answer. Asked in the protocol's simple way: in the extended one, what has
    been answered keeps its snapshot, which for hours would hold back vacuum.
    """
    import psycopg

    with psycopg.ClientCursor(link) as cursor:
        return cursor.execute(query, values).fetchone()


def _locked(name: str, since: dt.datetime | None) -> LettaOpsError:
    purpose, _, worker = name.removeprefix(PREFIX).rpartition(": ")
    who, _, pid = worker.rpartition(" pid ")
    return locked_by(who, purpose, since, pid)


def locked_by(who: str, purpose: str, since: dt.datetime | None, pid: object) -> LettaOpsError:
    """The refusal of everybody but the holder."""
    began = f" since {since.astimezone(dt.UTC):%H:%M UTC}" if since else ""
    what = f"`{purpose}`" if purpose else "something"
    return LettaOpsError(
        "locked",
        f"{who or 'somebody'} is doing {what} on this deployment{began}"
        + (f" (pid {pid})" if pid else ""),
        "wait until it has finished, then run this again; if that process hangs, end it where it"
        " runs: its lock goes with it",
    )


def _name(worker: Process, purpose: str) -> str:
    """`letta-ops PURPOSE: WHO@HOST pid PID`; what must be cut off is cut off the host, then of all."""
    head, tail = f"{PREFIX}{purpose}: ", f" pid {worker.pid}"
    room = max(0, LONGEST_NAME - len(tail.encode()))
    begun = f"{head}{worker}".encode("ascii", "replace")[:room].decode()
    return begun + tail


def _number(identifier: str) -> int:
    """A number of 31 bits: Postgres takes it signed, and shows it unsigned."""
    return int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:4], "big") >> 1
