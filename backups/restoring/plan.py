"""What a restore would replace and lose, and every reason not to begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from backups.catalog import Backup, Drill, deployment_id
from backups.layout import LETTA_OPS
from backups.opening import Key, escrowed_key
from backups.restoring.generations import Generations, Present
from backups.restoring.journal import names_of
from backups.restoring.releases import ensure_known
from backups.signing import Signers
from backups.stores.store import Store
from infra.audit.trail import entries
from infra.database.connection import database_of
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.stack.deployment import Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.targets import host
from letta_ops.registry.carrying import linked_since
from letta_ops.registry.links import Link

T = TypeVar("T")
RECORDS = 500  # of the audit trail, among which the last restore is looked for


@dataclass(frozen=True)
class Options:
    """What the operator allows on purpose."""

    into_other: bool = False
    accept_lost_secrets: bool = False
    accept_unsigned: bool = False


@dataclass(frozen=True)
class DatabaseContents:
    """A database, or schema (`noun`), and what it holds; `held` is None where that can't be read."""

    name: str
    noun: str
    held: Present | None

    def as_json(self) -> dict[str, Any]:
        held = self.held
        return {
            self.noun: self.name,
            "agents": held and held.agents,
            "messages": held and held.messages,
        }


@dataclass(frozen=True)
class Plan:
    """A restore that may begin. `present` is None where there is no database, or nothing in it.

    `drops`: what earlier restores replaced or set aside; only what the last one replaced is kept.
    `key` is the server's encryption key after it: its own, or the backup's (`new_key`).
    """

    backup: Backup
    present: Present | None
    drops: tuple[DatabaseContents, ...]
    foreign: bool
    new_key: Sensitive | None
    secrets_lost: bool
    provisions: bool  # ends with `up`: key, schema or providers have to be put right
    drill: Drill | None  # the last one that passed or failed
    signed: bool  # by somebody who is known here
    missing_roles: tuple[str, ...]  # what they own or may do is left out
    slots: tuple[str, ...]  # of replication: they stay with the database that is replaced
    links: tuple[Link, ...] = ()  # of applications, made since: their agents are not in the backup
    losses: tuple[str, ...] = ()  # see `with_losses`
    down_seconds: float | None = None  # of the last restore here

    def as_json(self) -> dict[str, Any]:
        present = self.present
        return {
            "backup": self.backup.id,
            "created_at": self.backup.manifest.created_at.isoformat(),
            "of_other_deployment": self.foreign,
            "replaces": present and {"agents": present.agents, "messages": present.messages},
            "newer_than_backup": present
            and {"agents": present.newer_agents, "messages": present.newer_messages},
            "brings": {
                "agents": self.backup.manifest.database.rows("agents"),
                "messages": self.backup.manifest.database.rows("messages"),
                "memory_repositories": self.backup.manifest.memory.repositories,
            },
            "drops": [each.as_json() for each in self.drops],
            "takes_over_key": self.new_key is not None,
            "secrets_lost": self.secrets_lost,
            "signed": self.signed,
            "missing_roles": list(self.missing_roles),
            "replication_slots": list(self.slots),
            "links_newer_than_backup": [
                {"app": each.app, "app_agent_id": each.app_agent_id, "agent": each.letta_agent_id}
                for each in self.links
            ],
            "goes_back": list(self.losses),
            "expected_down_seconds": self.down_seconds,
            "last_drill": self.drill and self.drill.verdict,
            "last_drill_seconds": self.drill and self.drill.seconds,
        }


def make_plan(
    deployment: Deployment,
    generations: Generations,
    store: Store,
    backup: Backup,
    key: Key,
    options: Options,
) -> Plan:
    """Return the plan, or raise LettaOpsError: `foreign-backup`, `backup-newer-schema`,
    `backup-newer-postgres`, `extension-missing`, `wrong-encryption-key`, those of `Signers.ensure`, of
    the store and of the database."""
    signers = Signers.of(deployment, key.identities)
    foreign = backup.manifest.deployment != deployment_id(deployment)
    names, since = names_of(deployment), backup.manifest.created_at
    obstacles = _Obstacles()
    if not options.accept_unsigned:
        obstacles.ask(lambda: signers.ensure(backup.manifest))
    if not options.into_other:
        obstacles.ask(lambda: _ensure_own(deployment, backup))
    obstacles.ask(lambda: ensure_known(deployment, backup))
    for question in generations.obstacles(backup):
        obstacles.ask(question)
    for name in (names.side, names.previous, names.older, names.undone):
        obstacles.ask(partial(generations.ensure_ours, name))
    found = obstacles.ask(lambda: _key_after(deployment, store, backup, key, options))
    obstacles.end(backup)
    new_key, lost = found or (None, False)
    present = generations.read(generations.live, since)
    differs = present is None or present.revision != backup.manifest.database.revision
    return Plan(
        backup,
        present,
        look(generations, [names.previous, names.undone], since),
        foreign,
        new_key,
        lost,
        provisions=deployment.folder is not None and (foreign or new_key is not None or differs),
        drill=backup.last_judged,
        signed=signers.know(backup.manifest),
        missing_roles=tuple(generations.missing_roles(backup.manifest.database)),
        slots=tuple(generations.slots()),
        links=_links_since(deployment, since) if present else (),
    )


def with_losses(
    deployment: Deployment, generations: Generations, plan: Plan, report: Report
) -> Plan:
    """Say of every table what goes back with `plan`, which takes reading all of the database, and how
    long the last restore kept clients waiting."""
    down = _last_down_time(deployment)
    if plan.present is None:
        return replace(plan, down_seconds=down)
    report("database: comparing what is there with the backup")
    record = plan.backup.manifest.database
    found = generations.differences(generations.live, record)
    ours = tuple(line for line in found if f" {LETTA_OPS}." not in line)
    return replace(plan, losses=ours, down_seconds=down)


def _links_since(deployment: Deployment, moment: datetime) -> tuple[Link, ...]:
    with host(deployment).owner() as owner, owner.connect(database_of(deployment).name) as link:
        return tuple(linked_since(link, moment))


def _last_down_time(deployment: Deployment) -> float | None:
    with suppress(LettaOpsError):
        for event in entries(deployment, RECORDS):
            if event.command == "backup restore" and "down_seconds" in event.detail:
                return float(event.detail["down_seconds"])
    return None


class _Obstacles:
    """Every reason not to restore, so that they are told at once and not one a try."""

    def __init__(self) -> None:
        self._found: list[LettaOpsError] = []

    def ask(self, step: Callable[[], T]) -> T | None:
        try:
            return step()
        except LettaOpsError as error:
            self._found.append(error)
            return None

    def end(self, backup: Backup) -> None:
        """Raise what was found; several have the code of the first."""
        if not self._found:
            return
        first, *others = self._found
        if not others:
            raise first
        listing = "".join(f"\n  - {each.message}" for each in self._found)
        raise LettaOpsError(
            first.code,
            f"backup {backup.id} can't be restored here, for {len(self._found)} reasons:{listing}",
            "; ".join(dict.fromkeys(each.hint for each in self._found)),
        )


def _ensure_own(deployment: Deployment, backup: Backup) -> None:
    if backup.manifest.deployment != deployment_id(deployment):
        raise LettaOpsError(
            "foreign-backup",
            f"backup {backup.id} is of deployment {backup.manifest.deployment}"
            f" (stack '{backup.manifest.stack}'), not of this one",
            "add --into-other to replace what this deployment holds by it",
        )


def _key_after(
    deployment: Deployment, store: Store, backup: Backup, key: Key, options: Options
) -> tuple[Sensitive | None, bool]:
    """Return the key that the server has to take over, and whether secrets can't be read after it."""
    wanted, own = backup.manifest.key_fingerprint, deployment.server.encryption_key
    if wanted is None or (own is not None and key_fingerprint(own) == wanted):
        return None, False
    for retired in deployment.server.other_keys:
        if key_fingerprint(retired) == wanted and deployment.folder is not None:
            return retired, False
    kept = escrowed_key(store, backup, key)
    if kept is not None and key_fingerprint(kept) == wanted and deployment.folder is not None:
        return kept, False
    if options.accept_lost_secrets:
        return None, True
    raise LettaOpsError(
        "wrong-encryption-key",
        f"backup {backup.id} was made with another LETTA_ENCRYPTION_KEY ({wanted}) than this"
        " deployment has, and does not bring it along: the secrets in it could not be read",
        "put that key into the profile (server.encryption_key) and run this again; or go on without"
        " the secrets: --accept-lost-secrets",
    )


def look(
    generations: Generations, names: Iterable[str], since: datetime | None
) -> tuple[DatabaseContents, ...]:
    """What generations hold, of those that are there; one that can't be read keeps nobody waiting."""
    found = []
    for name in names:
        if generations.exists(name):
            held = None
            with suppress(LettaOpsError):
                held = generations.read(name, since)
            found.append(DatabaseContents(name, generations.noun, held))
    return tuple(found)
