"""Can the database be reached, and what does it say of itself?"""

from __future__ import annotations

from dataclasses import dataclass

from backups.manifest import LETTA
from backups.restoring.journal import names_of, read_journal
from healthchecks.facts import reading, running_version
from infra.database.facts import DatabaseFacts, database_facts, read_slots
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.stack.releases import RELEASES
from infra.targets import host
from infra.targets.facts import Measurement

DATABASES = """
SELECT datname, pg_database_size(oid) FROM pg_database
WHERE datname = ANY(%s) AND has_database_privilege(oid, 'CONNECT')
"""
SCHEMAS = """
SELECT n.nspname, coalesce(sum(pg_total_relation_size(c.oid)), 0)
FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = 'r'
WHERE n.nspname = ANY(%s) GROUP BY 1
"""


@dataclass(frozen=True)
class Reached(Measurement):
    """`error` says why the database can't be reached; `facts` is there when it can."""

    facts: DatabaseFacts | None
    error: LettaOpsError | None = None


@dataclass(frozen=True)
class Revision(Measurement):
    """The facts of the database, and the head that the release `version` asks for.

    `head` is None for a release that we don't know.
    """

    facts: DatabaseFacts
    version: str
    head: str | None


@dataclass(frozen=True)
class Slots(Measurement):
    """Slots of logical replication that hold a database which was set aside."""

    aside: tuple[str, ...]


@dataclass(frozen=True)
class Kept(Measurement):
    """What restores and migrations keep of before, in bytes by name; `live` is the one that serves.

    `interrupted`: what one that was killed has left to be put right; None: nothing.
    """

    databases: dict[str, int]
    live: int
    interrupted: str | None


def reach(deployment: Deployment) -> Reached:
    """Connect as the reader; that this fails is an answer, not a failure of the probe."""
    try:
        return Reached(_facts(deployment))
    except LettaOpsError as error:
        return Reached(None, error)


def look_for_extension(deployment: Deployment) -> Reached:
    """Like `reach`, but raises when the database can't be reached: it's then unknown."""
    return Reached(_facts(deployment))


def read_revision(deployment: Deployment) -> Revision:
    """Compare by the version that the server names; the profile's counts only when it's down."""
    facts = _facts(deployment)
    version = running_version(deployment)
    release = RELEASES.get(version)
    return Revision(facts, version, release.alembic_head if release else None)


def look_at_slots(deployment: Deployment) -> Slots:
    """Look for slots of replication that a restore has left on what it replaced."""
    names = names_of(deployment)
    aside = (names.previous, names.older, names.undone)
    with reading(deployment) as link:
        return Slots(tuple(read_slots(link, *aside)))


def look_at_kept(deployment: Deployment) -> Kept:
    """In the scope `letta` it is schemas that are kept."""
    names = names_of(deployment)
    journal = read_journal(deployment)
    aside = [names.side, names.previous, names.older, names.undone]
    with reading(deployment) as link:
        rows = link.execute(SCHEMAS if names.scope == LETTA else DATABASES, [aside]).fetchall()
        (live,) = link.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
    kept = {str(name): int(size) for name, size in rows}
    if names.scope == LETTA:
        live -= sum(kept.values())
    here = host(deployment)
    cluster = here.cluster() if here.is_ours else None
    if cluster is not None and (clusters := cluster.kept()):
        kept |= clusters
        live = cluster.size
    return Kept(kept, int(live), None if journal is None else journal.backup)


def _facts(deployment: Deployment) -> DatabaseFacts:
    with reading(deployment) as link:
        return database_facts(link)
