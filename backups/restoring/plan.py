"""What a restore would replace and lose, and every reason not to begin."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from backups.catalog import Backup, Drill, deployment_id
from backups.contents import compare
from backups.extensions import ensure_offered
from backups.layout import LETTA_OPS
from backups.opening import Key, escrowed_key
from backups.restoring.journal import names_of
from backups.restoring.releases import ensure_known
from backups.rights import missing_roles
from backups.side_database import ensure_ours
from backups.signing import Signers
from backups.stores.store import Store
from infra.audit.trail import entries
from infra.database.administration import DatabaseAccess
from infra.database.facts import DatabaseFacts, database_facts, is_plain_table, read_slots
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.stack.deployment import Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.targets import host

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
RECORDS = 500  # of the audit trail, among which the last restore is looked for


@dataclass(frozen=True)
class Options:
    """What the operator allows on purpose."""

    into_other: bool = False
    accept_lost_secrets: bool = False
    accept_unsigned: bool = False


@dataclass(frozen=True)
class Present:
    """What a database holds; `newer_*` is what the backup doesn't have."""

    schema: str | None
    extension_schema: str | None
    revision: str | None
    agents: int
    messages: int
    newer_messages: int
    newer_agents: int


@dataclass(frozen=True)
class DatabaseContents:
    """A database and what it holds; `held` is None where that can't be read."""

    name: str
    held: Present | None

    def as_json(self) -> dict[str, Any]:
        held = self.held
        return {
            "database": self.name,
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
            "goes_back": list(self.losses),
            "expected_down_seconds": self.down_seconds,
            "last_drill": self.drill and self.drill.verdict,
            "last_drill_seconds": self.drill and self.drill.seconds,
        }


def make_plan(
    deployment: Deployment,
    access: DatabaseAccess,
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
    with access.connect(access.maintenance) as link:
        obstacles.ask(lambda: _ensure_not_older(link, backup))
        obstacles.ask(lambda: ensure_offered(link, backup.manifest.database))
        rights = backup.manifest.database.rights
        missing = missing_roles(link, rights) if rights else []
        slots = read_slots(link, names.name)
    for name in (names.side, names.previous, names.older, names.undone):
        obstacles.ask(partial(ensure_ours, access, name))
    found = obstacles.ask(lambda: _key_after(deployment, store, backup, key, options))
    obstacles.end(backup)
    new_key, lost = found or (None, False)
    present = read_present(access, names.name, since)
    differs = present is None or present.revision != backup.manifest.database.revision
    return Plan(
        backup,
        present,
        look(access, [names.previous, names.undone], since),
        foreign,
        new_key,
        lost,
        provisions=deployment.folder is not None and (foreign or new_key is not None or differs),
        drill=backup.last_judged,
        signed=signers.know(backup.manifest),
        missing_roles=tuple(missing),
        slots=tuple(slots),
    )


def with_losses(deployment: Deployment, plan: Plan, report: Report) -> Plan:
    """Say of every table what goes back with `plan`, which takes reading all of the database, and how
    long the last restore kept clients waiting."""
    down = _last_down_time(deployment)
    if plan.present is None:
        return replace(plan, down_seconds=down)
    record = plan.backup.manifest.database
    report("database: comparing what is there with the backup")
    with host(deployment).administrator() as access:
        name = names_of(deployment).name
        with access.examine(name) as link, access.examine(name) as more:
            renamed = {record.schema: plan.present.schema} if record.schema else {}
            found = compare(link, record, renamed, [more])  # type: ignore[arg-type]  # it has a schema
    ours = tuple(line for line in found if f" {LETTA_OPS}." not in line)
    return replace(plan, losses=ours, down_seconds=down)


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


def _ensure_not_older(link: psycopg.Connection[Any], backup: Backup) -> None:
    """A dump of a newer Postgres may hold what an older one doesn't know, or takes for something else."""
    made_with = backup.manifest.database.postgres
    here = link.info.server_version // 10_000
    if int(re.findall(r"\d+", made_with)[0]) > here:
        raise LettaOpsError(
            "backup-newer-postgres",
            f"backup {backup.id} is of PostgreSQL {made_with}, newer than the {here} of this deployment",
            "restore it into a stack whose Postgres is at least as new",
        )


def _key_after(
    deployment: Deployment, store: Store, backup: Backup, key: Key, options: Options
) -> tuple[Sensitive | None, bool]:
    """Return the key that the server has to take over, and whether secrets can't be read after it."""
    wanted, own = backup.manifest.key_fingerprint, deployment.server.encryption_key
    if wanted is None or (own is not None and key_fingerprint(own) == wanted):
        return None, False
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
    access: DatabaseAccess, names: Iterable[str], since: datetime | None
) -> tuple[DatabaseContents, ...]:
    """What the databases hold, of those that are there; one that can't be read keeps nobody waiting."""
    found = []
    for name in names:
        if exists(access, name):
            try:
                found.append(DatabaseContents(name, read_present(access, name, since)))
            except LettaOpsError:
                found.append(DatabaseContents(name, None))
    return tuple(found)


def read_present(access: DatabaseAccess, name: str, since: datetime | None) -> Present | None:
    """Count what a database holds; None when it is missing, or was never migrated.

    Newer is what was made after `since`; nothing is, without one.
    """
    import psycopg

    if not exists(access, name):
        return None
    with access.examine(name) as link:
        try:
            facts = database_facts(link)
            return _count(link, facts, facts.schema, since) if facts.schema else None
        except psycopg.Error as error:
            raise LettaOpsError(
                "database-refused",
                f"database {name} can't be read: {str(error).strip()}",
                "see `letta-ops check`; a database that is damaged can be set aside by renaming it",
            ) from None


def exists(access: DatabaseAccess, name: str) -> bool:
    """Whether there is a database of that name."""
    if access.maintenance == name:
        return True  # it is the one that we connect to
    with access.connect(access.maintenance) as link:
        found = link.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
    return found is not None


def _count(
    link: psycopg.Connection[Any], facts: DatabaseFacts, schema: str, since: datetime | None
) -> Present:
    from psycopg import sql

    def numbers(table: str) -> tuple[int, int]:
        if not is_plain_table(link, schema, table):
            return 0, 0
        query = sql.SQL("SELECT count(*), count(*) FILTER (WHERE created_at > %s) FROM {}")
        row = link.execute(query.format(sql.Identifier(schema, table)), [since]).fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    agents, newer_agents = numbers("agents")
    messages, newer_messages = numbers("messages")
    return Present(
        schema,
        facts.pgvector and facts.pgvector.schema,
        facts.revision,
        agents,
        messages,
        newer_messages,
        newer_agents,
    )
