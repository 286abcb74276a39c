"""Bringing a stack's Postgres to another major version: a copy of the cluster takes its place.

The cluster is read, and never changed: going back is to serve it again.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backups.catalog import deployment_id
from backups.lock import Lock
from backups.manifest import WHOLE
from backups.restoring.clusters import cluster_of
from backups.restoring.databases import Databases
from backups.restoring.guard import start_guard
from backups.restoring.journal import Journal, ensure_no_other, journal_file
from backups.restoring.switch import go_back
from backups.restoring.upgrades import (
    PostgresUpgrade,
    keep_postgres_upgrade,
    last_postgres_upgrade,
    last_upgrade,
)
from infra.database.connection import database_of
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.process import Report
from infra.provision import Request, preview, up
from infra.pulumi_cli.project import configured
from infra.servers import ensure_can_stop, start_server
from infra.stack.deployment import Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.stack.locations import stack_folder
from infra.stack.profile import load
from infra.targets import host
from infra.targets.target import Cluster
from ops_cli.migrations.contents import Comparison
from ops_cli.migrations.course import (
    POSTGRES,
    Applied,
    Prove,
    Record,
    compared,
    drain,
    ensure_equal,
    ensure_written,
    undo,
)
from ops_cli.migrations.going_back import WrittenSince, archive_agents, written_since


def apply_postgres(
    deployment: Deployment,
    major: str,
    backup: str,
    lock: Lock,
    prove: Prove,
    report: Report,
    *,
    record: Record,
    drain_seconds: float,
) -> Applied:
    """Bring the stack's Postgres to `major`. Whatever fails, it goes back to the cluster that it had, and
    that is proven; raises LettaOpsError then."""
    started = time.monotonic()
    ensure_no_other(deployment)
    ensure_can_stop(deployment)
    cluster = cluster_of(deployment)
    before = cluster.major
    written = configured(stack_folder(deployment.stack)).get(cluster.setting)
    config = {cluster.setting: major} if written else {}
    _ensure_provisionable(deployment, {cluster.setting: before})
    journal = _journal(deployment, f"from PostgreSQL {before} to {major}", before, record)
    cluster.prepare(major)
    drain(deployment, drain_seconds, report)
    lock.ensure_held()
    journal.write(journal_file(deployment))
    try:
        start_guard(deployment)
        gone, at = time.monotonic(), dt.datetime.now(dt.UTC)
        lock.release_database()
        report(f"the server and Postgres are stopped; the cluster is copied to PostgreSQL {major}")
        cluster.upgrade(major)
        took = time.monotonic() - gone
        report(f"the copy was made after {took:.1f} s; comparing")
        comparison = _compared(deployment)
        lock.ensure_held()
        cluster.exchange()
        report(f"PostgreSQL {major} is started")
        up(Request(deployment.stack, config, held=True, schema="leave"), report)
        start_server(deployment)
        down = time.monotonic() - gone
        prove(load(stack_folder(deployment.stack), deployment.profile))
        upgrade = PostgresUpgrade(
            before, major, str(deployment.release), _key(deployment), _number(deployment),
            at.isoformat(), backup,
        )  # fmt: skip
        keep_postgres_upgrade(deployment, upgrade)
        replace(journal, proven=True).write(journal_file(deployment))
    except BaseException as error:
        undo(deployment, journal, prove, report, error)
        raise
    record.detail |= {"down_seconds": round(down, 1), "previous": cluster.previous}
    record.took_effect()
    journal_file(deployment).unlink()
    cluster.drop(*[name for name in cluster.kept() if name != cluster.previous])
    seconds = time.monotonic() - started
    return Applied(POSTGRES, before, major, None, cluster.previous, comparison, took, down, seconds)


@dataclass(frozen=True)
class PostgresRollback:
    """What going back to the cluster before means, and who was written to since. `drops`: what was kept
    of an earlier time."""

    upgrade: PostgresUpgrade
    kept: str
    drops: tuple[str, ...]
    agents: tuple[WrittenSince, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "of": POSTGRES,
            "from": self.upgrade.after,
            "to": self.upgrade.before,
            "applied_at": self.upgrade.at,
            "written_since": [each.as_json() for each in self.agents],
            "kept": self.kept,
            "drops": list(self.drops),
        }


def plan_postgres_rollback(deployment: Deployment) -> PostgresRollback | None:
    """None where the last migration was not one of Postgres, or has left nothing to go back to.

    Raises LettaOpsError (`other-release`, `other-key`, `other-database`) where the old cluster is of
    another one.
    """
    upgrade = last_postgres_upgrade(deployment)
    other = last_upgrade(deployment)
    if upgrade is None or (other is not None and other.at > upgrade.at):
        return None
    cluster = cluster_of(deployment)
    if (cluster.replaced, cluster.major) != (upgrade.before, upgrade.after):
        return None
    if upgrade.release != deployment.release:
        raise LettaOpsError(
            "other-release",
            f"Letta {upgrade.release} served when Postgres was changed; it is {deployment.release} now",
            "bring the stack back to it first: the cluster of before has its schema",
        )
    if upgrade.key != _key(deployment):
        raise LettaOpsError(
            "other-key",
            f"the secrets in the cluster of before are encrypted with key {upgrade.key}, and it is"
            f" {_key(deployment)} now",
            "undo the restore that brought the key along: `letta-ops backup restore --undo`",
        )
    if upgrade.database != _number(deployment):
        raise LettaOpsError(
            "other-database",
            "a restore has replaced the database since: going back would undo that too",
            "undo it first: `letta-ops backup restore --undo`; or keep what it has brought",
        )
    drops = tuple(name for name in cluster.kept() if name == cluster.undone)
    agents = written_since(deployment, upgrade.at)
    return PostgresRollback(upgrade, cluster.undone, drops, agents)


def roll_postgres_back(
    deployment: Deployment,
    plan: PostgresRollback,
    lock: Lock,
    prove: Prove,
    report: Report,
    *,
    record: Record,
) -> tuple[Path | None, float]:
    """Let the cluster of before serve again; return where agents were archived, and the seconds it took.

    What it sets aside is kept. Raises LettaOpsError: nothing was changed then, or the next command goes
    on.
    """
    started = time.monotonic()
    lock.ensure_held()
    ensure_no_other(deployment)
    cluster = cluster_of(deployment)
    _ensure_provisionable(deployment, {cluster.setting: plan.upgrade.after})
    _ensure_opens(deployment, cluster, report)
    archived = archive_agents(deployment, plan.agents, report)
    journal = _journal(
        deployment, f"back to PostgreSQL {plan.upgrade.before}", plan.upgrade.before, record
    )
    lock.release_database()
    journal.write(journal_file(deployment))
    start_guard(deployment)
    go_back(deployment, journal, report)
    prove(load(stack_folder(deployment.stack), deployment.profile))
    return archived, round(time.monotonic() - started, 1)


def _journal(deployment: Deployment, what: str, before: str, record: Record) -> Journal:
    return Journal(
        deployment_id(deployment),
        what,
        database_of(deployment).name,
        0,
        had_database=True,
        had_memory=False,
        old_keys=None,
        record=str(record.id),
        scope=WHOLE,
        cluster=before,
    )


def _ensure_provisionable(deployment: Deployment, config: dict[str, str]) -> None:
    """Raise LettaOpsError for what would keep `up` from bringing the stack up, now or on the way back:
    with `config`, the version that serves, whatever is written there."""
    ensure_written(deployment)
    preview(Request(deployment.stack, config, held=True, schema="leave"), lambda _: None)


def _ensure_opens(deployment: Deployment, cluster: Cluster, report: Report) -> None:
    """Raise LettaOpsError (`database-unreachable`, ...) where what is kept can't be served."""
    report(f"{cluster.previous} is looked at")
    with cluster.aside(cluster.previous) as ways:
        assert ways is not None  # noqa: S101  # the plan has seen it
        with ways[0].examine(database_of(deployment).name) as link:
            database_facts(link)


def _number(deployment: Deployment) -> int:
    with host(deployment).administrator() as access:
        return Databases(deployment, access).number(database_of(deployment).name)


def _key(deployment: Deployment) -> str | None:
    key = deployment.server.encryption_key
    return None if key is None else key_fingerprint(key)


def _compared(deployment: Deployment) -> Comparison:
    name = database_of(deployment).name
    with cluster_of(deployment).both() as (old, new):
        comparison = compared((old, name), (new, name), [])
    ensure_equal(comparison)
    return comparison
