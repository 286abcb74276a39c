"""A rehearsal: a backup in a throw-away Postgres is migrated, compared, and served by the target release.

The live stack notices nothing: neither its server nor its database is asked for anything, and the server
of the rehearsal reaches nothing but its database.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from backups.catalog import Backup, deployment_id
from backups.opening import Key
from backups.side_database import end_sessions
from backups.signing import Signers
from backups.stores.store import Store
from backups.verdicts import FAILED, PASSED, CheckResult
from backups.verify import judge_signature
from healthchecks import through_api
from healthchecks.drill.drill_run import DrillRun, encryption_key, ensure_room, restore, served
from healthchecks.drill.verdict import Judge, examined
from healthchecks.writing import WRITING, judge_writing
from infra.database.administration import owner_access
from infra.embedded.alembic import upgrade
from infra.embedded.binaries import MAJOR
from infra.embedded.cluster import MAIN
from infra.embedded.cluster_upgrade import ClusterUpgrade, end_servers
from infra.embedded.throwaway import throwaway_folder, throwaway_parent
from infra.embedded.throwaway_postgres import ThrowawayPostgres, start_postgres
from infra.embedded.throwaway_server import install_release
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import DATABASE_NAME, Deployment
from infra.stack.releases import Release
from ops_cli.migrations.contents import Comparison
from ops_cli.migrations.course import compared
from ops_cli.migrations.records import Rehearsal, keep
from ops_cli.migrations.status import revisions_of

if TYPE_CHECKING:
    import psycopg

    from infra.database.administration import DatabaseAccess
    from infra.embedded.release import InstalledRelease
    from infra.sensitive import Sensitive

# What was there and what is: the owner's way and the name of each database; and where the latter is.
_Sides = tuple[tuple["DatabaseAccess", str], tuple["DatabaseAccess", str], ThrowawayPostgres]
BEFORE = f"{DATABASE_NAME}_before"
MIGRATION, UPGRADE, COMPARISON = "migration", "upgrade", "content"
POLL_SECONDS = 0.05
# Of tables that somebody reads or writes: nobody else can, as long as these are held.
LOCKS = """
SELECT DISTINCT c.relname, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = %s) AND c.relkind = 'r'
AND l.mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')
AND c.oid >= 16384
"""
GRAVEST = ("AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock")


def rehearse(
    deployment: Deployment,
    store: Store,
    backup: Backup,
    key: Key,
    release: Release,
    report: Report,
    postgres_majors: tuple[str, str] | None = None,
) -> Rehearsal:
    """Rehearse going to `release` with what `backup` holds, and write down what came of it.

    With `postgres_majors` it is Postgres that goes from one major version to another, and `release` is
    what serves. Raises LettaOpsError where none can be made here; what goes wrong with the migration is
    the result.
    """
    started, at = time.monotonic(), dt.datetime.now(dt.UTC)
    revision = backup.manifest.database.revision
    pending = (
        [each.id for each in revisions_of(release, report).pending(revision)]
        if postgres_majors is None
        else []
    )
    judge = Judge(lambda _: None)  # of a drill: only what it needs to restore
    signature = judge_signature(backup, Signers.of(deployment, key.identities))
    checks: list[CheckResult] = []
    took, sizes, locks = 0.0, (0, 0), dict[str, str]()
    comparison: Comparison | None = None
    with throwaway_folder(throwaway_parent(deployment.folder), report) as folder:
        drill = DrillRun(
            deployment, store, backup, key, folder, judge, report, at, signature.verdict == PASSED
        )
        report("making a throw-away Postgres")
        postgres = start_postgres(folder, postgres_majors[0] if postgres_majors else MAJOR)
        ensure_room(drill)
        restore(drill, postgres)
        installed = install_release(folder, release, report)
        secret, _ = encryption_key(drill)
        sizes = (_size(postgres), 0)
        begun = time.monotonic()
        sides: AbstractContextManager[_Sides]
        if postgres_majors is None:
            _copy(postgres)
            report(f"migrating to Letta {release.version}: {len(pending)} revisions")
            begun = time.monotonic()
            with _locks(postgres) as locks:
                migrate = partial(_migrate, drill, installed, postgres, secret)
                checks.append(examined(MIGRATION, migrate))
            sides = _databases(postgres)
        else:
            report(f"bringing the cluster to PostgreSQL {postgres_majors[1]}")
            cluster = ClusterUpgrade(folder, *postgres_majors)
            checks.append(examined(UPGRADE, partial(_upgrade_cluster, cluster)))
            sides = _clusters(cluster, postgres)
        took = time.monotonic() - begun
        if checks[-1].verdict == PASSED:
            try:
                with sides as (before, after, there):
                    sizes = (sizes[0], _size(there))
                    report("comparing what is there with what was there")
                    comparison = compared(before, after, pending)
                    checks.append(_judged(comparison))
                    checks += _served(drill, there, installed, secret)
            except LettaOpsError as error:
                checks.append(CheckResult(COMPARISON, FAILED, error.message, error.hint))
        for check in checks:
            report(f"{check.name}: {check.verdict}: {check.summary}")
    rehearsal = Rehearsal(
        id=f"{at:%Y%m%dT%H%M%S.%fZ}",
        deployment=deployment_id(deployment),
        backup=backup.id,
        revision=revision,
        release=release.version,
        # What there is nothing of can't be looked at; the migration and the comparison must have been.
        passed=comparison is not None and all(check.verdict != FAILED for check in checks),
        at=at.isoformat(),
        seconds=round(took, 1),
        total_seconds=round(time.monotonic() - started, 1),
        rows=comparison.rows if comparison else 0,
        size=sizes[0],
        growth=max(0, sizes[1] - sizes[0]),
        locks=locks,
        comparison=comparison.as_json() if comparison else {},
        checks=[asdict(check) for check in checks],
        postgres=postgres_majors and postgres_majors[1],
    )
    keep(deployment, rehearsal)
    return rehearsal


@contextmanager
def _databases(postgres: ThrowawayPostgres) -> Iterator[_Sides]:
    with owner_access(postgres.database) as owner:
        yield (owner, BEFORE), (owner, DATABASE_NAME), postgres


@contextmanager
def _clusters(upgrade: ClusterUpgrade, postgres: ThrowawayPostgres) -> Iterator[_Sides]:
    with ExitStack() as stack:
        old, new = stack.enter_context(upgrade.served())
        there = ThrowawayPostgres(new.access, replace(postgres.database, port=new.port))
        before = stack.enter_context(owner_access(replace(postgres.database, port=old.port)))
        after = stack.enter_context(owner_access(there.database))
        yield (before, DATABASE_NAME), (after, DATABASE_NAME), there


def _upgrade_cluster(upgrade: ClusterUpgrade) -> CheckResult:
    end_servers(upgrade.folder, str(upgrade.folder.postgres_settings(MAIN)))
    upgrade.prepare()
    upgrade.run()
    return CheckResult(UPGRADE, PASSED, f"from PostgreSQL {upgrade.before} to {upgrade.after}")


def _copy(postgres: ThrowawayPostgres) -> None:
    """What is compared with: it is not migrated."""
    with postgres.access.connect(postgres.access.maintenance) as link:
        end_sessions(link, DATABASE_NAME)
        owner = postgres.database.owner.name
        link.execute(
            f"CREATE DATABASE {BEFORE} OWNER {owner} TEMPLATE {DATABASE_NAME} STRATEGY FILE_COPY"
        )


def _migrate(
    drill: DrillRun,
    installed: InstalledRelease,
    postgres: ThrowawayPostgres,
    secret: Sensitive | None,
) -> CheckResult:
    said: list[str] = []
    try:
        upgrade(
            drill.folder, installed, postgres.database, installed.release.alembic_head, said.append,
            "the live stack was not touched", secret,
        )  # fmt: skip
    except LettaOpsError as error:
        lines = "\n".join(f"    {line}" for line in said[-10:])
        raise LettaOpsError(error.code, f"{error.message}:\n{lines}", error.hint) from None
    return CheckResult(MIGRATION, PASSED, f"at revision {installed.release.alembic_head}")


def _judged(comparison: Comparison) -> CheckResult:
    bad = comparison.unexplained
    if bad:
        lines = "; ".join(str(each) for each in bad[:5])
        return CheckResult(
            COMPARISON,
            FAILED,
            f"{len(bad)} things are not as they were, and no revision is known to change them: {lines}",
            "don't go there; `letta-ops migrate plan` says what each revision does",
        )
    known = len(comparison.differences)
    told = f"; {known} things differ, as revisions are known to change them" if known else ""
    return CheckResult(
        COMPARISON,
        PASSED,
        f"all {comparison.rows} rows of {comparison.tables} tables are there{told}",
    )


def _served(
    drill: DrillRun,
    postgres: ThrowawayPostgres,
    installed: InstalledRelease,
    secret: Sensitive | None,
) -> Iterator[CheckResult]:
    """What the release's own server says of it, and whether it can work with it."""
    import psycopg

    judges: dict[str, Callable[[through_api.Served], CheckResult]] = {
        through_api.AGENTS: through_api.judge_agents,
        through_api.MESSAGES: through_api.judge_messages,
        through_api.ARCHIVAL: through_api.judge_archival,
        WRITING: judge_writing,
    }
    try:
        with served(drill, postgres, installed, secret) as server:
            for name, judge in judges.items():
                yield _examined(name, judge, server)
    except (LettaOpsError, psycopg.Error) as error:
        text = error.message if isinstance(error, LettaOpsError) else str(error)
        yield CheckResult("server", FAILED, text.strip())


def _examined(
    name: str, judge: Callable[[through_api.Served], CheckResult], server: through_api.Served
) -> CheckResult:
    return examined(name, lambda: judge(server))


def _size(postgres: ThrowawayPostgres) -> int:
    with postgres.access.connect(postgres.access.maintenance) as link:
        row = link.execute("SELECT pg_database_size(%s)", [DATABASE_NAME]).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def _locks(postgres: ThrowawayPostgres) -> Iterator[dict[str, str]]:
    """Yield what is filled meanwhile: the gravest lock that was seen on each table."""
    found: dict[str, str] = {}
    ended = threading.Event()

    def watch(link: psycopg.Connection[Any]) -> None:
        while not ended.wait(POLL_SECONDS):
            for name, mode in link.execute(LOCKS, [DATABASE_NAME]).fetchall():
                there = found.get(name)
                if there is None or GRAVEST.index(mode) < GRAVEST.index(there):
                    found[name] = mode

    with postgres.access.connect(DATABASE_NAME) as link:  # its tables have names only there
        watcher = threading.Thread(target=watch, args=(link,), daemon=True)
        watcher.start()
        try:
            yield found
        finally:
            ended.set()
            watcher.join()
