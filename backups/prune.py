"""Removing what nobody keeps: old backups by the rules of retention, and what broken writes left.

The manifest of a backup goes first: from then on it is no backup, and what an interruption leaves of
it is found by the next run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from backups.catalog import Backup, Damaged, read_catalog
from backups.manifest import MANIFEST
from backups.retention import Decision, decide
from backups.stores.store import Entry, Store
from infra.errors import LettaOpsError
from infra.stack.backup_settings import Retention

# Younger ones may be somebody's running upload: no backup should take longer.
LEFTOVER_AGE = dt.timedelta(days=1)

UNFINISHED = "a write that never ended"
INCOMPLETE = "part of a backup that was never finished, or is being removed"


@dataclass(frozen=True)
class Leftover:
    """An object, or the draft of one, that belongs to no backup; `size` in bytes."""

    name: str
    size: int
    why: str


@dataclass(frozen=True)
class Plan:
    """What a prune at `now` would do. `younger` counts unfinished backups that are left alone yet;
    `damaged` ones stay: somebody must look at them."""

    now: dt.datetime
    decisions: tuple[Decision, ...]
    leftovers: tuple[Leftover, ...]
    damaged: tuple[Damaged, ...]
    younger: int

    @property
    def going(self) -> tuple[Backup, ...]:
        return tuple(decision.backup for decision in self.decisions if not decision.keep)

    @property
    def size(self) -> int:
        """The bytes that would become free."""
        return sum(backup.manifest.size for backup in self.going) + sum(
            leftover.size for leftover in self.leftovers
        )


@dataclass
class Outcome:
    """What was done so far: the ids of removed backups, leftovers, bytes; and what a store's object
    lock holds, with the store's own words."""

    removed: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    freed: int = 0
    locked: dict[str, str] = field(default_factory=dict)


def plan(store: Store, deployment: str, retention: Retention, now: dt.datetime) -> Plan:
    """Say what would go, and change nothing; raises what the store raises."""
    catalog = read_catalog(store, deployment)
    oldest = now - LEFTOVER_AGE
    old = sorted(folder for folder, written in catalog.incomplete.items() if written < oldest)
    leftovers = [
        *(_leftover(entry, UNFINISHED) for entry in store.unfinished(oldest, remove=False)),
        *(_leftover(entry, INCOMPLETE) for folder in old for entry in store.entries(folder)),
    ]
    return Plan(
        now,
        tuple(decide(catalog.backups, retention, now)),
        tuple(leftovers),
        catalog.damaged,
        len(catalog.incomplete) - len(old),
    )


def execute(
    store: Store,
    planned: Plan,
    report: Callable[[str], None],
    ensure_held: Callable[[], None] = lambda: None,
) -> Outcome:
    """Do what was planned; `ensure_held` raises when the deployment's lock is no longer ours.

    What an object lock holds is told in the outcome, and left as it is. Raises what the store
    raises otherwise; the next prune goes on from there.
    """
    outcome = Outcome()
    for backup in planned.going:
        ensure_held()
        report(f"removing {backup.id}")
        if _removed(store, backup, outcome):
            outcome.removed.append(backup.id)
    ensure_held()
    for leftover in planned.leftovers:
        if leftover.why == INCOMPLETE and _deleted(store, leftover.name, leftover.size, outcome):
            outcome.leftovers.append(leftover.name)
    for entry in store.unfinished(planned.now - LEFTOVER_AGE, remove=True):
        outcome.leftovers.append(entry.name)
        outcome.freed += entry.size
    return outcome


def _removed(store: Store, backup: Backup, outcome: Outcome) -> bool:
    """Delete a backup, its manifest first; False when the store holds that, and so all of it."""
    for entry in _manifest_first(store, backup):
        if not _deleted(store, entry.name, entry.size, outcome) and _is_manifest(backup, entry):
            return False
    return True


def _manifest_first(store: Store, backup: Backup) -> Iterator[Entry]:
    entries = list(store.entries(backup.object("")))
    yield from sorted(entries, key=lambda entry: not _is_manifest(backup, entry))


def _is_manifest(backup: Backup, entry: Entry) -> bool:
    return entry.name == backup.object(MANIFEST)


def _deleted(store: Store, name: str, size: int, outcome: Outcome) -> bool:
    try:
        store.delete(name)
    except LettaOpsError as error:
        if error.code != "object-locked":
            raise
        outcome.locked[name] = error.message
        return False
    outcome.freed += size
    return True


def _leftover(entry: Entry, why: str) -> Leftover:
    return Leftover(entry.name, entry.size, why)
