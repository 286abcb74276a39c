"""The Letta server of the local target: authenticated, encrypted, pooled, on loopback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from infra.api import HEALTH_PATH
from infra.sensitive import Sensitive, revealed
from infra.stack.deployment import (
    DATABASE_NAME,
    LOOPBACK,
    OWNER_ROLE,
    SERVICE_SERVER,
    Database,
    Role,
    postgres_uri,
)
from infra.stack.locations import StackFolder
from infra.stack.server_environment import (
    IMPORT_FIRST,
    SECRETS,
    server_environment,
    without_tls,
)
from infra.targets.components.scripts import copied_scripts
from infra.targets.components.secrets import Secrets
from infra.targets.local.settings import LocalSettings
from infra.targets.resources import Resource, service

START_SECONDS = 240  # 15 to 45 s measured; slower on a busy machine


def server(
    folder: StackFolder,
    settings: LocalSettings,
    secrets: Secrets,
    release: Resource,
    model_environment: Mapping[str, str],
    after: list[pulumi.Resource],
) -> Resource:
    """Return the server's service; it starts when everything in `after` is ready."""
    added = settings.environment
    environment = {
        **_environment(folder, secrets, settings),
        "LETTA_REDIS_HOST": str(folder.redis_socket),  # see `launch.py`
        **model_environment,
        **added,
    }
    command = [
        release.interpreter,
        str(folder.script("launch.py")),
        str(folder.server_environment),
        "letta.main:app",
        "server", "--secure", "--host", LOOPBACK, "--port", str(settings.server.port),
    ]  # fmt: skip
    return service(
        SERVICE_SERVER,
        folder,
        {
            "command": command,
            "directory": str(folder.home),
            "environment": pulumi.Output.secret(
                {name: revealed(value) for name, value in environment.items()}
            ),
            "import_first": IMPORT_FIRST,
            "secret_names": [*SECRETS, *(name for name, value in added.items() if _hidden(value))],
            "health": {"kind": "http", "path": HEALTH_PATH, "seconds": START_SECONDS},
            "port": settings.server.port,
            **copied_scripts("embedded/launch.py"),
        },
        pulumi.ResourceOptions(depends_on=after),
    )


def _environment(folder: StackFolder, secrets: Secrets, settings: LocalSettings) -> dict[str, Any]:
    # TLS to our own loopback costs time and protects nothing; pooling insists on it otherwise.
    uri = secrets["database-owner-password"].apply(lambda password: _uri(password, settings))
    return server_environment(
        uri, secrets["server-password"], secrets["encryption-key"], folder.home, folder.sandbox
    )


def _uri(password: str, settings: LocalSettings) -> str:
    role = Role(OWNER_ROLE, Sensitive(password))
    database = Database(LOOPBACK, settings.database.port, DATABASE_NAME, role, role)
    return postgres_uri(database, role, without_tls(settings.release)).reveal()


def _hidden(value: str | Sensitive) -> bool:
    return isinstance(value, Sensitive)
