"""One changing operation at a time on a deployment, held where every operator sees it."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from backups import lock_in_store
from backups.catalog import deployment_id
from backups.lock_in_database import DatabaseLock, database_lock
from backups.lock_in_store import DEAD_AFTER, StoreLock
from backups.stores.store import Store
from infra.background import every
from infra.errors import LettaOpsError
from infra.files import held
from infra.identity import Process, this_process
from infra.process import Report
from infra.stack.deployment import Deployment

RENEW_SECONDS = 120.0
RETRY_SECONDS = 1.0
GRACE_SECONDS = 5.0  # for a renewal at hand, when the work has ended


class Lock:
    """What is held, in the deployment's database, in its store, or in both."""

    def __init__(self, database: DatabaseLock | None, store: StoreLock | None) -> None:
        self._database, self._store = database, store
        self._seen = time.monotonic()  # when the store last said that it is ours
        self._turn = threading.RLock()  # the renewing thread and the work take turns

    def ensure_held(self) -> None:
        """Ask whether it is still ours: to be called before every step that can't be taken back.

        Raises LettaOpsError (`lock-lost`).
        """
        with self._turn:
            if self._database is not None and not self._database.is_held():
                raise _lost("the connection to the database broke, and the lock went with it")
            if self._store is None:
                return
            try:
                ours = self._store.is_held()
            except LettaOpsError as error:
                if time.monotonic() - self._seen < DEAD_AFTER.total_seconds():
                    return  # nobody may have taken it over yet
                raise _lost(f"the store has not answered for too long: {error.message}") from None
            if not ours:
                raise _lost("somebody has taken over the lock in the store, or removed it")
            self._seen = time.monotonic()

    def release_database(self) -> None:
        """Give up the database's lock alone, and with it the connection: for a restore that must
        have nobody in that very database (one that we didn't provision has no other to wait in).
        """
        with self._turn:
            if self._database is not None:
                self._database.release()
                self._database = None
                if self._store is not None:
                    self._store.without_database()

    def renew(self) -> None:
        """Show that we are still at work; also keeps an idle connection from being cut on its way."""
        with self._turn:
            if self._database is not None:
                self._database.is_held()
            if self._store is not None:
                self._store.renew()
                self._seen = time.monotonic()


@contextmanager
def locked(
    deployment: Deployment,
    store: Store | None,
    purpose: str,
    report: Report,
    wait: float = 0.0,
) -> Iterator[Lock]:
    """Hold the deployment for the block; `purpose` is the command (`backup create`).

    Three locks, in this order: the stack's file here, so that `up` and `destroy` stay out; one in
    its Postgres; and one in the store. What can't be had (a database that is down) is told by
    `report`, so is a dead holder's lock that is taken over. With `wait`, tries again for so many
    seconds.

    Raises LettaOpsError: `locked` naming who works on it, and what the store raises.
    """
    report_once = _Once(report)
    deadline = time.monotonic() + wait
    with ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(_all_three(deployment, store, purpose, report_once))
                break
            except LettaOpsError as error:
                if error.code != "locked" or time.monotonic() >= deadline:
                    raise
                report_once(f"waiting: {error.message}")
            time.sleep(max(0.0, min(RETRY_SECONDS, deadline - time.monotonic())))
        yield lock


@contextmanager
def _all_three(
    deployment: Deployment, store: Store | None, purpose: str, report: Report
) -> Iterator[Lock]:
    worker, identifier = this_process(), deployment_id(deployment)
    folder = deployment.folder
    with ExitStack() as stack:
        if folder is not None and folder.root.is_dir():
            who = f"{worker} with `{purpose}` since {dt.datetime.now(dt.UTC):%H:%M UTC}"
            stack.enter_context(held(folder.lock, who))
        database = _in_database(stack, deployment, worker, purpose, report)
        in_store = None
        if store is not None:
            cluster = None if database is None else database.cluster
            claim = lock_in_store.new_claim(worker, purpose, cluster)
            in_store = lock_in_store.take(store, identifier, claim, report)
            stack.callback(_let_go, in_store, report)
        lock = Lock(database, in_store)
        stack.enter_context(_renewed(lock))
        yield lock


def _in_database(
    stack: ExitStack, deployment: Deployment, worker: Process, purpose: str, report: Report
) -> DatabaseLock | None:
    """The database's lock; None where no database can be reached, which is no reason not to restore."""
    if deployment.database is None:
        return None
    held_there = database_lock(deployment, deployment_id(deployment), worker, purpose)
    try:
        return stack.enter_context(held_there)
    except LettaOpsError as error:
        if error.code == "locked":
            raise
        report(f"no lock in the database, only outside of it: {error.message}")
        return None


def _renewed(lock: Lock) -> AbstractContextManager[None]:
    """Renew the lock for as long as the block."""

    def renew() -> None:
        # `ensure_held` raises it, where the work must not go on without.
        with suppress(LettaOpsError):
            lock.renew()

    return every(RENEW_SECONDS, renew, GRACE_SECONDS)


def _let_go(lock: StoreLock, report: Report) -> None:
    """Remove the store's lock. That it can't be is no failure of the work, which is done."""
    try:
        lock.release()
    except LettaOpsError as error:
        minutes = DEAD_AFTER.total_seconds() / 60
        report(f"the lock in the store stays, dead in {minutes:.0f} minutes: {error.message}")


def _lost(why: str) -> LettaOpsError:
    return LettaOpsError(
        "lock-lost",
        f"the lock on this deployment is lost: {why}",
        "nothing was changed after that; see that nobody else works on it, then run this again",
    )


class _Once:
    """A report that says nothing twice."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report, self._said = report, set[str]()

    def __call__(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._report(line)
