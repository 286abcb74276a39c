"""A Postgres that is there already: looked at, marked as ours, migrated; nothing of it is made."""

from __future__ import annotations

from typing import Any

import pulumi

from infra.sensitive import Sensitive
from infra.stack.database_url import (
    SYSTEM,
    SYSTEM_FILE,
    asyncpg_uri,
    authority,
    password_file,
)
from infra.stack.deployment import database_from_url
from infra.targets.docker.components.base import Base
from infra.targets.docker.components.context import StackContext
from infra.targets.docker.components.inputs import build_inputs, secret_file
from infra.targets.docker.names import SECRETS_FOLDER, SERVER_USER
from infra.targets.docker.providers.database_preflight import DatabaseCheck
from infra.targets.docker.providers.external_migration import ExternalMigration
from infra.targets.docker.settings import DockerSettings
from infra.targets.external_database.mark import ExternalDatabase as ExternalDatabaseProvider
from infra.targets.external_database.settings import ExternalDatabase
from infra.targets.resources import resource, secret_input

FILES = {"PGPASSFILE": "database-password", "PGSSLROOTCERT": "database-authority"}


def preflight(context: StackContext, *, looked: bool) -> pulumi.Resource:
    """The first resource of the stack: until it is content with the database, nothing is made."""
    chosen, database = _chosen(context)
    inputs = {
        **build_inputs("letta", context.settings.release, chosen.image),
        "prefix": context.names.prefix,
        "servers": secret_input(database.url),
        "direct": secret_input(database.direct),
        "own_direct": database.direct is not database.url,
        "network": chosen.database.network,
        "replicas": chosen.server.replicas,
        "pool_size": chosen.database.pool_size,
        "deployment_id": context.secrets.id,
        "has_key": not context.secrets.fresh,
        "looked": looked,
    }
    return resource(DatabaseCheck(), "database-check", context.folder, inputs)


class ExternalPostgres(pulumi.ComponentResource):
    """Outputs like those of `ContainerPostgres`, and `environment` and `files` of the servers."""

    def __init__(self, context: StackContext, base: Base) -> None:
        super().__init__("letta-ops:docker:ExternalPostgres", "external-postgres")
        opts = pulumi.ResourceOptions(parent=self, depends_on=base.ready)
        self._database = _chosen(context)[1]
        hidden = pulumi.Output.secret(self._database.direct.reveal())
        self.address: dict[str, Any] = {"uri": hidden}
        self.uri = asyncpg_uri(self._database.url)
        self.environment, self.files = _files(context, base, self._database.url, opts)
        network = context.settings.database.network
        joined = [network] if network else []
        marked = resource(
            ExternalDatabaseProvider(),
            "external-database",
            context.folder,
            {"uri": hidden, "deployment_id": context.secrets.id},
            opts,
        )
        self.ready: pulumi.Resource = resource(
            ExternalMigration(),
            "migration",
            context.folder,
            {
                "prefix": context.names.prefix,
                "release": context.settings.release,
                "image": base.images["letta"].tag,
                "networks": [context.names.outer_network, *joined],
                "uri": hidden,
            },
            pulumi.ResourceOptions(parent=self, depends_on=[marked]),
        )
        self.register_outputs({})


def _files(
    context: StackContext, base: Base, url: Sensitive, opts: pulumi.ResourceOptions
) -> tuple[dict[str, str], list[pulumi.Resource]]:
    """Password and certificates for asyncpg: in files that its environment names.

    Each is named after its content: a server that starts from another one is another server.
    """
    environment: dict[str, str] = {}
    files: list[pulumi.Resource] = []
    trusted = authority(database_from_url(url))
    contents = {
        "PGPASSFILE": password_file(url),
        "PGSSLROOTCERT": Sensitive(trusted) if trusted not in (None, SYSTEM) else None,
    }
    for variable, content in contents.items():
        if content is None:
            continue
        name = f"{FILES[variable]}-{context.digest(content.reveal())}"
        environment[variable] = f"{SECRETS_FOLDER}/{name}"
        image = base.images["letta"].tag
        files.append(secret_file(context, name, image, name, SERVER_USER, content, opts))
    if trusted == SYSTEM:
        environment["PGSSLROOTCERT"] = SYSTEM_FILE
    return environment, files


def _chosen(context: StackContext) -> tuple[DockerSettings, ExternalDatabase]:
    chosen = context.settings
    assert chosen.external is not None  # noqa: S101  # made for an external database only
    return chosen, chosen.external
