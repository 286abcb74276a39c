"""Undoing a restore that was proven: what it replaced lives again, and what it brought is set aside.

The way back is the one of a restore that failed (`switch.go_back`): written down before it begins,
finished by a guard or by the next command when it is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backups.catalog import deployment_id
from backups.lock import Lock
from backups.restoring.guard import start_guard
from backups.restoring.journal import Journal, ensure_no_other, journal_file, names_of
from backups.restoring.plan import Dropped, Present, dropped, read_present
from backups.restoring.switch import go_back, oid_of
from backups.sources.memory_files import MemoryPlace, reachable
from infra.administration import Way
from infra.audit import carry_over
from infra.deployment import Deployment
from infra.errors import LettaOpsError
from infra.locations import stack_folder
from infra.process import Report
from infra.profiles import ADOPTED_KEY, ENCRYPTION_KEY, PREVIOUS_KEY, load, remembered


@dataclass(frozen=True)
class Undoing:
    """What undoing the last restore would bring back, and what it would set aside as `kept`."""

    previous: str
    kept: str
    brings: Present
    replaces: Present
    drops: Dropped | None  # what was set aside before

    def as_json(self) -> dict[str, Any]:
        numbers = {"brings": self.brings, "replaces": self.replaces}
        return {
            "database": self.previous,
            **{
                name: {"agents": held.agents, "messages": held.messages}
                for name, held in numbers.items()
            },
            "kept": self.kept,
            "drops": self.drops and self.drops.as_json(),
        }


def plan_undoing(deployment: Deployment, way: Way) -> Undoing:
    """Return what would change places. Raises LettaOpsError (`nothing-to-undo`)."""
    names = names_of(deployment)
    previous = read_present(way, names.previous, None)
    present = read_present(way, names.name, None)
    if previous is None or present is None:
        missing = names.previous if previous is None else names.name
        raise LettaOpsError(
            "nothing-to-undo",
            f"there is no database {missing}, or nothing in it: no restore can be undone",
            "see `letta-ops backup list` for what can be restored",
        )
    aside = dropped(way, names.undone, None)
    return Undoing(names.previous, names.undone, previous, present, aside)


def undo(
    deployment: Deployment,
    way: Way,
    plan: Undoing,
    lock: Lock,
    prove: Callable[[Deployment], None],
    report: Report,
) -> float:
    """Carry out `plan`; return the seconds it took. Killed, it is finished and never taken back.

    What it sets aside stays until `--drop-previous`, or until the next restore is undone.
    """
    started = time.monotonic()
    names = names_of(deployment)
    ensure_no_other(deployment)
    with way.connect(names.name) as old, way.connect(names.previous) as new:
        carry_over(old, new)
    has_memory = reachable(deployment) and MemoryPlace(deployment).has_previous()
    if has_memory:
        MemoryPlace(deployment).forget_others()
    journal = Journal(
        deployment_id(deployment),
        names.previous,
        names.name,
        oid_of(way, names.name),
        had_database=True,
        had_memory=has_memory,
        old_keys=_keys(deployment),
        provisions=deployment.folder is not None and plan.brings.revision != plan.replaces.revision,
    )
    if way.maintenance == names.name:
        lock.release_database()
    else:
        lock.ensure_held()
    journal.write(journal_file(deployment))
    start_guard(deployment)
    go_back(deployment, journal, report)
    prove(load(stack_folder(deployment.stack), deployment.profile))
    return round(time.monotonic() - started, 1)


def _keys(deployment: Deployment) -> dict[str, str | None] | None:
    """The encryption keys in the profile afterwards, where the restore brought one along."""
    if deployment.profile is None:
        return None
    before = remembered(deployment.profile, PREVIOUS_KEY)
    if before is None:
        return None
    now = remembered(deployment.profile, ENCRYPTION_KEY)
    return {ENCRYPTION_KEY: before, ADOPTED_KEY: None, PREVIOUS_KEY: now}
