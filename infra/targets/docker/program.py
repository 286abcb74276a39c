"""The docker target: Postgres, servers and a proxy in hardened containers of our own images."""

from __future__ import annotations

from typing import Any

import pulumi

from infra.sensitive import Sensitive
from infra.stack.deployment import (
    DATABASE_NAME,
    LOOPBACK,
    OWNER_ROLE,
    READER_ROLE,
    SERVICE_POSTGRES,
    SERVICE_PROXY,
    SERVICE_REDIS,
    Model,
)
from infra.stack.locations import StackFolder
from infra.stack.secrets import stack_secrets
from infra.stack.settings import FAKE_MODEL
from infra.targets.components.scheduler import scheduler
from infra.targets.components.secrets import Secrets
from infra.targets.docker.components.base import Base
from infra.targets.docker.components.context import StackContext
from infra.targets.docker.components.external_postgres import ExternalPostgres, preflight
from infra.targets.docker.components.extras import Proxy, fake_model, redis
from infra.targets.docker.components.postgres import ContainerPostgres
from infra.targets.docker.components.servers import Servers
from infra.targets.docker.names import REDIS_PORT
from infra.targets.docker.preflight import ensure_possible
from infra.targets.docker.providers.database_preflight import image_is_there
from infra.targets.docker.providers.route import Route
from infra.targets.docker.settings import DockerSettings
from infra.targets.resources import backup_settings, record, resource, urls


def declare(folder: StackFolder, settings: DockerSettings) -> None:
    """Declare the stack's resources. Raises LettaOpsError before any, when it can't succeed."""
    chosen = settings
    known = stack_secrets(folder)
    ensure_possible(folder, settings, known)
    context = StackContext(folder, settings, known)
    first: list[pulumi.Resource] = []
    if chosen.external is not None:
        first.append(preflight(context, looked=image_is_there(settings)))
    secrets = Secrets(folder, known, pulumi.ResourceOptions(depends_on=first))
    base = Base(context, _images(chosen), pulumi.ResourceOptions(depends_on=[secrets]))
    more: dict[str, str | Sensitive] = {
        "LETTA_REDIS_HOST": context.names.container(SERVICE_REDIS),
        "LETTA_REDIS_PORT": str(REDIS_PORT),
        **settings.environment,
    }
    after: list[pulumi.Resource] = []
    database: ContainerPostgres | ExternalPostgres
    if chosen.external is None:
        database = ContainerPostgres(context, base)
    else:
        database = ExternalPostgres(context, base)
        more |= database.environment
        after += database.files
    after.append(database.ready)
    model = Model()
    if settings.model != "none":
        # Letta asks for the list of models when it starts, and never again: the model comes first.
        after.append(fake_model(context, base))
        model = FAKE_MODEL
        more |= {"OPENAI_API_KEY": "not-needed", "OPENAI_BASE_URL": chosen.model_url}
    # Letta asks for its Redis once: when none answers then, there is none for as long as it runs.
    after.append(redis(context, base))
    more["LETTA_PG_POOL_SIZE"] = str(chosen.database.pool_size)
    servers = Servers(context, base, database.uri, more, after)
    proxy = Proxy(context, base, servers.ready)
    hidden = pulumi.Output.secret([secret.reveal() for secret in servers.hidden])
    route = resource(
        Route(),
        "route",
        folder,
        {
            "proxy": context.names.container(SERVICE_PROXY),
            "proxy_id": proxy.container.id,
            "alias": servers.alias,
            "upstreams": servers.names,
            "upstream_ids": servers.ids,
            "urls": urls(settings.provider_urls),
            **database.address,
            "tls": _tls(chosen),
            "files": proxy.files,
            "max_request": chosen.proxy.max_request,
            "model": model.handle or "",
            "embedding": model.embedding or "",
            "secrets": hidden,
        },
        pulumi.ResourceOptions(depends_on=[proxy.container.ready, *servers.ready]),
    )
    values = _profile(folder, settings, chosen, model)
    scheduler(folder, settings, record(folder, values, route))
    pulumi.export("url", chosen.server_url)
    pulumi.export("profile", str(folder.profile))


def _images(chosen: DockerSettings) -> list[str]:
    own = ["postgres"] if chosen.external is None else []
    return ["letta", *own, "proxy", "redis"]


def _tls(chosen: DockerSettings) -> dict[str, Any]:
    return {
        "mode": chosen.tls.mode,
        "host": chosen.tls.host,
        "email": chosen.tls.email,
        "acme_directory": chosen.tls.acme_directory,
        "acme_ca": str(chosen.tls.acme_ca or ""),
    }


def _profile(
    folder: StackFolder, settings: DockerSettings, chosen: DockerSettings, model: Model
) -> dict[str, Any]:
    return {
        "target": settings.target,
        "release": settings.release,
        "server.url": chosen.server_url,
        "server.authority": str(folder.authority) if chosen.tls.mode == "internal" else "",
        "containers.prefix": chosen.names.prefix,
        **_database(chosen),
        "model.handle": model.handle or "",
        "model.embedding": model.embedding or "",
        **backup_settings(settings.backups),
    }


def _database(chosen: DockerSettings) -> dict[str, Any]:
    """How the command line reaches the database: in its container, or by the external one's URL."""
    if chosen.external is None:
        return {
            "database.container": chosen.names.container(SERVICE_POSTGRES),
            "database.host": LOOPBACK,
            "database.name": DATABASE_NAME,
            "database.owner": OWNER_ROLE,
            "database.reader": READER_ROLE,
            "database.url": "",
        }
    none = dict.fromkeys(("container", "host", "name", "owner", "reader"), "")
    reference = chosen.external.reference
    return {
        **{f"database.{name}": value for name, value in none.items()},
        "database.url": reference or pulumi.Output.secret(chosen.external.direct.reveal()),
    }
