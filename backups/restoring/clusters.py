"""Going back to the Postgres cluster that another major version has replaced."""

from __future__ import annotations

from collections.abc import Iterator

from backups.catalog import deployment_id
from backups.restoring.journal import journal_file
from backups.restoring.upgrades import forget_postgres_upgrade
from infra.audit.trail import carry_over
from infra.database.connection import database_of
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.process import Report
from infra.servers import start_server
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder
from infra.targets import host
from infra.targets.target import Cluster
from letta_ops.registry.carrying import carry
from letta_ops.registry.postgres import prepare


def cluster_of(deployment: Deployment) -> Cluster:
    """Raises LettaOpsError (`not-here`) where no other major version can be had."""
    found = host(deployment).cluster() if deployment.folder is not None else None
    if found is None:
        raise LettaOpsError(
            "not-here",
            "the deployment's Postgres has no other major version that letta-ops could bring it to",
            "of one of your own, that is for whoever runs it; else go with a backup into a stack that has"
            " that version: `letta-ops backup restore`",
        )
    return found


def go_back_to_cluster(deployment: Deployment, major: str, report: Report) -> None:
    """Let the cluster of version `major` serve again; safe to run again, and from any point.

    What has served for a moment is kept as `undone`: somebody may have written to it. Raises
    LettaOpsError when that is not possible now; the journal stays until it was.
    """
    from infra.provision import Request, up
    from infra.pulumi_cli.project import configured

    cluster = cluster_of(deployment)
    report(f"going back: PostgreSQL {major}, as it was left, takes its place again")
    exchanged = cluster.go_back(major)
    written = str(configured(stack_folder(deployment.stack)).get(cluster.setting, ""))
    config = {} if written in {"", major} else {cluster.setting: major}
    # Where nothing else was provisioned, nothing has to be that could fail.
    if exchanged or config or not cluster.start():
        up(Request(deployment.stack, config, held=True, schema="leave"), report)
    for line in _carried(deployment, cluster):
        report(line)
    start_server(deployment)
    forget_postgres_upgrade(deployment)
    journal_file(deployment).unlink(missing_ok=True)
    report("going back: done, the server runs with what it had before")


def _carried(deployment: Deployment, cluster: Cluster) -> Iterator[str]:
    """Take records and links of the cluster that gives way along; yield why that can't be."""
    import psycopg

    database, identifier = database_of(deployment), deployment_id(deployment)
    name, here = database.name, host(deployment)
    try:
        with cluster.aside(cluster.undone) as ways:
            if ways is None:
                return
            with (
                here.administrator() as access,
                access.examine(name) as new,
                ways[0].examine(name) as old,
            ):
                carry_over(old, new)
                prepare(new, database.owner.name)
            with here.owner() as access, access.connect(name) as new, ways[1].connect(name) as old:
                if (schema := database_facts(new).schema) is not None:
                    carry(old, new, (schema, "agents"), identifier)
    except (psycopg.Error, LettaOpsError) as error:
        yield f"records and links of the last minutes stay in {cluster.undone}: {error}"
