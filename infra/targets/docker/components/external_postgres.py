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
from infra.targets.docker.components.container import StackContext
from infra.targets.docker.components.resources import File, build_inputs, secret_input
from infra.targets.docker.names import SECRETS_FOLDER, SERVER_USER
from infra.targets.docker.providers.database_preflight import DatabaseCheck
from infra.targets.docker.providers.external_database import (
    ExternalDatabase as ExternalDatabaseProvider,
)
from infra.targets.docker.providers.external_migration import ExternalMigration
from infra.targets.docker.settings import ExternalDatabase, docker_settings
from infra.targets.resources import Resource

FILES = {"PGPASSFILE": "database-password", "PGSSLROOTCERT": "database-authority"}


class Preflight(Resource, module="letta-ops", name="DatabaseCheck"):
    """The first resource of the stack: until it is content with the database, nothing is made."""

    def __init__(self, context: StackContext, *, looked: bool) -> None:
        chosen, database = _chosen(context)
        properties = {
            **build_inputs("letta", context.settings.release, chosen.build),
            "prefix": context.names.prefix,
            "servers": secret_input(database.url),
            "direct": secret_input(database.direct),
            "own_direct": database.direct is not database.url,
            "network": database.network,
            "replicas": chosen.replicas,
            "pool_size": chosen.pool_size,
            "deployment_id": context.secrets.id,
            "has_key": not context.secrets.fresh,
            "looked": looked,
        }
        super().__init__(DatabaseCheck(), "database-check", context.folder, properties, (), None)


class Marked(Resource, module="letta-ops", name="ExternalDatabase"):
    def __init__(
        self, context: StackContext, uri: pulumi.Output[str], opts: pulumi.ResourceOptions
    ) -> None:
        properties = {"uri": uri, "deployment_id": context.secrets.id}
        super().__init__(
            ExternalDatabaseProvider(), "external-database", context.folder, properties, (), opts
        )


class Migrated(Resource, module="letta-ops", name="Migration"):
    revision: pulumi.Output[str]

    def __init__(
        self,
        context: StackContext,
        base: Base,
        uri: pulumi.Output[str],
        networks: list[str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        properties = {
            "prefix": context.names.prefix,
            "release": context.settings.release,
            "image": base.images["letta"].tag,
            "networks": networks,
            "uri": uri,
        }
        super().__init__(
            ExternalMigration(), "migration", context.folder, properties, ("revision",), opts
        )


class ExternalPostgres(pulumi.ComponentResource):
    """Outputs like those of `ContainerPostgres`, and `environment` and `files` of the servers."""

    def __init__(self, context: StackContext, base: Base) -> None:
        super().__init__("letta-ops:docker:ExternalPostgres", "external-postgres")
        opts = pulumi.ResourceOptions(parent=self, depends_on=base.ready)
        self._database = _chosen(context)[1]
        hidden = pulumi.Output.secret(self._database.direct.reveal())
        self.context: dict[str, Any] = {"uri": hidden}
        self.uri = asyncpg_uri(self._database.url)
        self.environment, self.files = _files(context, base, self._database.url, opts)
        joined = [self._database.network] if self._database.network else []
        marked = Marked(context, hidden, opts)
        self.ready: pulumi.Resource = Migrated(
            context,
            base,
            hidden,
            [context.names.outer_network, *joined],
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
        files.append(
            File(name, context.folder, context.names, image, name, SERVER_USER, content, opts)
        )
    if trusted == SYSTEM:
        environment["PGSSLROOTCERT"] = SYSTEM_FILE
    return environment, files


def _chosen(context: StackContext) -> tuple[Any, ExternalDatabase]:
    chosen = docker_settings(context.settings)
    assert chosen.database is not None  # noqa: S101  # made for an external database only
    return chosen, chosen.database
