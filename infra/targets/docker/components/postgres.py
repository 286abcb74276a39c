"""Postgres of the docker target: cluster, container, database with its roles, schema."""

from __future__ import annotations

from typing import Any

import pulumi

from infra.sensitive import Sensitive
from infra.stack.deployment import (
    DATABASE_NAME,
    OWNER_ROLE,
    POSTGRES_PORT,
    SERVICE_POSTGRES,
    Role,
    postgres_uri,
)
from infra.stack.deployment import Database as DatabaseAddress
from infra.targets.docker.components.base import Base
from infra.targets.docker.components.container import Shape, StackContext, container, own_tmpfs
from infra.targets.docker.components.resources import Cluster, Database, MigrationJob
from infra.targets.docker.names import POSTGRES_USER
from infra.targets.docker.providers.cluster import DATA_FOLDER
from infra.targets.docker.settings import docker_settings

START_SECONDS = 180  # crash recovery of a large database takes its time
STOP_SECONDS = 600  # as long as its last checkpoint takes


class ContainerPostgres(pulumi.ComponentResource):
    """Outputs: `place` (see `infra.database.administration`), `ready`, and `uri` for the servers."""

    def __init__(self, context: StackContext, base: Base) -> None:
        super().__init__("letta-ops:docker:Postgres", "postgres")
        opts = pulumi.ResourceOptions(parent=self)
        settings, names, image = context.settings, context.names, base.images["postgres"]
        self._host = names.container(SERVICE_POSTGRES)
        self._password = context.secrets["database-owner-password"]
        self.context: dict[str, Any] = {"container": self._host}
        # TLS on a network that nobody else is on costs time; pooling insists on it otherwise.
        self.uri = self._uri("ssl=disable")
        after = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=base.ready))
        cluster = Cluster(context.folder, names, image.tag, context.secrets.id, after)
        service = container(
            context,
            SERVICE_POSTGRES,
            self._host,
            Shape(
                service=SERVICE_POSTGRES,
                image=image,
                networks=[names.inner_network],
                memory=docker_settings(settings).database_memory,
                shared_memory=min(256, docker_settings(settings).database_memory // 2),
                processes=512,
                volumes={names.volume("database"): DATA_FOLDER},
                tmpfs={"/run/postgresql": own_tmpfs(POSTGRES_USER, 16, "noexec")},
                patience=STOP_SECONDS,
                wait=START_SECONDS,
            ),
            pulumi.ResourceOptions(parent=self, depends_on=[cluster]),
        )
        database = Database(
            context.folder,
            self._host,
            self._password,
            context.secrets["database-reader-password"],
            context.secrets.id,
            pulumi.ResourceOptions(parent=self, depends_on=[service.ready]),
        )
        self.ready: pulumi.Resource = MigrationJob(
            context.folder,
            names,
            settings.release,
            base.images["letta"].tag,
            self.context,
            [names.inner_network],
            self._uri(""),
            pulumi.ResourceOptions(parent=self, depends_on=[database]),
        )
        self.register_outputs({})

    def _uri(self, query: str) -> Sensitive:
        role = Role(OWNER_ROLE, self._password)
        address = DatabaseAddress(self._host, POSTGRES_PORT, DATABASE_NAME, role, role)
        return postgres_uri(address, role, query)
