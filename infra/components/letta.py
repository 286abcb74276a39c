"""The Letta server of the local target: authenticated, encrypted, pooled, on loopback."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import pulumi

from infra.components.embedded import ReleaseInstallation, Service
from infra.components.scripts import beside
from infra.components.secrets import Secrets
from infra.deployment import (
    DATABASE_NAME,
    LOOPBACK,
    OWNER_ROLE,
    SERVICE_SERVER,
    Database,
    Role,
    postgres_uri,
)
from infra.locations import StackFolder
from infra.sensitive import Sensitive, revealed
from infra.settings import Settings

START_SECONDS = 240  # 15 to 45 s measured; slower on a busy machine

# Nothing leaves the machine but what agents themselves send.
TELEMETRY_OFF = {
    "LETTA_DISABLE_TRACING": "true",
    "LETTA_TELEMETRY_ENABLE_DATADOG": "false",
    "OTEL_SDK_DISABLED": "true",
    "SENTRY_DSN": "",
    "COMPOSIO_LOGGING_LEVEL": "error",
}


IMPORT_FIRST = "letta.server.rest_api.app"  # reads the settings, secrets among them
# What of the environment below must not be seen in a log.
SECRETS = ("LETTA_PG_URI", "LETTA_SERVER_PASSWORD", "LETTA_ENCRYPTION_KEY")


def server(
    folder: StackFolder,
    settings: Settings,
    secrets: Secrets,
    release: ReleaseInstallation,
    model_environment: Mapping[str, str],
    after: list[pulumi.Resource],
) -> Service:
    """Return the server's service; it starts when everything in `after` is ready."""
    added = settings.environment
    environment = {**_environment(folder, secrets, settings), **model_environment, **added}
    command = [
        release.interpreter,
        str(folder.script("launch.py")),
        str(folder.server_environment),
        "letta.main:app",
        "server", "--secure", "--host", LOOPBACK, "--port", str(settings.server_port),
    ]  # fmt: skip
    return Service(
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
            "health": {"kind": "http", "path": "/v1/health/", "seconds": START_SECONDS},
            "port": settings.server_port,
            **beside("embedded/launch.py"),
        },
        pulumi.ResourceOptions(depends_on=after),
    )


def server_environment(
    uri: Any, password: Any, encryption_key: Any, home: PurePath, sandbox: PurePath
) -> dict[str, Any]:
    """The environment of every Letta server of ours, whatever its target."""
    return {
        "LETTA_PG_URI": uri,
        "LETTA_DISABLE_SQLALCHEMY_POOLING": "false",
        "LETTA_SERVER_SECURE": "true",
        "LETTA_SERVER_PASSWORD": password,
        "LETTA_ENCRYPTION_KEY": encryption_key,
        # Letta writes the database's URI, password and all, into its configuration file.
        "MEMGPT_CONFIG_PATH": "/dev/null",
        "LETTA_DIR": str(home / ".letta"),
        "TOOL_EXEC_DIR": str(sandbox),
        "NLTK_DATA": str(home / "nltk_data"),
        **TELEMETRY_OFF,
    }


def _environment(folder: StackFolder, secrets: Secrets, settings: Settings) -> dict[str, Any]:
    # TLS to our own loopback costs time and protects nothing; pooling insists on it otherwise.
    uri = secrets["database-owner-password"].apply(
        lambda password: _uri(password, settings.database_port)
    )
    return server_environment(
        uri, secrets["server-password"], secrets["encryption-key"], folder.home, folder.sandbox
    )


def _uri(password: str, port: int) -> str:
    role = Role(OWNER_ROLE, Sensitive(password))
    database = Database(LOOPBACK, port, DATABASE_NAME, role, role)
    return postgres_uri(database, role, "ssl=disable").reveal()


def _hidden(value: str | Sensitive) -> bool:
    return isinstance(value, Sensitive)
