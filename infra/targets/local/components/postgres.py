"""Postgres of the local target: cluster, supervised service, database with its roles, schema."""

from __future__ import annotations

import pulumi

from infra.stack.deployment import SERVICE_POSTGRES
from infra.stack.locations import StackFolder
from infra.stack.settings import Settings
from infra.targets.components.secrets import Secrets
from infra.targets.local.components.resources import (
    Cluster,
    DatabaseInside,
    ReleaseInstallation,
    SchemaMigration,
)
from infra.targets.local.settings import local_settings
from infra.targets.resources import Service

START_SECONDS = 60  # crash recovery of a large database takes its time


class Postgres(pulumi.ComponentResource):
    """Output: `ready`, the resource after which the database has the release's schema."""

    def __init__(
        self,
        folder: StackFolder,
        settings: Settings,
        secrets: Secrets,
        release: ReleaseInstallation,
    ) -> None:
        super().__init__("letta-ops:local:Postgres", "postgres")
        opts = pulumi.ResourceOptions(parent=self, depends_on=[secrets])
        port = local_settings(settings).database_port
        cluster = Cluster(folder, port, opts)
        service = Service(
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
        after = pulumi.ResourceOptions(parent=self, depends_on=[service])
        database = DatabaseInside(folder, port, owner, reader, secrets.deployment_id, after)
        self.ready = SchemaMigration(
            folder,
            port,
            owner,
            release,
            settings.release,
            pulumi.ResourceOptions(parent=self, depends_on=[database]),
        )
        self.register_outputs({})
