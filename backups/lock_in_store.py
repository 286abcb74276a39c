"""The lock in a store: an object that says who works, renewed while they do; a dead one is taken over."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from backups.catalog import read_object, write_object
from backups.lock_in_database import locked_by
from backups.stores.store import Store
from infra.errors import LettaOpsError
from infra.identity import Process, parse_process

NAME = "lock.json"
TAKING = "taking-over-"  # and the token of the lock that is being taken over
DEAD_AFTER = dt.timedelta(minutes=10)  # without being renewed
TAKEN_WITHIN = dt.timedelta(minutes=1)  # taking over is a few small requests


@dataclass(frozen=True)
class Claim:
    """What the object says. `database`: in which cluster its holder has the database's lock, too."""

    process: Process
    purpose: str
    since: dt.datetime
    database: str | None
    token: str

    def as_text(self) -> str:
        document = {**asdict(self.process), "purpose": self.purpose, "token": self.token}
        return json.dumps(
            {**document, "since": self.since.isoformat(), "database": self.database}, indent=1
        )


class StoreLock:
    """A lock that we have written. `renew` and `release` leave alone what somebody else has."""

    def __init__(self, store: Store, name: str, claim: Claim) -> None:
        self._store, self._name, self.claim = store, name, claim

    def is_held(self) -> bool:
        """Raises what the store raises when it can't tell."""
        found = _read(self._store, self._name)
        return found is not None and found.token == self.claim.token

    def renew(self) -> None:
        """Show that we are still here."""
        if self.is_held():
            write_object(self._store, self._name, self.claim.as_text())

    def without_database(self) -> None:
        """Say that it is the only lock from now on."""
        self.claim = replace(self.claim, database=None)
        self.renew()

    def release(self) -> None:
        if self.is_held():
            self._store.delete(self._name)


def new_claim(process: Process, purpose: str, database: str | None) -> Claim:
    return Claim(process, purpose, dt.datetime.now(dt.UTC), database, uuid.uuid4().hex)


def take(store: Store, identifier: str, claim: Claim, report: Callable[[str], None]) -> StoreLock:
    """Write the lock, over a dead holder's if need be, which `report` is told.

    Raises LettaOpsError: `locked` naming the holder, and what the store raises.
    """
    name = f"{identifier}/{NAME}"
    lock = StoreLock(store, name, claim)
    if not _written(store, name, claim):
        holder = _read(store, name)
        if holder is not None:
            why = _why_dead(store, name, holder, claim)
            if why is None:
                raise _locked(holder)
            with _taking_over(store, identifier, holder, claim):
                report(f"took over the lock of {holder.process} ({holder.purpose}): {why}")
        if not _written(store, name, claim):
            raise _locked(_read(store, name))
    if not lock.is_held():
        raise _locked(_read(store, name))
    return lock


def _written(store: Store, name: str, claim: Claim) -> bool:
    try:
        write_object(store, name, claim.as_text(), exclusive=True)
    except LettaOpsError as error:
        if error.code != "object-exists":
            raise
        return False
    return True


@contextmanager
def _taking_over(store: Store, identifier: str, dead: Claim, claim: Claim) -> Iterator[None]:
    """Remove a dead lock. Of two who do so at once, one gets to: the other would remove the first
    one's new lock."""
    mark = f"{identifier}/{TAKING}{dead.token}.json"
    if not _written(store, mark, claim):
        if _age(store, mark) < TAKEN_WITHIN:
            raise _locked(_read(store, mark))
        store.delete(mark)  # of one who died right here
        if not _written(store, mark, claim):
            raise _locked(_read(store, mark))
    try:
        name = f"{identifier}/{NAME}"
        found = _read(store, name)
        if found is not None:  # else somebody has just removed it
            if found.token != dead.token:
                raise _locked(found)
            store.delete(name)
        yield
    finally:
        store.delete(mark)


def _why_dead(store: Store, name: str, holder: Claim, ours: Claim) -> str | None:
    """Why the holder works no more, in words; None while it may."""
    if holder.process.is_gone():
        return f"its process {holder.process.pid} is gone"
    if holder.database and holder.database == ours.database:
        return "it has lost the database's lock, which we have now"
    if _age(store, name) > DEAD_AFTER:
        return f"it was not renewed for {DEAD_AFTER.total_seconds() / 60:.0f} minutes"
    return None


def _age(store: Store, name: str) -> dt.timedelta:
    """How long ago an object was written, by the store's own clock: ours may be another one."""
    probe = f"{name.rpartition('/')[0]}/clock-{uuid.uuid4().hex}.json"
    write_object(store, probe, "{}")
    try:
        times = [_modified(store, each) for each in (probe, name)]
    finally:
        store.delete(probe)
    now, written = times
    return now - written if now and written else dt.timedelta(0)


def _modified(store: Store, name: str) -> dt.datetime | None:
    return next((entry.modified for entry in store.entries(name) if entry.name == name), None)


def _read(store: Store, name: str) -> Claim | None:
    """The claim at `name`; None where there is none."""
    try:
        text = read_object(store, name)
    except LettaOpsError as error:
        if error.code == "object-missing":
            return None
        raise
    try:
        document: dict[str, Any] = json.loads(text)
        return Claim(
            parse_process(document),
            str(document["purpose"]),
            dt.datetime.fromisoformat(document["since"]),
            document["database"],
            str(document["token"]),
        )
    except (ValueError, KeyError, TypeError):
        raise LettaOpsError(
            "lock-damaged",
            f"{store.url}: {name} is no lock that letta-ops understands",
            f"see that no other letta-ops works on this deployment, then remove {name} there",
        ) from None


def _locked(holder: Claim | None) -> LettaOpsError:
    if holder is None:
        return locked_by("somebody", "", "", "")
    since = f"{holder.since.astimezone(dt.UTC):%H:%M}"
    return locked_by(str(holder.process), holder.purpose, since, holder.process.pid)
