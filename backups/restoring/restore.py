"""Restoring a backup into the deployment: made beside, compared, switched, proven, or undone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from backups.catalog import deployment_id
from backups.loading import room_for
from backups.lock import Lock
from backups.manifest import MEMORY
from backups.opening import Key, opened_part, stored_chunks
from backups.rekey import forget_unopened
from backups.restoring.clusters import cluster_of
from backups.restoring.generations import Generations, Present
from backups.restoring.guard import start_guard
from backups.restoring.journal import Journal, ensure_no_other, journal_file, names_of
from backups.restoring.plan import Plan, look
from backups.restoring.scratch import ensure_room, scratch_folder
from backups.restoring.switch import carried, go_back, moves_of
from backups.restoring.upgrades import forget_postgres_upgrade
from backups.scope import scope_of
from backups.sources.memory_files import MemoryPlace, reachable
from backups.stores.store import Store
from backups.streams import chunks_of
from infra.api import answers
from infra.errors import LettaOpsError
from infra.process import Report
from infra.servers import (
    ensure_can_stop,
    is_ours,
    remove_standby,
    standby_of,
    start_server,
    stop_server,
)
from infra.stack.deployment import Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.stack.locations import stack_folder
from infra.stack.profile import (
    ADOPTED_KEY,
    ENCRYPTION_KEY,
    PREVIOUS_KEY,
    PREVIOUS_OF,
    load,
    remember,
    remembered,
)
from infra.targets import host
from infra.targets.target import Standby

DRAIN_SECONDS = 300  # requests at hand are answered before a server that stood in ends

ConfirmServer = Callable[
    [Deployment], None
]  # raises LettaOpsError when the server doesn't do its work


class Record(Protocol):
    """The record in the audit trail of the command that restores."""

    id: uuid.UUID
    detail: dict[str, Any]

    def took_effect(self) -> None: ...


@dataclass(frozen=True)
class Restored:
    """What a restore has done. `previous` is what was replaced, and is kept: it holds `replaced`, as of
    the moment of the switch.

    `proven`: the server did its work with it; one that isn't ours is not running yet.
    """

    backup: str
    previous: str | None
    replaced: Present | None
    proven: bool
    seconds: float


def restore(
    deployment: Deployment,
    generations: Generations,
    store: Store,
    plan: Plan,
    key: Key,
    lock: Lock,
    confirm_server: ConfirmServer,
    report: Report,
    *,
    record: Record,
    stop_first: bool = False,
) -> Restored:
    """Carry out `plan`. The live database serves until the restored one was found to be equal to the
    backup; on any failure after that, everything is as it was. Raises LettaOpsError.

    Where the target can, a server works on what was restored before the one that serves is stopped, and
    stands in for it; not with `stop_first`.
    """
    started = time.monotonic()
    live = generations.live
    ensure_no_other(deployment)
    ensure_can_stop(deployment)
    _ensure_whole(store, plan)
    journal = Journal(
        deployment_id(deployment),
        plan.backup.id,
        live,
        0,
        generations.exists(live),
        _has_memory(deployment, plan),
        _old_keys(deployment, plan),
        record=str(record.id),
        scope=scope_of(deployment),
    )
    with scratch_folder(deployment, generations) as scratch:
        _make_beside(deployment, generations, store, plan, key, journal, scratch, report)
        journal = replace(journal, side_oid=generations.number(journal.side))
        lock.ensure_held()
        generations.drop(journal.older)  # of a restore that was proven, and then killed
        generations.exchange(moves_of(generations, journal), rehearse=True)
        with _standby(
            deployment, generations, plan, journal, report, wanted=not stop_first
        ) as standby:
            lock.ensure_held()
            journal = replace(journal, has_standby=standby is not None)
            if generations.must_be_alone:
                lock.release_database()
            journal.write(journal_file(deployment))
            down = _switch(deployment, generations, plan, journal, standby, confirm_server, report)
            record.detail |= {
                "backup": plan.backup.id,
                "previous": journal.previous if journal.had_database else None,
                "down_seconds": round(down, 1),
            }
            record.took_effect()
            journal_file(deployment).unlink()
    for gone in (journal.older, journal.undone):
        try:
            generations.drop(gone)
        except LettaOpsError as error:  # the next restore begins with it, or says the same
            report(f"database: {gone} stays: {error.message}")
    _freshen(generations, report)
    previous = journal.previous if journal.had_database else None
    (kept,) = (
        look(generations, [previous], plan.backup.manifest.created_at) if previous else (None,)
    )
    seconds = round(time.monotonic() - started, 1)
    replaced = kept.held if kept else None
    return Restored(plan.backup.id, previous, replaced, is_ours(deployment), seconds)


def kept_generations(deployment: Deployment, generations: Generations) -> list[str]:
    """The databases, or schemas, that restores have replaced, or that were set aside when those were
    undone."""
    names = names_of(deployment)
    kept = (names.previous, names.older, names.undone)
    return [name for name in kept if generations.exists(name)]


def kept_clusters(deployment: Deployment) -> list[str]:
    """The Postgres clusters that another version of it has replaced."""
    cluster = host(deployment).cluster()
    return [] if cluster is None else list(cluster.kept())


def drop_clusters(deployment: Deployment) -> list[str]:
    """Drop what `kept_clusters` names; return the names."""
    names = kept_clusters(deployment)
    if names:
        cluster_of(deployment).drop(*names)
        forget_postgres_upgrade(deployment)
    return names


def _ensure_whole(store: Store, plan: Plan) -> None:
    """Read the parts that a restore doesn't use: one that is damaged says that the store is, too."""
    for part in plan.backup.manifest.parts:
        if not part.of_database and part.name != MEMORY:
            for _ in stored_chunks(store, plan.backup, part):
                pass  # compared at the end


def drop_previous(deployment: Deployment, generations: Generations) -> list[str]:
    """Drop what `kept_generations` names, and the memory of that time; return the names."""
    dropped = kept_generations(deployment, generations)
    for name in dropped:
        generations.ensure_ours(name)  # before anything is dropped: memory and key belong to them
    for name in dropped:
        generations.drop(name)
    if reachable(deployment):
        memory = MemoryPlace.of(deployment)
        dropped += ["memory"] if memory.has_previous() else []
        memory.forget_others()
        memory.drop_previous()
    profile = deployment.profile
    if profile is not None and remembered(profile, PREVIOUS_KEY):
        remember(profile, {PREVIOUS_KEY: None, PREVIOUS_OF: None})
    return dropped


def _make_beside(
    deployment: Deployment,
    generations: Generations,
    store: Store,
    plan: Plan,
    key: Key,
    journal: Journal,
    scratch: Path,
    report: Report,
) -> None:
    if host(deployment).shares_disk:  # its Postgres must not run full
        ensure_room(scratch, room_for(plan.backup.manifest))
    generations.make(
        journal.side, plan.present, store, plan.backup, key, scratch, report, trusted=plan.signed
    )
    if plan.secrets_lost:
        with generations.owned(journal.side) as (link, schema):
            lost = forget_unopened(link, schema, deployment.server.encryption_key)
        report(f"database: secrets that no key opens are left out: {', '.join(lost) or 'none'}")
    if journal.had_memory:
        report("memory: restoring git repositories")
        with opened_part(store, plan.backup, MEMORY, key) as source:
            MemoryPlace.of(deployment).write(chunks_of(source))


@contextmanager
def _standby(
    deployment: Deployment,
    generations: Generations,
    plan: Plan,
    journal: Journal,
    report: Report,
    *,
    wanted: bool,
) -> Iterator[Standby | None]:
    """Yield a server that does its work on what was restored, while that of before serves; it is gone in
    the end.

    None where that can't be had: then clients wait. Raises LettaOpsError (`server-not-proven`).
    """
    found = standby_of(deployment) if wanted and not plan.provisions else None
    if found is not None and answers(deployment):
        found = _started(found, generations.sessions(journal.side), report)
    else:
        found = None
    try:
        yield found
    except BaseException:
        with suppress(LettaOpsError):
            remove_standby(deployment)
        raise
    try:
        remove_standby(deployment, DRAIN_SECONDS)
    except LettaOpsError as error:  # it has no clients any more
        report(f"the server that stood in stays until the next restore: {error.message}")


def _started(standby: Standby, sessions: Mapping[str, str], report: Report) -> Standby | None:
    report("switching: a server is started on what was restored, beside the one that serves")
    try:
        standby.start(sessions)
    except LettaOpsError as error:
        if error.code != "standby-not-started":
            raise
        report(f"switching: clients have to wait, since {error.message}")
        return None
    return standby


def _switch(
    deployment: Deployment,
    generations: Generations,
    plan: Plan,
    journal: Journal,
    standby: Standby | None,
    confirm_server: ConfirmServer,
    report: Report,
) -> float:
    """Return for how many seconds nothing has served."""
    try:
        start_guard(deployment)
        at_once = standby is not None and not _has_repositories(deployment, plan, journal)
        if standby is not None and at_once:
            report("switching: the server beside serves")
            standby.serve()
        gone = time.monotonic()
        report("switching: the server is stopped")
        stop_server(deployment)
        if at_once:
            gone = time.monotonic()
        changed = generations.exchange(moves_of(generations, journal), standby=standby)
        # What came to them while the restored one was made; before anybody misses it.
        for line in [*changed, *carried(generations, journal.previous, journal.name)]:
            report(f"database: {line}")
        if journal.had_memory:
            MemoryPlace.of(deployment).swap()
        if standby is not None and not at_once:
            report("switching: the server beside serves")
            standby.serve()
        back = time.monotonic()
        _start(deployment, generations, plan, journal, report)
        if standby is not None:
            standby.hand_back()
        if is_ours(deployment):
            confirm_server(load(stack_folder(deployment.stack), deployment.profile))
        if standby is None:
            back = time.monotonic()
    except BaseException as error:
        _undo(deployment, journal, report, error)
        raise
    replace(journal, proven=True).write(journal_file(deployment))
    return back - gone


def _undo(deployment: Deployment, journal: Journal, report: Report, error: BaseException) -> None:
    try:
        go_back(deployment, journal, report)
    except BaseException as worse:  # noqa: BLE001  # the first error is the one to tell
        error.add_note(f"going back did not succeed yet: {worse}")
        error.add_note("it is tried again by the next `letta-ops backup` command; nothing is lost")


def _start(
    deployment: Deployment, generations: Generations, plan: Plan, journal: Journal, report: Report
) -> None:
    if plan.new_key is not None and deployment.profile is not None:
        report("key: the server takes over the encryption key that the backup brought along")
        remember(
            deployment.profile,
            {
                ENCRYPTION_KEY: plan.new_key.reveal(),
                ADOPTED_KEY: key_fingerprint(plan.new_key),
                PREVIOUS_KEY: remembered(deployment.profile, ENCRYPTION_KEY),
                PREVIOUS_OF: generations.number(journal.previous) or None,
            },
        )
    if plan.provisions:
        from infra.provision import Request, up

        up(Request(deployment.stack, held=True, schema="migrate"), report)
    report("switching: the server is started")
    start_server(deployment)


def _freshen(generations: Generations, report: Report) -> None:
    """The server works already: what fails here keeps nobody waiting."""
    import psycopg

    try:
        generations.freshen(generations.live)
    except (psycopg.Error, LettaOpsError):
        report("the planner's statistics could not be made; autovacuum does it within minutes")


def _has_repositories(deployment: Deployment, plan: Plan, journal: Journal) -> bool:
    """Whether what a server writes to memory for its last clients would get into that of the other."""
    if not journal.had_memory:
        return False
    restored, live = plan.backup.manifest.memory, MemoryPlace.of(deployment)
    return restored.repositories > 0 or live.digest().repositories > 0


def _has_memory(deployment: Deployment, plan: Plan) -> bool:
    return reachable(deployment) and plan.backup.manifest.part(MEMORY) is not None


def _old_keys(deployment: Deployment, plan: Plan) -> dict[str, Any] | None:
    if plan.new_key is None or deployment.profile is None:
        return None
    paths = (ENCRYPTION_KEY, ADOPTED_KEY, PREVIOUS_KEY, PREVIOUS_OF)
    return {path: remembered(deployment.profile, path) for path in paths}
