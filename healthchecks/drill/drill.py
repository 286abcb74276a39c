"""A drill: one backup is restored into a throw-away Postgres, served by its own release, and judged."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from backups.catalog import Backup, write_object
from backups.manifest import DRILLS
from backups.opening import Key
from backups.signing import Signers
from backups.stores.store import Store
from backups.verdicts import FAILED, PASSED, UNVERIFIED, CheckResult
from backups.verify import judge_signature
from healthchecks import through_api
from healthchecks.drill import in_database
from healthchecks.drill.drill_run import (
    DrillRun,
    encryption_key,
    ensure_room,
    owner_session,
    restore,
    served,
)
from healthchecks.drill.memory import judge_memory
from healthchecks.drill.verdict import (
    CHECKS,
    COUNTS,
    DATABASE,
    FRESHNESS,
    MEMORY,
    NOT_REACHED,
    RECORD,
    REVISION,
    SECRET,
    THROUGH_API,
    Judge,
    Outcome,
    of_error,
)
from healthchecks.through_api import AGENTS, ARCHIVAL, MESSAGES
from infra.embedded.binaries import MAJOR
from infra.embedded.release import InstalledRelease
from infra.embedded.throwaway import throwaway_folder, throwaway_parent
from infra.embedded.throwaway_postgres import ThrowawayPostgres, start_postgres
from infra.embedded.throwaway_server import install_release
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.stack.deployment import DATABASE_NAME, Deployment
from infra.stack.releases import RELEASES

if TYPE_CHECKING:
    import psycopg


def run(
    deployment: Deployment,
    store: Store,
    backup: Backup,
    key: Key,
    report: Report,
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> Outcome:
    """Restore `backup` into a throw-away Postgres, start its release on it, judge, keep the verdict.

    Nothing of it is left running, and neither the deployment nor any model is asked for anything.
    What goes wrong with the backup is a verdict. Raises LettaOpsError when no drill can be made here
    at all (accounts, disk, Postgres).
    """
    started, at = time.monotonic(), now()
    judge = Judge(report)
    signature = judge_signature(backup, Signers.of(deployment, key.identities))
    judge.add(signature)
    signed = signature.verdict == PASSED
    unfit = _unfit(store, backup, key)
    if unfit is None:
        with throwaway_folder(throwaway_parent(deployment.folder), report) as folder:
            _take(
                DrillRun(
                    deployment,
                    store,
                    backup,
                    key,
                    folder,
                    judge,
                    report,
                    at,
                    signed,
                )
            )
            seconds = time.monotonic() - started
            report("removing what the drill made")
    else:
        judge.add(CheckResult(DATABASE, UNVERIFIED, unfit.message, unfit.hint))
        judge.close(CHECKS, f"{NOT_REACHED}: nothing was restored")
        seconds = time.monotonic() - started
    outcome = Outcome(f"{at:%Y%m%dT%H%M%S.%fZ}", backup.id, at, seconds, judge.checks)
    return _kept(store, backup, outcome, judge)


def _unfit(store: Store, backup: Backup, key: Key) -> LettaOpsError | None:
    """Why this backup can't be restored here at all, whatever is in it."""
    manifest = backup.manifest
    major = int(manifest.database.postgres.partition(".")[0])
    if major > int(MAJOR):
        return LettaOpsError(
            "postgres-too-old",
            f"the backup is of PostgreSQL {major}, and the newest one here is {MAJOR}",
            "use a letta-ops that comes with a newer PostgreSQL",
        )
    if manifest.encrypted:
        try:
            key.identities_for(store, backup)
        except LettaOpsError as error:
            return error
    return None


def _take(drill: DrillRun) -> None:
    drill.report("making a throw-away Postgres")
    postgres = start_postgres(drill.folder)
    try:
        ensure_room(drill)
        restore(drill, postgres)
    except LettaOpsError as error:
        drill.judge.add(of_error(DATABASE, error))
        drill.judge.close(CHECKS, f"{NOT_REACHED}: the database was not restored")
        return
    release = _release(drill)
    with postgres.access.examine(DATABASE_NAME) as administrator:
        drill.report("comparing the content with the manifest")
        drill.judge.examine(
            DATABASE, lambda: in_database.judge_content(administrator, drill.manifest)
        )
    with owner_session(postgres) as link:
        key = _judge_content(drill, link, release)
    if release is not None:
        _judge_through_api(drill, postgres, release, key)


def _release(drill: DrillRun) -> InstalledRelease | None:
    """The backup's own release, installed; None when it isn't one of ours, or can't be had."""
    version = drill.manifest.release
    heads = {release.alembic_head: release for release in RELEASES.values()}
    # A backup of a server that we did not provision may name none.
    release = (
        RELEASES.get(version) if version else heads.get(drill.manifest.database.revision or "")
    )
    if release is None:
        known = f"this letta-ops knows {', '.join(RELEASES)}"
        why = f"the backup's release, {version or 'which it does not name'}, is unknown: {known}"
        drill.judge.close(THROUGH_API, why)
        return None
    try:
        return install_release(drill.folder, release, drill.report)
    except LettaOpsError as error:
        drill.judge.close(THROUGH_API, error.message, error.hint)
        return None


def _judge_content(
    drill: DrillRun, link: psycopg.Connection[object], release: InstalledRelease | None
) -> Sensitive | None:
    """Judge what needs no server; return the encryption key, which the server needs."""
    judge, manifest = drill.judge, drill.manifest
    judge.examine(COUNTS, lambda: in_database.judge_counts(link, manifest))
    judge.examine(REVISION, lambda: in_database.judge_revision(link, manifest, release))
    key: Sensitive | None = None
    try:
        key, whose = encryption_key(drill)
    except LettaOpsError as error:
        judge.add(of_error(SECRET, error))
    else:
        judge.examine(SECRET, lambda: in_database.judge_secret(link, key, whose))
    judge.examine(MEMORY, lambda: judge_memory(drill))
    judge.examine(FRESHNESS, lambda: in_database.judge_freshness(link, manifest, drill.at))
    return key


def _judge_through_api(
    drill: DrillRun,
    postgres: ThrowawayPostgres,
    release: InstalledRelease,
    key: Sensitive | None,
) -> None:
    import psycopg

    judge = drill.judge
    try:
        with served(drill, postgres, release, key) as server:
            judge.examine(AGENTS, lambda: through_api.judge_agents(server))
            judge.examine(MESSAGES, lambda: through_api.judge_messages(server))
            judge.examine(ARCHIVAL, lambda: through_api.judge_archival(server))
    except (LettaOpsError, psycopg.Error) as error:
        hint = error.hint if isinstance(error, LettaOpsError) else ""
        text = error.message if isinstance(error, LettaOpsError) else str(error)
        judge.add(CheckResult(AGENTS, FAILED, text.strip(), hint))
        judge.close(THROUGH_API, f"{NOT_REACHED}: no server runs on the copy")


def _kept(store: Store, backup: Backup, outcome: Outcome, judge: Judge) -> Outcome:
    """Keep the verdict beside the backup; one that can't be kept is no proof for tomorrow."""
    name = backup.object(f"{DRILLS}{outcome.id}.json")
    try:
        write_object(store, name, json.dumps(outcome.as_record(), indent=1), exclusive=True)
    except LettaOpsError as error:
        judge.add(
            CheckResult(RECORD, UNVERIFIED, f"the verdict is not kept: {error.message}", error.hint)
        )
        return replace(outcome, checks=judge.checks)
    return outcome
