"""The local target: Postgres, the Letta server and a model on this machine, kept by supervisord."""

from __future__ import annotations

from typing import Any

import pulumi

from infra.stack.deployment import DATABASE_NAME, LOOPBACK, OWNER_ROLE, READER_ROLE, Model
from infra.stack.locations import StackFolder
from infra.stack.secrets import stack_secrets
from infra.stack.settings import FAKE_MODEL
from infra.targets.components.scheduler import scheduler
from infra.targets.components.secrets import Secrets
from infra.targets.local.components.letta import server
from infra.targets.local.components.model import ModelService
from infra.targets.local.components.postgres import Postgres
from infra.targets.local.components.redis import redis
from infra.targets.local.preflight import ensure_possible
from infra.targets.local.providers.endpoints import ModelEndpoints
from infra.targets.local.providers.runtime import LettaRelease
from infra.targets.local.settings import LocalSettings
from infra.targets.resources import backup_settings, record, resource, urls


def declare(folder: StackFolder, settings: LocalSettings) -> None:
    """Declare the stack's resources. Raises LettaOpsError before any, when it can't succeed."""
    ensure_possible(folder, settings)
    secrets = Secrets(folder, stack_secrets(folder))
    release = resource(LettaRelease(), "release", folder, {"release": settings.release})
    postgres = Postgres(folder, settings, secrets, release)
    endpoints = resource(
        ModelEndpoints(),
        "endpoints",
        folder,
        {
            "port": settings.database.port,
            "urls": urls(settings.provider_urls),
        },
        pulumi.ResourceOptions(depends_on=[postgres.ready]),
    )
    # Letta asks for its Redis once: when none answers then, there is none for as long as it runs.
    after: list[pulumi.Resource] = [endpoints, redis(folder, secrets)]
    model, environment = Model(), dict[str, str]()
    if settings.model != "none":
        # Letta asks for the list of models when it starts, and never again: the model comes first.
        served = ModelService(folder, settings, release)
        model, environment = FAKE_MODEL, served.environment
        after.append(served.ready)
    letta = server(folder, settings, secrets, release, environment, after)
    scheduler(folder, settings, record(folder, _profile(settings, model), letta))
    pulumi.export("url", settings.server_url)
    pulumi.export("profile", str(folder.profile))


def _profile(settings: LocalSettings, model: Model) -> dict[str, Any]:
    return {
        "target": settings.target,
        "release": settings.release,
        "server.url": settings.server_url,
        "database.host": LOOPBACK,
        "database.port": settings.database.port,
        "database.name": DATABASE_NAME,
        "database.owner": OWNER_ROLE,
        "database.reader": READER_ROLE,
        "database.tls": "disable",
        "model.handle": model.handle or "",
        "model.embedding": model.embedding or "",
        **backup_settings(settings.backups),
    }
