"""Agents of an older release: brought to today's revision in a throw-away Postgres, as a new archive.

The release's own migrations do it: they know how to come from every revision before. The rows are put
into a database of their revision, which is then migrated, and archived again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backups.archives.agents import find_agents
from backups.archives.closure import Model, read_model
from backups.archives.file import Header
from backups.archives.place import InFile
from backups.archives.staging import Staging, names_of
from backups.archives.write import header_of, write_agents
from backups.encryption import Encryption
from infra.database.clear_secrets import encrypt_clear
from infra.embedded.alembic import upgrade
from infra.embedded.release import InstalledRelease
from infra.embedded.throwaway import throwaway_folder, throwaway_parent
from infra.embedded.throwaway_postgres import ThrowawayPostgres, start_postgres
from infra.embedded.throwaway_server import install_release
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.stack.deployment import DATABASE_NAME, Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.stack.locations import StackFolder
from infra.stack.releases import Release

if TYPE_CHECKING:
    import psycopg

SCHEMA = "public"
# Stages agents in a transaction of a connection.
Fill = Callable[["psycopg.Connection[Any]", Model], tuple[Staging, Header]]


@contextmanager
def migrated(
    deployment: Deployment, source: str, revision: str | None, release: Release, fill: Fill,
    report: Report,
) -> Iterator[InFile]:  # fmt: skip
    """Yield an archive of the agents that `fill` stages, of `revision`, at the revision of `release`.

    It lies in a folder that goes with the block. `source` is what they are of, for people. Raises
    LettaOpsError like `scratch_database`.
    """
    key = deployment.server.encryption_key
    with (
        throwaway_folder(throwaway_parent(deployment.folder), report) as folder,
        scratch_database(folder, key, source, revision, release, fill, report) as made,
    ):
        place = InFile(folder.root / "migrated.agents")
        _archive(deployment, release, *made, place)
        yield place


@contextmanager
def scratch_database(
    folder: StackFolder, key: Sensitive | None, source: str, revision: str | None,
    release: Release, fill: Fill, report: Report,
) -> Iterator[tuple[psycopg.Connection[Any], Header, Staging]]:  # fmt: skip
    """Yield a connection to a Postgres in a throw-away `folder` with nothing in it but the agents that
    `fill` stages, of `revision`, brought to that of `release`: in a transaction that reads.

    Raises LettaOpsError: `archive-other-revision` where the release can't come from there, and those of
    a throw-away Postgres, of the migrations and of `fill`.
    """
    postgres = start_postgres(folder)
    installed = install_release(folder, release, report)
    if revision is None or not installed.knows(revision):
        raise LettaOpsError(
            "archive-other-revision",
            f"{source} was made of a database of revision {revision}, which Letta"
            f" {release.version} doesn't come from: it is newer; nothing was changed",
            "restore it into a server of that release, or upgrade this one",
        )
    with postgres.access.connect(postgres.access.maintenance) as link:
        owner = postgres.database.owner.name
        link.execute(f"CREATE DATABASE {DATABASE_NAME} OWNER {owner}")
    with postgres.access.connect(DATABASE_NAME) as link:
        link.execute("CREATE EXTENSION vector")
    report(f"{source}: of revision {revision}; making a database of that")
    migrate_to(folder, installed, postgres, revision, None)
    with postgres.access.connect(DATABASE_NAME) as link:
        # What the rows point at beside themselves (providers) is not here.
        link.execute("SET session_replication_role = replica")
        link.execute("BEGIN")
        staging, header = fill(link, read_model(link, SCHEMA))
        with closing(staging.memories):
            _put(staging)
            link.execute("COMMIT")
            if header.key_fingerprint not in (None, key and key_fingerprint(key)):
                key = None  # what is encrypted already is of another one
            if revision != release.alembic_head:
                report(f"{source}: migrating it to Letta {release.version}")
                migrate_to(folder, installed, postgres, release.alembic_head, key)
            if key is not None:
                encrypt_clear(link, SCHEMA, key)
            link.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield link, header, staging


def migrate_to(
    folder: StackFolder, installed: InstalledRelease, postgres: ThrowawayPostgres, revision: str,
    key: Sensitive | None,
) -> None:  # fmt: skip
    """Migrate a throw-away database to `revision`. Raises LettaOpsError, with what alembic said last."""
    said: list[str] = []
    try:
        upgrade(
            folder, installed, postgres.database, revision, said.append, "nothing was changed", key
        )
    except LettaOpsError as error:
        lines = "\n".join(f"    {line}" for line in said[-10:])
        raise LettaOpsError(error.code, f"{error.message}:\n{lines}", error.hint) from None


def _put(staging: Staging) -> None:
    """Put what was staged into the tables."""
    for table in staging.tables:
        names = names_of(staging.model.names(table))
        staging.run(
            "INSERT INTO {} ({}) SELECT {} FROM {}",
            staging.model.table(table), names, names, staging.staged(table),
        )  # fmt: skip


def _archive(
    deployment: Deployment,
    release: Release,
    link: psycopg.Connection[Any],
    old: Header,
    staging: Staging,
    place: InFile,
) -> None:
    model = read_model(link, SCHEMA)
    agents = find_agents(link, model, None)
    header = replace(
        header_of(deployment, link, model, agents),
        created_at=old.created_at,
        deployment=old.deployment,
        release=release.version,
        providers=old.providers,
        urls=old.urls,
        left_out=old.left_out,
        key_fingerprint=old.key_fingerprint,
    )
    memory = staging.memories.as_tar() if staging.memories.of else iter(())
    write_agents(link, model, agents, header, memory, place, Encryption())
