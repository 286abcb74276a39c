"""Restoring a backup into the deployment: made beside, compared, switched, proven, or undone."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.catalog import deployment_id
from backups.contents import compare
from backups.layout import LETTA_OPS, copy_settings
from backups.lock import Lock
from backups.manifest import MEMORY
from backups.opening import Key, opened_part
from backups.restoring.guard import start_guard
from backups.restoring.journal import Journal, journal_file
from backups.restoring.plan import Plan, exists
from backups.restoring.switch import go_back, oid_of, switch_databases
from backups.side_database import SideDatabase, drop_database, failed, restore_database
from backups.sources.memory_files import MemoryPlace, reachable
from backups.stores.store import Store
from backups.streams import chunks_of
from infra.administration import Way
from infra.audit import carry_over
from infra.deployment import Deployment
from infra.errors import LettaOpsError
from infra.fingerprint import key_fingerprint
from infra.locations import StackFolder, make_folder, stack_folder
from infra.process import Report
from infra.profiles import ADOPTED_KEY, PREVIOUS_KEY, load, remember, remembered
from infra.servers import start_server, stop_server

if TYPE_CHECKING:
    import psycopg

Prove = Callable[[Deployment], None]  # raises LettaOpsError when the server doesn't do its work


@dataclass(frozen=True)
class Restored:
    """What a restore has done. `previous` is the database that was replaced, and is kept."""

    backup: str
    previous: str | None
    seconds: float


def restore(
    deployment: Deployment,
    way: Way,
    store: Store,
    plan: Plan,
    key: Key,
    lock: Lock,
    prove: Prove,
    report: Report,
) -> Restored:
    """Carry out `plan`. The live database serves until the restored one was found to be equal to the
    backup; on any failure after that, everything is as it was. Raises LettaOpsError."""
    started = time.monotonic()
    assert deployment.database is not None  # noqa: S101  # `way` leads to it
    name = deployment.database.name
    journal = Journal(
        plan.backup.id,
        name,
        0,
        exists(way, name),
        _has_memory(deployment, plan),
        _old_key(deployment, plan),
    )
    try:
        _make_beside(deployment, way, store, plan, key, journal, report)
        journal = replace(journal, side_oid=oid_of(way, journal.side))
        drop_database(way, journal.older)  # of a restore that was proven, and then killed
        lock.ensure_held()
    except BaseException:
        drop_database(way, journal.side)
        raise
    if way.maintenance == name:
        lock.release_database()
    _switch(deployment, way, plan, journal, prove, report)
    drop_database(way, journal.older)
    _freshen(way, name, report)
    previous = journal.previous if journal.had_database else None
    return Restored(plan.backup.id, previous, round(time.monotonic() - started, 1))


def previous_of(deployment: Deployment) -> str:
    """What the database is called that a restore has replaced."""
    name = deployment.database.name if deployment.database else ""
    return _names(name).previous


def drop_previous(deployment: Deployment, way: Way) -> bool:
    """Drop what the last restore has replaced; False: there is nothing."""
    assert deployment.database is not None  # noqa: S101  # `way` leads to it
    names = _names(deployment.database.name)
    there = False
    for name in (names.previous, names.older, names.undone):
        there = exists(way, name) or there
        drop_database(way, name)
    if reachable(deployment):
        memory = MemoryPlace(deployment)
        there = memory.has_previous() or there
        memory.drop_previous()
    if deployment.profile is not None and remembered(deployment.profile, PREVIOUS_KEY):
        remember(deployment.profile, {PREVIOUS_KEY: None})
    return there


def _make_beside(
    deployment: Deployment,
    way: Way,
    store: Store,
    plan: Plan,
    key: Key,
    journal: Journal,
    report: Report,
) -> None:
    import psycopg

    present, database = plan.present, deployment.database
    assert database is not None  # noqa: S101  # see `restore`
    side = SideDatabase(
        journal.side,
        database.owner.name,
        present.schema if present else None,
        present.extension_schema if present else None,
    )
    with _scratch(deployment) as scratch:
        restore_database(way, side, store, plan.backup, key, scratch, report)
    report("database: comparing its content with the backup's")
    expected = plan.backup.manifest.database
    renamed = {expected.schema: side.schema} if side.schema and expected.schema else {}
    try:
        with way.connect(journal.side) as link:
            if differences := compare(link, expected, renamed):
                raise _differs(differences)
            if journal.had_database:
                with way.connect(journal.name) as old:
                    carry_over(old, link)
            else:
                carry_over(None, link)
            _claim(link, deployment_id(deployment))
        if journal.had_database:
            with way.connect(way.maintenance) as link:
                copy_settings(link, journal.name, journal.side)
    except psycopg.Error as error:
        raise failed(error) from None
    if journal.had_memory:
        report("memory: restoring git repositories")
        with opened_part(store, plan.backup, MEMORY, key) as source:
            MemoryPlace(deployment).write(chunks_of(source))


def _switch(
    deployment: Deployment,
    way: Way,
    plan: Plan,
    journal: Journal,
    prove: Prove,
    report: Report,
) -> None:
    path = journal_file(deployment)
    make_folder(path.parent)
    journal.write(path)
    start_guard(deployment)
    try:
        report("switching: the server is stopped")
        stop_server(deployment)
        switch_databases(way, journal)
        if journal.had_memory:
            MemoryPlace(deployment).swap()
        _start(deployment, plan, report)
        prove(load(stack_folder(deployment.stack), deployment.profile))
    except BaseException as error:
        _undo(deployment, journal, report, error)
        raise
    path.unlink()


def _undo(deployment: Deployment, journal: Journal, report: Report, error: BaseException) -> None:
    try:
        go_back(deployment, journal, report)
    except BaseException as worse:  # noqa: BLE001  # the first error is the one to tell
        error.add_note(f"going back did not succeed yet: {worse}")
        error.add_note("it is tried again by the next `letta-ops backup` command; nothing is lost")


def _start(deployment: Deployment, plan: Plan, report: Report) -> None:
    if plan.new_key is not None and deployment.profile is not None:
        report("key: the server takes over the encryption key that the backup brought along")
        remember(
            deployment.profile,
            {
                "server.encryption_key": plan.new_key.reveal(),
                ADOPTED_KEY: key_fingerprint(plan.new_key),
                PREVIOUS_KEY: _old_key(deployment, plan),  # of the database that is kept
            },
        )
    if plan.provisions:
        from infra.provision import Request, up

        up(Request(deployment.stack, held=True), report)
    report("switching: the server is started")
    start_server(deployment)


def _claim(link: psycopg.Connection[Any], deployment: str) -> None:
    """Write whose database it is; the backup may be of another deployment, or of a time before this."""
    from psycopg import sql

    table = sql.Identifier(LETTA_OPS, "deployment")
    there = link.execute("SELECT to_regclass(%s)", [f"{LETTA_OPS}.deployment"]).fetchone()
    if there is None or there[0] is None:
        return
    with link.transaction():
        link.execute(sql.SQL("DELETE FROM {} WHERE id <> %s").format(table), [deployment])
        link.execute(
            sql.SQL("INSERT INTO {} (id) VALUES (%s) ON CONFLICT DO NOTHING").format(table),
            [deployment],
        )


def _freshen(way: Way, name: str, report: Report) -> None:
    """Give the planner its statistics: a dump brings none. The server works already."""
    import psycopg

    try:
        with way.connect(name) as link:
            link.execute("ANALYZE")
    except (psycopg.Error, LettaOpsError):
        report("the planner's statistics could not be made; autovacuum does it within minutes")


@contextmanager
def _scratch(deployment: Deployment) -> Iterator[Path]:
    """A private folder on the stack's own disk; what a killed restore left in it goes first."""
    folder: StackFolder = stack_folder(deployment.stack)
    make_folder(folder.root)
    for left in folder.root.glob("restoring.*"):
        shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix="restoring.", dir=folder.root))
    os.chmod(made, 0o700)  # noqa: PTH101
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _names(name: str) -> Journal:
    return Journal("", name, 0, had_database=True, had_memory=True, old_key=None)


def _has_memory(deployment: Deployment, plan: Plan) -> bool:
    return reachable(deployment) and plan.backup.manifest.part(MEMORY) is not None


def _old_key(deployment: Deployment, plan: Plan) -> str | None:
    if plan.new_key is None or deployment.profile is None:
        return None
    kept = remembered(deployment.profile, "server.encryption_key")
    return None if kept is None else str(kept)


def _differs(differences: list[str]) -> LettaOpsError:
    shown = "\n".join(f"  - {line}" for line in differences[:20])
    return LettaOpsError(
        "restore-differs",
        f"what was restored is not what the backup holds:\n{shown}",
        "nothing was replaced; try `letta-ops backup verify`, and another backup",
    )
