"""The environment of every Letta server of ours, and what of it is secret. Pure."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

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
