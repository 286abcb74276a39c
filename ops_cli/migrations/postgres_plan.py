"""What bringing a stack's Postgres to another major version means, and every reason not to begin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from backups.catalog import deployment_id
from backups.humanize import size_in_words
from backups.restoring.clusters import cluster_of
from backups.stores.store import Store
from infra.embedded.cluster_upgrade import DATABASES, EXTENSIONS
from infra.errors import LettaOpsError
from infra.process import Report
from infra.pulumi_cli.project import configured
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder
from infra.stack.releases import NEWEST, Release
from infra.targets import host
from infra.targets.target import ROOM_TO_START, Cluster
from ops_cli.migrations.plan import (
    OK,
    REFUSED,
    WARNING,
    Finding,
    Plan,
    connections,
    ensure,
    judged,
    release_named,
    room,
    way_back,
)
from ops_cli.migrations.records import last_rehearsal
from ops_cli.migrations.status import find_standing

if TYPE_CHECKING:
    import psycopg

ROOM = 1.1  # of the cluster's size: a copy of its files
ROOM_TO_WRITE = (
    512 * 1024**2
)  # bytes: of a new cluster, and what is written when indexes are made anew
TABLESPACES = "SELECT spcname FROM pg_tablespace WHERE spcname NOT LIKE 'pg\\_%'"
PREPARED = "SELECT gid FROM pg_prepared_xacts"
SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = {}"
COLLATIONS = """
SELECT current_database(), d.datcollversion, pg_database_collation_actual_version(d.oid)
FROM pg_database d WHERE d.datname = current_database()
AND d.datcollversion IS DISTINCT FROM pg_database_collation_actual_version(d.oid)
"""


@dataclass(frozen=True)
class PostgresPlan(Plan):
    """Majors, and the version that serves, to the letter."""

    before: str
    after: str
    version: str

    @property
    def destination(self) -> str:
        return f"PostgreSQL {self.after}"

    @property
    def option(self) -> str:
        return f"--postgres {self.after}"

    @property
    def course(self) -> dict[str, Any]:
        """For the audit trail."""
        return {"from": f"PostgreSQL {self.version}", "to": self.destination}

    def as_json(self) -> dict[str, Any]:
        rehearsal = self.rehearsal
        return {
            "from": {"postgres": self.before, "version": self.version},
            "to": {"postgres": self.after},
            "release": self.release.version,
            "preflight": [asdict(each) for each in self.findings],
            "rehearsal": rehearsal and rehearsal.as_json(),
            "estimated_seconds": rehearsal.seconds if rehearsal else None,
        }


def ensure_way(cluster: Cluster, major: str) -> None:
    """Raise LettaOpsError: `postgres-unknown`, `nothing-to-migrate`, `postgres-older`."""
    if major not in cluster.majors:
        raise LettaOpsError(
            "postgres-unknown",
            f"letta-ops brings PostgreSQL {', '.join(cluster.majors)} here, and not {major}",
            "name one of these",
        )
    if major == cluster.major:
        raise LettaOpsError(
            "nothing-to-migrate", f"the stack runs PostgreSQL {major} already",
            "see `letta-ops migrate status`",
        )  # fmt: skip
    if int(major) < int(cluster.major):
        raise LettaOpsError(
            "postgres-older",
            f"the stack runs PostgreSQL {cluster.major}, and there is no way down to {major}",
            "`letta-ops migrate rollback` goes back to before the last migration",
        )


def make_postgres_plan(
    deployment: Deployment, store: Store, major: str, report: Report
) -> PostgresPlan:
    """Look at everything; change nothing. Raises LettaOpsError: `not-here`, those of `ensure_way`, and
    where the database can't be reached."""
    cluster = cluster_of(deployment)
    ensure_way(cluster, major)
    standing = find_standing(deployment, report)
    release = release_named(str(standing.release))
    rehearsal = last_rehearsal(
        deployment, deployment_id(deployment), standing.revision, release.version, major
    )
    with host(deployment).administrator() as access, access.connect(access.maintenance) as link:
        findings = [_space(deployment, cluster), *_whole_cluster(link)]
        version = link.info.parameter_status("server_version") or cluster.major
        names = [str(name) for (name,) in link.execute(DATABASES)]
        offered = cluster.offered(major)
        for name in names:
            with access.examine(name) as inside:
                findings += _one_database(inside, name, offered)
    findings += _as_configured(deployment, release)
    if kept := cluster.kept():
        told = f"of an earlier migration, removed when this one has succeeded: {', '.join(kept)}"
        findings.append(Finding("kept", WARNING, told))
    if problem := cluster.configuration_problem(major):
        findings.append(
            Finding("settings", REFUSED, f"PostgreSQL {major} does not take them: {problem}",
                    "mend custom.conf among the stack's services, or ALTER SYSTEM RESET it")
        )  # fmt: skip
    owner = deployment.database.owner if deployment.database else None
    with host(deployment).session(owner) as link:
        findings.append(connections(link, owner.name if owner else ""))
    findings += [*way_back(deployment, store), *judged(rehearsal)]
    return PostgresPlan(
        standing, release, tuple(findings), rehearsal, cluster.major, major, version
    )


def ensure_room(deployment: Deployment) -> None:
    """Raise LettaOpsError (`disk-full`) where there is none for the copy, now that a backup was made."""
    ensure(_space(deployment, cluster_of(deployment)))


def _space(deployment: Deployment, cluster: Cluster) -> Finding:
    needed = int(cluster.size * ROOM) + ROOM_TO_START + ROOM_TO_WRITE
    words = f"the cluster has {size_in_words(cluster.size)}; a copy needs {size_in_words(needed)}"
    assert deployment.folder is not None  # noqa: S101  # there is a cluster of ours
    return room(deployment.folder.root, needed, words)


def _as_configured(deployment: Deployment, release: Release) -> Iterator[Finding]:
    """One thing at a time: the run that starts the new Postgres must not change the release."""
    wanted = str(configured(stack_folder(deployment.stack)).get("release") or NEWEST)
    if wanted != release.version:
        yield Finding(
            "release", REFUSED, f"Letta {release.version} serves, and {wanted} is configured",
            f"set `release` to {release.version} in the stack's configuration, or go there first",
        )  # fmt: skip


def _whole_cluster(link: psycopg.Connection[Any]) -> Iterator[Finding]:
    def named(query: str) -> str:
        return ", ".join(str(name) for (name,) in link.execute(query))

    if found := named(PREPARED):
        yield Finding(
            "transactions",
            REFUSED,
            f"prepared and never ended: {found}",
            "COMMIT or ROLLBACK PREPARED",
        )
    if found := named(TABLESPACES):
        yield Finding(
            "tablespaces", REFUSED, f"what lies in {found} is outside of the cluster's folder",
            "move its tables to pg_default, and drop it",
        )  # fmt: skip
    if found := named(SLOTS.format("'physical'")):
        yield Finding(
            "slots", WARNING, f"they don't come along, make them anew afterwards: {found}"
        )
    if found := named(SLOTS.format("'logical'")):
        yield Finding(
            "slots", REFUSED, f"logical ones don't come along: {found}",
            "drop them, and make them anew afterwards",
        )  # fmt: skip


def _one_database(
    link: psycopg.Connection[Any], name: str, offered: dict[str, str] | Any
) -> Iterator[Finding]:
    for extension, version in link.execute(EXTENSIONS):
        if extension not in offered:
            yield Finding(
                "extension", REFUSED, f"{name} has {extension}, which that version doesn't offer here",
                f"DROP EXTENSION {extension} in {name}, or bring the data elsewhere",
            )  # fmt: skip
        elif extension == "vector":
            there = offered[extension]
            told = "as it is" if there == version else f"goes to {there}"
            yield Finding("extension", OK, f"{name} has pgvector {version}: {told}")
    for _, made, actual in link.execute(COLLATIONS):
        yield Finding(
            "collation", WARNING,
            f"{name} was sorted by version {made} of its collation, and this machine has {actual}: its"
            " indexes are made anew",
        )  # fmt: skip
