"""Where a database stands: its revision against the release's, what is pending, who migrated it last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from healthchecks.facts import running_version
from infra.database.facts import database_facts
from infra.embedded.release import source_of
from infra.embedded.revisions import Revision, Revisions
from infra.process import Report
from infra.stack.deployment import Deployment
from infra.stack.locations import cache_folder
from infra.stack.releases import NEWEST, RELEASES, Release
from infra.targets import host

if TYPE_CHECKING:
    import psycopg

CURRENT, BEHIND, UNKNOWN, EMPTY, UNVERSIONED, SEVERAL = (
    "current", "behind", "unknown", "empty", "older-than-alembic", "several-revisions",
)  # fmt: skip

DETAILS = {
    EMPTY: "there are no tables of Letta yet",
    CURRENT: "at the head of Letta {1}",
    BEHIND: "{0} revisions behind the head of Letta {1}",
}


@dataclass(frozen=True)
class Standing:
    """A database's revision, seen from one release. `pending` is in the order in which they run.

    `newest`: the newest release that this letta-ops can bring it to.
    """

    release: str | None
    revisions: tuple[str, ...]
    head: str | None
    state: str
    pending: tuple[Revision, ...]
    newest: str
    detail: str

    @property
    def revision(self) -> str | None:
        return self.revisions[0] if len(self.revisions) == 1 else None

    def as_json(self) -> dict[str, Any]:
        return {
            "release": self.release,
            "revision": self.revision,
            "revisions": list(self.revisions),
            "head": self.head,
            "state": self.state,
            "pending": [{"id": each.id, "title": each.title} for each in self.pending],
            "newest_release": self.newest,
            "detail": self.detail,
        }


def revisions_of(release: Release, report: Report) -> Revisions:
    """The migrations of a release, from its own scripts, which are fetched where they aren't here."""
    return Revisions.read(release.version, source_of(release, cache_folder(), report))


def find_standing(deployment: Deployment, report: Report) -> Standing:
    """Where the deployment's database stands, seen from the release that runs.

    Raises LettaOpsError where the database can't be reached, or the release is not known.
    """
    version = running_version(deployment)
    release = RELEASES.get(version)
    with host(deployment).session() as link:
        tables, found = _read(link)
    if release is None:
        known = f"this letta-ops knows {', '.join(RELEASES)}"
        detail = f"Letta {version} is not known here: {known}"
        return Standing(version, found, None, UNKNOWN, (), NEWEST, detail)
    return judge(revisions_of(release, report), release, found, tables=tables)


def judge(known: Revisions, release: Release, found: Sequence[str], *, tables: bool) -> Standing:
    """What the revisions in a database mean to a release; `tables`: whether it has Letta's."""

    def standing(state: str, detail: str, pending: Sequence[Revision] = ()) -> Standing:
        return Standing(
            release.version, tuple(found), release.alembic_head, state, tuple(pending), NEWEST, detail
        )  # fmt: skip

    if len(known.heads) != 1:
        return standing(UNKNOWN, f"its scripts end in several heads: {', '.join(known.heads)}")
    if len(found) > 1:
        names = ", ".join(found)
        return standing(SEVERAL, f"the database says that it is at several revisions: {names}")
    if not found and tables:
        return standing(
            UNVERSIONED,
            "there are Letta's tables, and no revision: they are older than its migrations, or were"
            " made past them",
        )
    if found and found[0] not in known.known:
        return standing(UNKNOWN, f"Letta {release.version} doesn't have revision {found[0]}")
    pending = known.pending(found[0] if found else None)
    state = EMPTY if not found else BEHIND if pending else CURRENT
    return standing(state, DETAILS[state].format(len(pending), release.version), pending)


def last_migrations(deployment: Deployment) -> list[dict[str, Any]]:
    """Who changed the schema's release, the newest first, as the audit trail tells it."""
    from infra.audit.trail import entries

    told = []
    for each in entries(deployment, limit=200):
        document = each.as_json()
        if str(document.get("command", "")).startswith("migrate "):
            told.append(document)
    return told


def _read(link: psycopg.Connection[Any]) -> tuple[bool, tuple[str, ...]]:
    """Whether there are Letta's tables, and every revision that the database names."""
    from psycopg import sql

    facts = database_facts(link)
    if facts.schema is None:
        row = link.execute("SELECT to_regclass('agents') IS NOT NULL").fetchone()
        return bool(row and row[0]), ()
    table = sql.Identifier(facts.schema, "alembic_version")
    query = sql.SQL("SELECT version_num FROM {} ORDER BY 1").format(table)
    return True, tuple(str(name) for (name,) in link.execute(query))
