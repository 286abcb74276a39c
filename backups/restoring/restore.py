"""Restoring a backup into the deployment: made beside, compared, switched, proven, or undone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from backups.catalog import deployment_id
from backups.contents import compare
from backups.layout import (
    LETTA_OPS,
    apply_settings,
    copy_settings,
    first_grants,
    reach_extension,
)
from backups.loading import room_for
from backups.lock import Lock
from backups.manifest import MEMORY, DatabaseRecord
from backups.opening import Key, opened_part, stored_chunks
from backups.restoring.guard import start_guard
from backups.restoring.journal import Journal, ensure_no_other, journal_file, names_of
from backups.restoring.plan import Plan, exists
from backups.restoring.scratch import ensure_room, scratch_folder
from backups.restoring.switch import go_back, oid_of, switch_databases
from backups.side_database import (
    SideDatabase,
    drop_database,
    ensure_ours,
    failed,
    restore_database,
    set_mark,
)
from backups.sources.memory_files import MemoryPlace, reachable
from backups.stores.store import Store
from backups.streams import chunks_of
from infra.audit.trail import carry_over
from infra.database.administration import DatabaseAccess
from infra.database.claim import claim, claimed_by
from infra.errors import LettaOpsError
from infra.process import Report
from infra.servers import ensure_can_stop, is_ours, start_server, stop_server
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

if TYPE_CHECKING:
    import psycopg

FIRST_SCHEMA = "public"  # where a server looks whose database nobody has configured
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
    """What a restore has done. `previous` is the database that was replaced, and is kept.

    `proven`: the server did its work with it; one that isn't ours is not running yet.
    """

    backup: str
    previous: str | None
    proven: bool
    seconds: float


def restore(
    deployment: Deployment,
    access: DatabaseAccess,
    store: Store,
    plan: Plan,
    key: Key,
    lock: Lock,
    confirm_server: ConfirmServer,
    report: Report,
    *,
    record: Record,
) -> Restored:
    """Carry out `plan`. The live database serves until the restored one was found to be equal to the
    backup; on any failure after that, everything is as it was. Raises LettaOpsError."""
    started = time.monotonic()
    assert deployment.database is not None  # noqa: S101  # `way` leads to it
    name = deployment.database.name
    ensure_no_other(deployment)
    ensure_can_stop(deployment)
    _ensure_whole(store, plan)
    journal = Journal(
        deployment_id(deployment),
        plan.backup.id,
        name,
        0,
        exists(access, name),
        _has_memory(deployment, plan),
        _old_keys(deployment, plan),
        record=str(record.id),
    )
    with scratch_folder(deployment, access) as scratch:
        _make_beside(deployment, access, store, plan, key, journal, scratch, report)
        journal = replace(journal, side_oid=oid_of(access, journal.side))
        lock.ensure_held()
        drop_database(access, journal.older)  # of a restore that was proven, and then killed
        if access.maintenance == name:
            lock.release_database()
        journal.write(journal_file(deployment))
        stopped = time.monotonic()
        _switch(deployment, access, plan, journal, confirm_server, report)
        record.detail |= {
            "backup": plan.backup.id,
            "previous": journal.previous if journal.had_database else None,
            "down_seconds": round(time.monotonic() - stopped, 1),
        }
        record.took_effect()
        journal_file(deployment).unlink()
    for gone in (journal.older, journal.undone):
        drop_database(access, gone)
    _freshen(access, name, report)
    previous = journal.previous if journal.had_database else None
    seconds = round(time.monotonic() - started, 1)
    return Restored(plan.backup.id, previous, is_ours(deployment), seconds)


def kept_databases(deployment: Deployment, access: DatabaseAccess) -> list[str]:
    """The databases that restores have replaced, or that were set aside when those were undone."""
    names = names_of(deployment)
    kept = (names.previous, names.older, names.undone)
    return [name for name in kept if exists(access, name)]


def _ensure_whole(store: Store, plan: Plan) -> None:
    """Read the parts that a restore doesn't use: one that is damaged says that the store is, too."""
    for part in plan.backup.manifest.parts:
        if not part.of_database and part.name != MEMORY:
            for _ in stored_chunks(store, plan.backup, part):
                pass  # compared at the end


def drop_previous(deployment: Deployment, access: DatabaseAccess) -> list[str]:
    """Drop what `kept_databases` names, and the memory of that time; return the names."""
    dropped = kept_databases(deployment, access)
    for name in dropped:
        ensure_ours(access, name)  # before anything is dropped: memory and key belong to them
    for name in dropped:
        drop_database(access, name)
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
    access: DatabaseAccess,
    store: Store,
    plan: Plan,
    key: Key,
    journal: Journal,
    scratch: Path,
    report: Report,
) -> None:
    import psycopg

    present, database = plan.present, deployment.database
    assert database is not None  # noqa: S101  # see `restore`
    side = SideDatabase(
        journal.side,
        database.owner.name,
        present.schema if present else FIRST_SCHEMA,
        present.extension_schema if present else FIRST_SCHEMA,
        journal.name if journal.had_database else None,
    )
    if host(deployment).shares_disk:  # its Postgres must not run full
        ensure_room(scratch, room_for(plan.backup.manifest))
    with host(deployment).owner() as owner:
        restore_database(
            access, owner, side, store, plan.backup, key, scratch, report, trusted=plan.signed
        )
    report("database: comparing its content with the backup's")
    expected = plan.backup.manifest.database
    renamed = {expected.schema: side.schema} if side.schema and expected.schema else {}
    try:
        with access.examine(journal.side) as link, access.examine(journal.side) as more_links:
            if differences := compare(link, expected, renamed, [more_links]):
                raise _differs(differences)
            if journal.had_database:
                with access.examine(journal.name) as old:
                    carry_over(old, link)
            else:
                carry_over(None, link)
            _claim(link, deployment_id(deployment))
        with access.connect(access.maintenance) as link:
            if journal.had_database:
                copy_settings(link, journal.name, journal.side)
                set_mark(link, journal.side, marked=True, comment_of=journal.name)
            else:
                first_grants(link, journal.side, database.reader.name)
                if plan.signed:
                    _set_as_it_was(link, expected, side, report)
        with host(deployment).owner() as owner, owner.connect(journal.side) as link:
            reach_extension(link, side.owner)
    except psycopg.Error as error:
        raise failed(error) from None
    if journal.had_memory:
        report("memory: restoring git repositories")
        with opened_part(store, plan.backup, MEMORY, key) as source:
            MemoryPlace.of(deployment).write(chunks_of(source))


def _switch(
    deployment: Deployment,
    access: DatabaseAccess,
    plan: Plan,
    journal: Journal,
    confirm_server: ConfirmServer,
    report: Report,
) -> None:
    try:
        start_guard(deployment)
        report("switching: the server is stopped")
        stop_server(deployment)
        switch_databases(access, journal)
        if journal.had_memory:
            MemoryPlace.of(deployment).swap()
        _start(deployment, access, plan, journal, report)
        if is_ours(deployment):
            confirm_server(load(stack_folder(deployment.stack), deployment.profile))
    except BaseException as error:
        _undo(deployment, journal, report, error)
        raise
    replace(journal, proven=True).write(journal_file(deployment))


def _undo(deployment: Deployment, journal: Journal, report: Report, error: BaseException) -> None:
    try:
        go_back(deployment, journal, report)
    except BaseException as worse:  # noqa: BLE001  # the first error is the one to tell
        error.add_note(f"going back did not succeed yet: {worse}")
        error.add_note("it is tried again by the next `letta-ops backup` command; nothing is lost")


def _start(
    deployment: Deployment, access: DatabaseAccess, plan: Plan, journal: Journal, report: Report
) -> None:
    if plan.new_key is not None and deployment.profile is not None:
        report("key: the server takes over the encryption key that the backup brought along")
        remember(
            deployment.profile,
            {
                ENCRYPTION_KEY: plan.new_key.reveal(),
                ADOPTED_KEY: key_fingerprint(plan.new_key),
                PREVIOUS_KEY: remembered(deployment.profile, ENCRYPTION_KEY),
                PREVIOUS_OF: oid_of(access, journal.previous) if journal.had_database else None,
            },
        )
    if plan.provisions:
        from infra.provision import Request, up

        up(Request(deployment.stack, held=True), report)
    report("switching: the server is started")
    start_server(deployment)


def _set_as_it_was(
    link: psycopg.Connection[Any], record: DatabaseRecord, side: SideDatabase, report: Report
) -> None:
    """Where there is no live database to be like: what the backup's had, as far as its owner may set
    it, for everybody and himself."""
    import psycopg

    if record.properties is None:
        return
    free = {name for (name,) in link.execute("SELECT name FROM pg_settings WHERE context = 'user'")}
    free -= {"search_path"}  # it is that of the layout here
    for role, assignment in record.properties.settings:
        try:
            if assignment.partition("=")[0] in free and role in {None, side.owner}:
                apply_settings(link, [(role, assignment)], side.name)
        except psycopg.Error as error:
            report(f"database: leaving out {assignment}: {str(error).strip().splitlines()[0]}")


def _claim(link: psycopg.Connection[Any], deployment: str) -> None:
    """Write whose database it is; the backup may be of another deployment, or of a time before this."""
    from psycopg import sql

    if claimed_by(link) is not None:
        table = sql.Identifier(LETTA_OPS, "deployment")
        link.execute(sql.SQL("DELETE FROM {} WHERE id <> %s").format(table), [deployment])
    claim(link, deployment)


def _freshen(access: DatabaseAccess, name: str, report: Report) -> None:
    """Give the planner its statistics: a dump brings none. The server works already."""
    import psycopg

    try:
        with access.examine(name) as link:
            link.execute("ANALYZE")
    except (psycopg.Error, LettaOpsError):
        report("the planner's statistics could not be made; autovacuum does it within minutes")


def _has_memory(deployment: Deployment, plan: Plan) -> bool:
    return reachable(deployment) and plan.backup.manifest.part(MEMORY) is not None


def _old_keys(deployment: Deployment, plan: Plan) -> dict[str, Any] | None:
    if plan.new_key is None or deployment.profile is None:
        return None
    paths = (ENCRYPTION_KEY, ADOPTED_KEY, PREVIOUS_KEY, PREVIOUS_OF)
    return {path: remembered(deployment.profile, path) for path in paths}


def _differs(differences: list[str]) -> LettaOpsError:
    shown = "\n".join(f"  - {line}" for line in differences[:20])
    return LettaOpsError(
        "restore-differs",
        f"what was restored is not what the backup holds:\n{shown}",
        "nothing was replaced; try `letta-ops backup verify`, and another backup",
    )
