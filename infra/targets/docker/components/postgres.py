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
from infra.targets.docker.components.container import Place, Shape, container, own_tmpfs
from infra.targets.docker.components.resources import Cluster, Database, MigrationJob
from infra.targets.docker.names import POSTGRES_USER
from infra.targets.docker.providers.cluster import DATA_FOLDER
from infra.targets.docker.settings import docker_settings

START_SECONDS = 180  # crash recovery of a large database takes its time
STOP_SECONDS = 600  # as long as its last checkpoint takes


class ContainerPostgres(pulumi.ComponentResource):
    """Outputs: `place` (see `infra.database.administration`), `ready`, and `uri` for the servers."""

    def __init__(self, place: Place, base: Base) -> None:
        super().__init__("letta-ops:docker:Postgres", "postgres")
        opts = pulumi.ResourceOptions(parent=self)
        settings, names, image = place.settings, place.names, base.images["postgres"]
        self._host = names.container(SERVICE_POSTGRES)
        self._password = place.secrets["database-owner-password"]
        self.place: dict[str, Any] = {"container": self._host}
        # TLS on a network that nobody else is on costs time; pooling insists on it otherwise.
        self.uri = self._uri("ssl=disable")
        after = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=base.ready))
        cluster = Cluster(place.folder, names, image.tag, place.secrets.id, after)
        service = container(
            place,
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
            place.folder,
            self._host,
            self._password,
            place.secrets["database-reader-password"],
            place.secrets.id,
            pulumi.ResourceOptions(parent=self, depends_on=[service.ready]),
        )
        self.ready: pulumi.Resource = MigrationJob(
            place.folder,
            names,
            settings.release,
            base.images["letta"].tag,
            self.place,
            [names.inner_network],
            self._uri(""),
            pulumi.ResourceOptions(parent=self, depends_on=[database]),
        )
        self.register_outputs({})

    def _uri(self, query: str) -> Sensitive:
        role = Role(OWNER_ROLE, self._password)
        address = DatabaseAddress(self._host, POSTGRES_PORT, DATABASE_NAME, role, role)
        return postgres_uri(address, role, query)
