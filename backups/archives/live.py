"""The live database, and agents of another revision brought to its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from backups.archives.agents import letta_tables
from backups.archives.closure import Model
from backups.archives.file import Header, open_archive
from backups.archives.migrated import Fill, migrated
from backups.archives.staging import Staging, stage
from backups.opening import Key
from infra.database.connection import database_of
from infra.database.facts import DatabaseFacts, database_facts
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import Deployment
from infra.stack.releases import release_at
from infra.targets import host

if TYPE_CHECKING:
    import psycopg


@contextmanager
def brought_here(
    deployment: Deployment,
    source: str,
    made_by: tuple[str | None, str | None],
    fill: Fill,
    report: Report,
) -> Iterator[Fill]:
    """Yield `fill`, which stages agents of `made_by` (revision, release); where the live database is of
    another revision, what stages them as the live release's migrations bring them there.

    `source` is what they are of, for people. Raises LettaOpsError (`archive-other-revision`), and those
    of `migrated`.
    """
    revision, release = made_by
    with live(deployment) as (_, _, facts):
        here = facts.revision
    ours = release_at(here)
    if ours is None:
        ensure_revision(source, revision, release, here)
    if ours is None or here == revision:
        yield fill
        return

    def of_newer(link: psycopg.Connection[Any], model: Model) -> tuple[Staging, Header]:
        # Meanwhile somebody may have taken the database to yet another release.
        ensure_revision(source, here, ours.version, database_facts(link).revision)
        staging = stage(link, model, archive)
        staging.migrated = True
        return staging, archive.header

    with (
        migrated(deployment, source, revision, ours, fill, report) as newer,
        open_archive(newer, Key()) as archive,
    ):
        yield of_newer


@contextmanager
def live(deployment: Deployment) -> Iterator[tuple[psycopg.Connection[Any], Model, DatabaseFacts]]:
    """The live database as its owner, in a transaction that sees nothing of what others do meanwhile."""
    import psycopg

    with (
        host(deployment).owner() as access,
        letta_tables(access, database_of(deployment).name, "READ WRITE") as opened,
    ):
        try:
            yield opened
        except psycopg.errors.SerializationFailure:
            raise LettaOpsError(
                "agent-in-use",
                "somebody else changed the same agent in the meantime; nothing was changed here",
                "let the agent finish what it is doing, then run this again",
            ) from None
        except psycopg.errors.UniqueViolation as error:
            raise LettaOpsError(
                "restore-refused",
                f"the database refuses a row: {error.diag.message_primary} ({error.diag.message_detail});"
                " nothing was changed",
                "with --new-ids the agent comes beside what is there",
            ) from None


def ensure_revision(
    source: str, revision: str | None, release: str | None, here: str | None
) -> None:
    if revision == here:
        return
    raise LettaOpsError(
        "archive-other-revision",
        f"{source} was made of a database of revision {revision} (Letta {release}), this"
        f" one is of {here}; nothing was changed",
        "restore it into a server of that release, and upgrade that",
    )
