"""Where agents of V1 are taken from: each way ends in a `Source`.

A database of the newest release is read as it is, in one snapshot. Anything older is brought there by
the release's own migrations, in a throw-away Postgres; so is an archive, and a backup is restored there.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from backups.archives.agents import agents_in, find_agents, letta_tables
from backups.archives.closure import Model, read_model
from backups.archives.file import Header, open_archive
from backups.archives.from_backup import memories_in
from backups.archives.memory import Memories, split
from backups.archives.migrated import Fill, migrate_to, scratch_database
from backups.archives.place import InFile, Place
from backups.archives.staging import Staging, stage
from backups.archives.write import header_of, memory_tar, write_agents
from backups.catalog import Backup
from backups.encryption import Encryption
from backups.opening import Key
from backups.signing import Signers
from backups.sources.memory_files import reachable, read_memory
from backups.stores.store import Store
from backups.streams import ChunkSource
from backups.verdicts import PASSED
from backups.verify import judge_signature
from healthchecks.drill.drill_run import DrillRun, encryption_key, ensure_room, restore
from healthchecks.drill.verdict import Judge
from infra.database.facts import database_facts
from infra.embedded.throwaway import throwaway_folder, throwaway_parent
from infra.embedded.throwaway_postgres import start_postgres
from infra.embedded.throwaway_server import install_release
from infra.process import Report
from infra.sensitive import Sensitive
from infra.stack.deployment import DATABASE_NAME, Deployment
from infra.stack.releases import NEWEST, RELEASES
from ops_cli.exit.from_database import DatabaseSource
from ops_cli.exit.v1 import Source

if TYPE_CHECKING:
    import psycopg


@contextmanager
def of_live(deployment: Deployment, report: Report) -> Iterator[Source]:
    """The live database, in one snapshot. Raises LettaOpsError like `agents_in`."""
    name = f"the stack {deployment.stack}"
    with agents_in(deployment) as (link, model):
        if database_facts(link).revision == RELEASES[NEWEST].alembic_head:
            memories = _live_memories(deployment, report)
            try:
                yield DatabaseSource(name, link, model, memories, deployment.server.encryption_key)
            finally:
                memories.close()
            return
    with throwaway_folder(throwaway_parent(deployment.folder), report) as folder:
        place = InFile(folder.root / "live.agents")
        with agents_in(deployment) as (link, model):
            agents = find_agents(link, model, None)
            header = header_of(deployment, link, model, agents)
            memory = memory_tar(deployment, agents, report)
            write_agents(link, model, agents, header, memory, place, Encryption())
        with open_archive(place, Key()) as archive:
            made = scratch_database(
                folder, deployment.server.encryption_key, name, archive.header.revision,
                RELEASES[NEWEST], _filled_by(archive), report,
            )  # fmt: skip
            with made as (link, _, staging):
                yield _of_scratch(name, link, staging, deployment.server.encryption_key)


@contextmanager
def of_archive(
    deployment: Deployment | None, place: Place, key: Key, report: Report
) -> Iterator[Source]:
    """An agent archive of any release. Raises LettaOpsError like `open_archive`, `scratch_database`."""
    parent = throwaway_parent(deployment.folder if deployment else None)
    server_key = deployment.server.encryption_key if deployment else None
    with (
        open_archive(place, key) as archive,
        throwaway_folder(parent, report) as folder,
        scratch_database(
            folder, server_key, str(place), archive.header.revision, RELEASES[NEWEST],
            _filled_by(archive), report,
        ) as (link, _, staging),
    ):  # fmt: skip
        yield _of_scratch(str(place), link, staging, server_key)


@contextmanager
def of_backup(
    deployment: Deployment, store: Store, backup: Backup, key: Key, report: Report
) -> Iterator[Source]:
    """A whole backup, restored into a throw-away Postgres: the server that it is of may be gone.

    Raises LettaOpsError like a drill.
    """
    release = RELEASES[NEWEST]
    signature = judge_signature(backup, Signers.of(deployment, key.identities))
    at = dt.datetime.now(dt.UTC)
    with throwaway_folder(throwaway_parent(deployment.folder), report) as folder:
        drill = DrillRun(
            deployment, store, backup, key, folder, Judge(lambda _: None), report, at,
            signature.verdict == PASSED,
        )  # fmt: skip
        report("making a throw-away Postgres")
        postgres = start_postgres(folder)
        ensure_room(drill)
        restore(drill, postgres)
        if backup.manifest.database.revision != release.alembic_head:
            installed = install_release(folder, release, report)
            secret, _ = encryption_key(drill)
            report(f"migrating to Letta {release.version}")
            migrate_to(folder, installed, postgres, release.alembic_head, secret)
        memories = memories_in(store, backup, key, lambda _: True)
        try:
            with letta_tables(postgres.access, DATABASE_NAME, "READ ONLY") as (link, model, _):
                yield DatabaseSource(
                    f"backup {backup.id}", link, model, memories, encryption_key(drill)[0]
                )
        finally:
            memories.close()


def _filled_by(archive: Any) -> Fill:
    def fill(link: psycopg.Connection[Any], model: Model) -> tuple[Staging, Header]:
        return stage(link, model, archive), archive.header

    return fill


def _of_scratch(
    name: str, link: psycopg.Connection[Any], staging: Staging, key: Sensitive | None
) -> DatabaseSource:
    return DatabaseSource(name, link, read_model(link, "public"), staging.memories, key)


def _live_memories(deployment: Deployment, report: Report) -> Memories:
    if not reachable(deployment):
        return Memories()
    with read_memory(deployment, report) as tar:
        return split(ChunkSource(tar).read, lambda _: True)
