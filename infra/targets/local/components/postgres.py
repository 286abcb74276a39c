"""Postgres of the local target: cluster, supervised service, database with its roles, schema."""

from __future__ import annotations

import pulumi

from infra.stack.deployment import SERVICE_POSTGRES
from infra.stack.locations import StackFolder
from infra.targets.components.secrets import Secrets
from infra.targets.local.providers.cluster import PostgresCluster
from infra.targets.local.providers.database import LocalDatabase
from infra.targets.local.providers.migration import EmbeddedMigration
from infra.targets.local.settings import LocalSettings
from infra.targets.resources import Resource, resource, service

START_SECONDS = 60  # crash recovery of a large database takes its time


class Postgres(pulumi.ComponentResource):
    """Output: `ready`, the resource after which the database has the release's schema."""

    def __init__(
        self,
        folder: StackFolder,
        settings: LocalSettings,
        secrets: Secrets,
        release: Resource,
    ) -> None:
        super().__init__("letta-ops:local:Postgres", "postgres")
        opts = pulumi.ResourceOptions(parent=self, depends_on=[secrets])
        port = settings.database.port
        cluster = resource(
            PostgresCluster(),
            "cluster",
            folder,
            {"port": port, "postgres": settings.database.postgres},
            opts,
        )
        running = service(
            SERVICE_POSTGRES,
            folder,
            {
                "command": [
                    pulumi.Output.concat(cluster.binaries, "/bin/postgres"),
                    pulumi.Output.concat("--config-file=", cluster.configuration),
                ],
                "directory": "/",
                "account": "postgres",
                "health": {"kind": "tcp", "seconds": START_SECONDS},
                "port": port,
                "digest": cluster.digest,
                "stop_signal": "INT",  # "fast": ends sessions, writes a checkpoint
            },
            pulumi.ResourceOptions(parent=self),
        )
        owner, reader = secrets["database-owner-password"], secrets["database-reader-password"]
        after = pulumi.ResourceOptions(parent=self, depends_on=[running])
        database = resource(
            LocalDatabase(),
            "database",
            folder,
            {
                "port": port,
                "owner_password": owner,
                "reader_password": reader,
                "deployment_id": secrets.deployment_id,
                "cluster": cluster.binaries,
            },
            after,
        )
        self.ready: pulumi.Resource = resource(
            EmbeddedMigration(),
            "migration",
            folder,
            {
                "release": settings.release,
                "port": port,
                "owner_password": owner,
                "cache": release.cache,
                "python": release.python,
            },
            pulumi.ResourceOptions(parent=self, depends_on=[database]),
        )
        self.register_outputs({})
