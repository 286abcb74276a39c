"""Undoing a restore that was proven: what it replaced lives again, and what it brought is set aside.

The way back is the one of a restore that failed (`switch.go_back`). It is written down before it
begins; when it is killed, the guard or the next command finishes it, or forgets it where nothing
was changed yet.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from backups.catalog import deployment_id
from backups.lock import Lock
from backups.restoring.generations import Generations, Present
from backups.restoring.guard import start_guard
from backups.restoring.journal import Journal, ensure_no_other, journal_file, names_of
from backups.restoring.plan import DatabaseContents, look
from backups.restoring.restore import ConfirmServer
from backups.restoring.switch import carried, forget, go_back, has_begun, moves_back
from backups.restoring.upgrades import upgrade_of
from backups.sources.memory_files import MemoryPlace, reachable
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.servers import ensure_can_stop, is_ours
from infra.stack.deployment import Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.stack.locations import stack_folder
from infra.stack.profile import (
    ADOPTED_KEY,
    ENCRYPTION_KEY,
    PREVIOUS_KEY,
    PREVIOUS_OF,
    load,
    remembered,
)
from infra.stack.secrets import kept_value


@dataclass(frozen=True)
class Undoing:
    """What undoing the last restore would bring back, and what it would set aside as `kept`.

    `oids`: the numbers of the databases that it is about. `replaces` is None where there is none.
    """

    previous: str
    kept: str
    noun: str  # what these are: a database, a schema
    brings: Present
    replaces: DatabaseContents | None
    drops: tuple[DatabaseContents, ...]  # what was set aside before
    oids: tuple[int, int]

    def as_json(self) -> dict[str, Any]:
        return {
            self.noun: self.previous,
            "brings": {"agents": self.brings.agents, "messages": self.brings.messages},
            "replaces": self.replaces and self.replaces.as_json(),
            "kept": self.kept if self.replaces else None,
            "drops": [each.as_json() for each in self.drops],
        }


def plan_undoing(
    deployment: Deployment, generations: Generations, agreed: tuple[int, int] | None = None
) -> Undoing:
    """Return what would change places. Raises LettaOpsError (`nothing-to-undo`), and `plan-changed`
    where that aren't the databases that somebody has agreed to."""
    names = names_of(deployment)
    for name in (names.previous, names.older, names.undone):
        generations.ensure_ours(name)
    brings = generations.read(names.previous, None)
    aside = look(generations, [names.undone], None)
    if brings is None:
        done = f": the last restore is undone already, see {names.undone}" if aside else ""
        raise LettaOpsError(
            "nothing-to-undo",
            f"there is no {generations.noun} {names.previous}{done}",
            "see `letta-ops backup list` for what can be restored",
        )
    oids = (generations.number(generations.live), generations.number(names.previous))
    if agreed not in {None, oids}:
        raise LettaOpsError(
            "plan-changed",
            "these are not those of the plan any more: another restore was at work",
            "run the same command again, and read its plan",
        )
    live = look(generations, [generations.live], None)
    replaces = live[0] if live else None
    return Undoing(names.previous, names.undone, generations.noun, brings, replaces, aside, oids)


def undo(
    deployment: Deployment,
    generations: Generations,
    plan: Undoing,
    lock: Lock,
    confirm_server: ConfirmServer,
    report: Report,
) -> float:
    """Carry out `plan`; return the seconds it took. Raises LettaOpsError: then nothing was changed,
    or the next command goes on.

    What it sets aside stays until the next restore is proven or undone, or until `--drop-previous`.
    """
    started = time.monotonic()
    names = names_of(deployment)
    lock.ensure_held()
    ensure_no_other(deployment)
    ensure_can_stop(deployment)
    generations.drop(names.older)  # of a restore that was proven, and then killed
    if generations.exists(generations.live):
        for line in carried(generations, generations.live, names.previous):
            report(line)
    upgrade = upgrade_of(deployment, plan.oids[1], plan.brings.revision)
    # A migration leaves memory where it is: what is kept of it is a restore's, and not of this database.
    has_memory = (
        upgrade is None and reachable(deployment) and MemoryPlace.of(deployment).has_previous()
    )
    if has_memory:
        MemoryPlace.of(deployment).forget_others()
    live = plan.replaces.held if plan.replaces else None
    differs = live is None or live.revision != plan.brings.revision
    journal = Journal(
        deployment_id(deployment),
        names.previous,
        generations.live,
        plan.oids[0],
        had_database=True,
        had_memory=has_memory,
        old_keys=_keys(deployment, plan),
        undoes=True,
        provisions=deployment.folder is not None and differs,
        scope=names.scope,
        release=None if upgrade is None else upgrade.before,
    )
    if plan.replaces is not None:
        generations.drop(journal.side)
        generations.exchange(moves_back(generations, journal), rehearse=True)
    if generations.must_be_alone:
        lock.release_database()
    journal.write(journal_file(deployment))
    try:
        start_guard(deployment)
        go_back(deployment, journal, report)
    except BaseException as error:
        _forget_or_tell(deployment, journal, error)
        raise
    if is_ours(deployment):
        confirm_server(load(stack_folder(deployment.stack), deployment.profile))
    return round(time.monotonic() - started, 1)


def _forget_or_tell(deployment: Deployment, journal: Journal, error: BaseException) -> None:
    try:
        if not has_begun(deployment, journal):
            forget(deployment)
            return
    except BaseException as worse:  # noqa: BLE001  # the first error is the one to tell
        error.add_note(f"putting that right did not succeed yet: {worse}")
    error.add_note("the next `letta-ops backup` command, or `up`, goes on with it; nothing is lost")


def _keys(deployment: Deployment, plan: Undoing) -> dict[str, Any] | None:
    """The encryption keys in the profile afterwards, where the restore brought one along."""
    profile, folder = deployment.profile, deployment.folder
    if profile is None or folder is None or remembered(profile, PREVIOUS_OF) != plan.oids[1]:
        return None
    before = kept_value(folder, PREVIOUS_KEY)
    return {
        ENCRYPTION_KEY: remembered(profile, PREVIOUS_KEY),
        ADOPTED_KEY: None if before is None else key_fingerprint(Sensitive(before)),
        PREVIOUS_KEY: remembered(profile, ENCRYPTION_KEY),
        PREVIOUS_OF: plan.oids[0],
    }
