"""What going to another release would run and break, and every reason not to begin."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.catalog import deployment_id, read_catalog
from backups.humanize import size_in_words, time_in_words
from backups.stores.store import Store
from healthchecks.probes.encryption import look_at_secrets
from infra.database.facts import database_facts
from infra.embedded.revisions import Revision
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import Deployment
from infra.stack.releases import RELEASES, Release, breaks_between
from infra.targets import host
from infra.targets.target import ROOM_TO_START
from ops_cli.migrations.known_changes import KnownChange, known_changes
from ops_cli.migrations.records import Rehearsal, last_rehearsal
from ops_cli.migrations.status import Standing, find_standing, revisions_of

if TYPE_CHECKING:
    import psycopg

OK, WARNING, REFUSED = "ok", "warning", "refused"
ROOM = 1.2  # of the database's size: a copy of it, and what the migrations write
FRESH_SECONDS = 24 * 3600.0
OLD_SECONDS = 7 * 24 * 3600.0  # of a rehearsal
POSTGRES = 14  # the oldest that the releases here were seen on is younger; below, nothing is tested
OTHERS = """
SELECT coalesce(nullif(application_name, ''), usename, '?'), count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename <> %s GROUP BY 1
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at before; `refused` is a reason not to begin."""

    name: str
    verdict: str
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Plan:
    """What going somewhere begins with: where the database stands, what was looked at, the rehearsal."""

    standing: Standing
    release: Release
    findings: tuple[Finding, ...]
    rehearsal: Rehearsal | None

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.verdict == REFUSED)


@dataclass(frozen=True)
class MigrationPlan(Plan):
    """What going to `release` means. `pending` is in the order in which they run."""

    pending: tuple[Revision, ...]
    breaks: tuple[str, ...]
    known: tuple[KnownChange, ...]

    @property
    def destination(self) -> str:
        return f"Letta {self.release.version}"

    @property
    def option(self) -> str:
        return f"--to {self.release.version}"

    @property
    def course(self) -> dict[str, Any]:
        """For the audit trail."""
        here = self.standing
        return {"from": here.release, "to": self.release.version, "revision": here.revision}

    @property
    def revisions(self) -> list[str]:
        return [each.id for each in self.pending]

    def as_json(self) -> dict[str, Any]:
        rehearsal = self.rehearsal
        return {
            "from": {"release": self.standing.release, "revision": self.standing.revision},
            "to": {"release": self.release.version, "revision": self.release.alembic_head},
            "pending": [each.as_json() for each in self.pending],
            "breaks": list(self.breaks),
            "known_changes": [asdict(each) for each in self.known],
            "preflight": [asdict(each) for each in self.findings],
            "rehearsal": rehearsal and rehearsal.as_json(),
            "estimated_seconds": rehearsal.seconds if rehearsal else None,
        }


def release_named(version: str) -> Release:
    """Raise LettaOpsError (`release-unknown`) for one that this letta-ops doesn't know."""
    if version not in RELEASES:
        raise LettaOpsError(
            "release-unknown",
            f"this letta-ops knows Letta {', '.join(RELEASES)}, and not {version}",
            "name one of these",
        )
    return RELEASES[version]


def make_plan(deployment: Deployment, store: Store, version: str, report: Report) -> MigrationPlan:
    """Look at everything; change nothing. Raises LettaOpsError: `release-unknown`, `revision-unknown`,
    `release-older` for one that the database is ahead of, `nothing-to-migrate`, and where the database
    can't be reached."""
    release = release_named(version)
    standing = find_standing(deployment, report)
    if standing.revision is None:
        raise LettaOpsError(
            "revision-unknown", f"it can't be migrated from here: {standing.detail}",
            "see `letta-ops migrate status`",
        )  # fmt: skip
    target = revisions_of(release, report)
    if standing.revision not in target.known:
        raise LettaOpsError(
            "release-older",
            f"the database is at revision {standing.revision}, which Letta {version} doesn't have:"
            " there is no way down",
            "`letta-ops migrate rollback` goes back to before the last migration; else restore a"
            " backup of that time",
        )
    here = RELEASES.get(standing.release or "")
    if here is not None and here.number == release.number:
        raise LettaOpsError(
            "nothing-to-migrate", f"the stack runs Letta {version} already",
            "see `letta-ops migrate status`",
        )  # fmt: skip
    pending = tuple(target.pending(standing.revision))
    rehearsal = last_rehearsal(deployment, deployment_id(deployment), standing.revision, version)
    return MigrationPlan(
        standing,
        release,
        (*_look(deployment, store), *judged(rehearsal)),
        rehearsal,
        pending,
        tuple(breaks_between(here, release)),
        tuple(known_changes([each.id for each in pending])),
    )


def judged(rehearsal: Rehearsal | None) -> Iterator[Finding]:
    if rehearsal is not None and rehearsal.age_seconds > OLD_SECONDS:
        yield Finding(
            "rehearsal",
            WARNING,
            f"it is {time_in_words(rehearsal.age_seconds)} old: make another one",
        )


def ensure_room(deployment: Deployment) -> None:
    """Raise LettaOpsError (`disk-full`) where there is none for the copy, now that a backup was made."""
    with host(deployment).session() as link:
        ensure(_space(deployment, link))


def ensure(space: Finding) -> None:
    """Raise LettaOpsError (`disk-full`) where it is refused."""
    if space.verdict == REFUSED:
        raise LettaOpsError("disk-full", space.detail, space.hint)


def room(folder: Path, needed: int, words: str) -> Finding:
    """Whether so many bytes are free in `folder`; `words` say what for."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        return Finding(
            "space", REFUSED, f"{words}, and {size_in_words(free)} are free",
            "free some disk space: `letta-ops backup restore --drop-previous`, `backup prune`",
        )  # fmt: skip
    return Finding("space", OK, f"{words}, {size_in_words(free)} are free")


def _look(deployment: Deployment, store: Store) -> Iterator[Finding]:
    owner = deployment.database.owner if deployment.database else None
    with host(deployment).session(owner) as link:
        yield _space(deployment, link)
        yield _privileges(deployment)
        facts = database_facts(link)
        major = link.info.server_version // 10_000
        verdict = OK if major >= POSTGRES else REFUSED
        yield Finding("postgres", verdict, f"PostgreSQL {facts.version}", "upgrade Postgres first")
        if facts.pgvector is None:
            yield Finding("extension", REFUSED, "there is no extension vector", "make it first")
        else:
            yield Finding("extension", OK, f"pgvector {facts.pgvector.version}")
        yield connections(link, owner.name if owner else "")
    yield from way_back(deployment, store)


def way_back(deployment: Deployment, store: Store) -> Iterator[Finding]:
    """The newest backup, and the key that opens what the database holds."""
    yield _backup(deployment, store)
    yield _key(deployment)


def _space(deployment: Deployment, link: psycopg.Connection[Any]) -> Finding:
    (size,) = link.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
    needed = int(size * ROOM)
    words = f"the database has {size_in_words(size)}; a copy of it needs {size_in_words(needed)}"
    there = host(deployment)
    if there.shares_disk:
        needed += ROOM_TO_START
        words += f", and a server {size_in_words(ROOM_TO_START)} to start"
    if not there.shares_disk or deployment.folder is None:
        return Finding("space", OK, f"{words} where its Postgres is, which can't be seen from here")
    return room(deployment.folder.root, needed, words)


def _privileges(deployment: Deployment) -> Finding:
    with host(deployment).administrator() as access:
        if access.is_superuser:
            return Finding("privileges", OK, "an administrator's")
        with access.connect(access.maintenance) as link:
            row = link.execute(
                "SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
    if row and row[0]:
        return Finding("privileges", OK, "the owner may make databases")
    return Finding(
        "privileges",
        REFUSED,
        "the owner may make no database for the copy",
        "ALTER ROLE ... CREATEDB",
    )


def connections(link: psycopg.Connection[Any], owner: str) -> Finding:
    found = [f"{name} ({count})" for name, count in link.execute(OTHERS, [owner])]
    if found:
        return Finding(
            "connections", WARNING, f"others are connected, and will be cut off: {', '.join(found)}"
        )
    return Finding("connections", OK, "nobody but the server is connected")


def _backup(deployment: Deployment, store: Store) -> Finding:
    try:
        backups = read_catalog(store, deployment_id(deployment)).backups
    except LettaOpsError as error:
        return Finding("backup", REFUSED, error.message, error.hint)
    if not backups:
        return Finding("backup", WARNING, "there is none yet; one is made before it begins")
    newest = max(each.manifest.created_at for each in backups)
    age = (dt.datetime.now(dt.UTC) - newest).total_seconds()
    verdict = OK if age < FRESH_SECONDS else WARNING
    return Finding(
        "backup", verdict, f"the newest is {time_in_words(age)} old; one is made before it begins"
    )


def _key(deployment: Deployment) -> Finding:
    if deployment.server.encryption_key is None:
        return Finding(
            "key", WARNING,
            "the profile has no encryption key: what a release would encrypt stays in the clear",
        )  # fmt: skip
    seen = look_at_secrets(deployment)
    if seen.encrypted and not seen.opened:
        return Finding(
            "key", REFUSED, "the encryption key opens none of the stored secrets",
            "put the right key into the profile first",
        )  # fmt: skip
    return Finding("key", OK, "the encryption key opens what is stored")
