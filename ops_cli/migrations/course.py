"""Migrating a stack to another release: a copy is migrated and compared, then it takes its place.

The live database is never migrated. So going back needs no backup and loses nothing: the names change
back, and the old release serves the database that it left.
"""

from __future__ import annotations

import datetime as dt
import os
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from backups.catalog import deployment_id
from backups.lock import Lock
from backups.manifest import WHOLE
from backups.restoring.databases import Databases
from backups.restoring.guard import start_guard
from backups.restoring.journal import Journal, ensure_no_other, journal_file
from backups.restoring.switch import carried, go_back, moves_of
from backups.restoring.upgrades import Upgrade, keep_upgrade
from backups.scope import scope_of
from backups.side_database import SideDatabase, copy_database
from infra.database.connection import database_of
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.files import make_folder
from infra.process import Report
from infra.provision import Request, preview, up
from infra.pulumi_cli.project import configuration_file
from infra.servers import ensure_can_stop, start_server, stop_server
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder
from infra.stack.profile import load
from infra.stack.releases import Release
from infra.targets import host
from ops_cli.migrations.contents import Comparison, Side, compare_contents
from ops_cli.migrations.known_changes import known_changes

if TYPE_CHECKING:
    import psycopg

    from infra.database.administration import DatabaseAccess
    from infra.targets.target import Migrations

Prove = Callable[[Deployment], None]  # raises LettaOpsError when the server doesn't do its work
LANES = 2  # sessions that compare at a time, on each side
WRITTEN = """
SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables WHERE schemaname = %s
"""
RUNNING = "SELECT count(*) FROM {} WHERE status IN ('running', 'created', 'pending')"
POLL_SECONDS = 1.0
LETTA, POSTGRES = "Letta", "PostgreSQL"


class Record(Protocol):
    """The record in the audit trail of the command that migrates."""

    id: uuid.UUID
    detail: dict[str, Any]

    def took_effect(self) -> None: ...


@dataclass(frozen=True)
class Applied:
    """What was done: to which release of `Letta`, or which version of `PostgreSQL`, `of` says. `previous`
    is the database, or cluster, as it was left, `down_seconds` how long nobody served."""

    of: str
    before: str
    after: str
    revision: str | None
    previous: str
    comparison: Comparison
    migration_seconds: float
    down_seconds: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            "of": self.of,
            "from": self.before,
            "to": self.after,
            "revision": self.revision,
            "previous": self.previous,
            "comparison": self.comparison.as_json(),
            "migration_seconds": round(self.migration_seconds, 1),
            "down_seconds": round(self.down_seconds, 1),
            "seconds": round(self.seconds, 1),
        }


def prepare(deployment: Deployment, release: Release, report: Report) -> Migrations:
    """Bring the release to where its migrations can be run: before anything is stopped.

    Raises LettaOpsError (`not-here`) for a deployment that this can't migrate, and those of an
    installation.
    """
    if scope_of(deployment) != WHOLE:
        raise LettaOpsError(
            "not-here",
            "backup.scope is letta: what the database holds beside Letta would be copied along",
            "set backup.scope to database, or bring the release up with `letta-ops up --migrate`",
        )
    there = host(deployment)
    ready = None
    if there.provides_database and deployment.folder is not None:
        ready = there.migrations(release, report)
    if ready is None:
        raise LettaOpsError(
            "not-here",
            "its database is not one that letta-ops provisioned together with the server",
            "rehearse it, make a backup, and bring the release up where the server was provisioned",
        )
    return ready


def apply(
    deployment: Deployment,
    release: Release,
    migrations: Migrations,
    revisions: list[str],
    backup: str,
    lock: Lock,
    prove: Prove,
    report: Report,
    *,
    record: Record,
    drain_seconds: float,
) -> Applied:
    """Bring the stack to `release`. Whatever fails, it goes back to the release and the data that it had,
    and that is proven; raises LettaOpsError then.

    `migrations` are those of `prepare`; `revisions` are those that will run: what they are known to
    change is told and no failure.
    """
    started = time.monotonic()
    assert deployment.release is not None  # noqa: S101  # it is ours
    ensure_no_other(deployment)
    ensure_can_stop(deployment)
    with host(deployment).administrator() as access:
        databases = Databases(deployment, access)
        journal = Journal(
            deployment_id(deployment),
            f"from Letta {deployment.release} to {release.version}",
            databases.live,
            0,
            had_database=True,
            had_memory=False,
            old_keys=None,
            record=str(record.id),
            scope=WHOLE,
            release=deployment.release,
        )
        for name in (journal.side, journal.previous, journal.older, journal.undone):
            databases.ensure_ours(name)
        databases.drop(journal.side)
        databases.drop(journal.older)
        config = {"release": release.version}
        # What is wrong with the configuration is known while everything still runs.
        preview(Request(deployment.stack, config, held=True, schema="leave"), lambda _: None)
        ensure_written(deployment)
        drain(deployment, drain_seconds, report)
        lock.ensure_held()
        journal.write(journal_file(deployment))
        try:
            start_guard(deployment)
            gone, at = time.monotonic(), dt.datetime.now(dt.UTC)
            report("the server is stopped")
            stop_server(deployment)
            took, comparison, journal = _migrated(
                deployment, databases, release, migrations, revisions, journal, lock, report
            )
            lock.ensure_held()
            changed = databases.exchange(moves_of(databases, journal))
            for line in [*changed, *carried(databases, journal.previous, journal.name)]:
                report(f"database: {line}")
            report(f"Letta {release.version} is started")
            up(Request(deployment.stack, config, held=True, schema="leave"), report)
            start_server(deployment)
            down = time.monotonic() - gone
            prove(load(stack_folder(deployment.stack), deployment.profile))
            number = databases.number(journal.previous)
            keep_upgrade(
                deployment,
                Upgrade(deployment.release, release.version, number, at.isoformat(), backup),
            )
            replace(journal, proven=True).write(journal_file(deployment))
        except BaseException as error:
            undo(deployment, journal, prove, report, error)
            raise
        record.detail |= {"down_seconds": round(down, 1), "previous": journal.previous}
        record.took_effect()
        journal_file(deployment).unlink()
        _tidy(databases, (journal.older, journal.undone), report)
    return Applied(
        LETTA,
        deployment.release,
        release.version,
        release.alembic_head,
        journal.previous,
        comparison,
        took,
        down,
        time.monotonic() - started,
    )


def _tidy(databases: Databases, gone: tuple[str, ...], report: Report) -> None:
    """It has taken effect: what fails here is told, and no more."""
    import psycopg

    for name in gone:
        try:
            databases.drop(name)
        except (psycopg.Error, LettaOpsError) as error:
            report(f"database: {name} stays: {error}")
    try:
        databases.freshen(databases.live)
    except (psycopg.Error, LettaOpsError):
        report("the planner's statistics could not be made; autovacuum does it within minutes")


def ensure_written(deployment: Deployment) -> None:
    """Raise LettaOpsError (`configuration`) where the stack's configuration can't be changed."""
    path = configuration_file(stack_folder(deployment.stack))
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise LettaOpsError(
            "configuration",
            f"{path} can't be written, and the release is to stand there",
            "make it writable for whoever runs this, or name a folder with LETTA_OPS_STACKS",
        )


def _written(databases: Databases, name: str) -> int:
    """How many rows of Letta's have been written, changed or deleted, as Postgres counts them."""
    with databases.access.examine(name) as link:
        row = link.execute(WRITTEN, [database_facts(link).schema or "public"]).fetchone()
    return int(row[0]) if row else 0


def _migrated(
    deployment: Deployment,
    databases: Databases,
    release: Release,
    migrations: Migrations,
    revisions: list[str],
    journal: Journal,
    lock: Lock,
    report: Report,
) -> tuple[float, Comparison, Journal]:
    """Copy what is live, bring the copy to the release, and compare them."""
    database = database_of(deployment)
    report("the database is copied")
    copy_database(
        databases.access, SideDatabase(journal.side, database.owner.name, like=journal.name)
    )
    written = _written(databases, journal.name)
    journal = replace(journal, side_oid=databases.number(journal.side))
    journal.write(journal_file(deployment))
    lock.ensure_held()
    begun = time.monotonic()
    report(f"the copy is migrated to Letta {release.version}")
    _run(deployment, migrations, journal.side)
    took = time.monotonic() - begun
    report(f"the copy is at revision {release.alembic_head}, after {took:.1f} s; comparing")
    with host(deployment).owner() as owner:
        comparison = compared((owner, journal.name), (owner, journal.side), revisions)
    ensure_equal(comparison)
    if _written(databases, journal.name) != written:
        raise LettaOpsError(
            "written-meanwhile",
            "somebody but the server has written to the database while it was migrated",
            "stop whoever does (pg_stat_activity), then run this again",
        )
    return took, comparison, journal


def _run(deployment: Deployment, migrations: Migrations, name: str) -> None:
    logs = stack_folder(deployment.stack).logs
    make_folder(logs)
    log = logs / f"migration-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.log"
    with log.open("x") as sink:
        log.chmod(0o600)

        def keep(line: str) -> None:
            sink.write(line + "\n")
            sink.flush()

        migrations.run(name, keep, f"read {log}")


def compared(
    old: tuple[DatabaseAccess, str], new: tuple[DatabaseAccess, str], revisions: list[str]
) -> Comparison:
    """Compare two databases, each by its owner's way and its name."""
    with ExitStack() as stack:

        def links(owner: DatabaseAccess, name: str) -> list[psycopg.Connection[Any]]:
            return [stack.enter_context(owner.examine(name)) for _ in range(LANES)]

        before, after = links(*old), links(*new)
        sides = [Side(each, database_facts(each[0]).schema or "public") for each in (before, after)]
        return compare_contents(sides[0], sides[1], known_changes(revisions))


def ensure_equal(comparison: Comparison) -> None:
    """Raise LettaOpsError (`content-differs`) for what no revision is known to change."""
    if comparison.unexplained:
        lines = "\n".join(f"  - {each}" for each in comparison.unexplained[:20])
        raise LettaOpsError(
            "content-differs",
            f"after the migration not everything is as it was:\n{lines}",
            "no revision is known to change that: don't go there; `letta-ops migrate plan` says what"
            " each does",
        )


def drain(deployment: Deployment, seconds: float, report: Report) -> None:
    """Wait until agents have finished what they are at; those that don't are cut off."""
    import psycopg
    from psycopg import sql

    deadline = time.monotonic() + seconds
    told = False
    while time.monotonic() < deadline:
        with host(deployment).session() as link:
            schema = database_facts(link).schema or "public"
            try:
                query = sql.SQL(RUNNING).format(sql.Identifier(schema, "runs"))
                row = link.execute(query).fetchone()
            except psycopg.errors.UndefinedTable:
                return  # of a release before there were runs
        if not row or not row[0]:
            return
        if not told:
            report(f"waiting for {row[0]} runs of agents, up to {seconds:.0f} s")
            told = True
        time.sleep(POLL_SECONDS)


def undo(
    deployment: Deployment, journal: Journal, prove: Prove, report: Report, error: BaseException
) -> None:
    """Go back, and prove it; what comes of it is added to `error`."""
    try:
        go_back(deployment, journal, report)
    except BaseException as worse:  # noqa: BLE001  # the first error is the one to tell
        error.add_note(f"going back did not succeed yet: {worse}")
        error.add_note("it is tried again by the next `letta-ops up`; nothing is lost")
        return
    was = (
        f"Letta {deployment.release}"
        if journal.cluster is None
        else f"PostgreSQL {journal.cluster}"
    )
    back = f"the stack is back at {was}, with all its data"
    try:
        prove(load(stack_folder(deployment.stack), deployment.profile))
    except LettaOpsError as worse:
        error.add_note(f"{back}, and does not do its work: {worse.message}")
    else:
        error.add_note(f"{back}, and was proven")
