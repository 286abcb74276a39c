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
from infra.stack.server_environment import without_tls
from infra.targets.docker.components.base import Base
from infra.targets.docker.components.container import Shape, container, own_tmpfs
from infra.targets.docker.components.context import StackContext
from infra.targets.docker.names import POSTGRES_USER
from infra.targets.docker.providers.cluster import DATA_FOLDER, DatabaseCluster
from infra.targets.docker.providers.database import LettaDatabase
from infra.targets.docker.providers.migration import ContainerMigration
from infra.targets.resources import resource, secret_input

START_SECONDS = 180  # crash recovery of a large database takes its time
STOP_SECONDS = 600  # as long as its last checkpoint takes


class ContainerPostgres(pulumi.ComponentResource):
    """Outputs: `address` (see `infra.targets.docker.postgres`), `ready`, and `uri` for the servers."""

    def __init__(self, context: StackContext, base: Base) -> None:
        super().__init__("letta-ops:docker:Postgres", "postgres")
        opts = pulumi.ResourceOptions(parent=self)
        settings, names, image = context.settings, context.names, base.images["postgres"]
        self._host = names.container(SERVICE_POSTGRES)
        self._password = context.secrets["database-owner-password"]
        self.address: dict[str, Any] = {"container": self._host}
        # TLS on a network that nobody else is on costs time; pooling insists on it otherwise.
        self.uri = self._uri(without_tls(settings.release))
        after = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=base.ready))
        cluster = resource(
            DatabaseCluster(),
            "cluster",
            context.folder,
            {"prefix": names.prefix, "image": image.tag, "deployment_id": context.secrets.id},
            after,
        )
        started = container(
            context,
            SERVICE_POSTGRES,
            self._host,
            Shape(
                service=SERVICE_POSTGRES,
                image=image,
                networks=[names.inner_network],
                memory=settings.database.memory,
                shared_memory=min(256, settings.database.memory // 2),
                processes=512,
                volumes={names.volume("database"): DATA_FOLDER},
                tmpfs={"/run/postgresql": own_tmpfs(POSTGRES_USER, 16, "noexec")},
                patience=STOP_SECONDS,
                wait=START_SECONDS,
            ),
            pulumi.ResourceOptions(parent=self, depends_on=[cluster]),
        )
        database = resource(
            LettaDatabase(),
            "database",
            context.folder,
            {
                "container": self._host,
                "owner_password": secret_input(self._password),
                "reader_password": secret_input(context.secrets["database-reader-password"]),
                "deployment_id": context.secrets.id,
            },
            pulumi.ResourceOptions(parent=self, depends_on=[started.ready]),
        )
        self.ready: pulumi.Resource = resource(
            ContainerMigration(),
            "migration",
            context.folder,
            {
                "prefix": names.prefix,
                "release": settings.release,
                "image": base.images["letta"].tag,
                "networks": [names.inner_network],
                "server_uri": secret_input(self._uri("")),
                **self.address,
            },
            pulumi.ResourceOptions(parent=self, depends_on=[database]),
        )
        self.register_outputs({})

    def _uri(self, query: str) -> Sensitive:
        role = Role(OWNER_ROLE, self._password)
        address = DatabaseAddress(self._host, POSTGRES_PORT, DATABASE_NAME, role, role)
        return postgres_uri(address, role, query)
