"""The environment of every Letta server of ours, what of it is secret, and the document that `launch.py`
starts one from. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

from infra.sensitive import Sensitive
from infra.stack.releases import release_number

# Nothing leaves the machine but what agents themselves send.
TELEMETRY_OFF = {
    "LETTA_DISABLE_TRACING": "true",
    "LETTA_TELEMETRY_ENABLE_DATADOG": "false",
    "OTEL_SDK_DISABLED": "true",
    "SENTRY_DSN": "",
    "COMPOSIO_LOGGING_LEVEL": "error",
}
MCP_STDIO_OFF = "MCP_DISABLE_STDIO"  # before 0.16.7 such servers may be added unless it is set
IMPORT_FIRST = "letta.server.rest_api.app"  # reads the settings, secrets among them
# What of the environment below must not be seen in a log.
SECRETS = ("LETTA_PG_URI", "LETTA_SERVER_PASSWORD", "LETTA_ENCRYPTION_KEY")


# The words with which a server of 0.12 and before is told to use no TLS: it hands them to psycopg2, too.
PLAIN_OF_OLD, PLAIN = "sslmode=disable", "ssl=disable"
PLAIN_SINCE = (0, 13)


def without_tls(release: str) -> str:
    """What the URI of a database on loopback, or on a network of its own, ends with."""
    return PLAIN if release_number(release) >= PLAIN_SINCE else PLAIN_OF_OLD


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
        "FASTMCP_DEPRECATION_WARNINGS": "false",  # it turns all on, hundreds: the release is frozen
        MCP_STDIO_OFF: "true",
        # What a tool requires is installed in a virtual environment, or not at all. `launch.py` makes it;
        # Letta would make it anew at each start, from the network, and not start without.
        "TOOL_EXEC_VENV_NAME": "tools",
        "TOOL_EXEC_AUTORELOAD_VENV": "false",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "NLTK_DATA": str(home / "nltk_data"),
        **TELEMETRY_OFF,
    }


def launch_document(
    environment: Mapping[str, str], secret_names: Iterable[str], import_first: str | None
) -> str:
    """JSON. `secret_names` leave the process's environment once `import_first` has read them."""
    names = list(secret_names)
    document = {
        "environment": dict(environment),
        "secret_names": names,
        "secrets": [secret.reveal() for secret in secret_values(environment, names)],
        "import_first": import_first,
    }
    return json.dumps(document, indent=1, sort_keys=True)


def secret_values(environment: Mapping[str, str], secret_names: Iterable[str]) -> list[Sensitive]:
    """The secrets among the environment, and the password of every URL in it."""
    values = [environment[name] for name in secret_names]
    urls = [value for value in environment.values() if "://" in value]
    passwords = [unquote(urlsplit(url).password or "") for url in urls]
    return [Sensitive(value) for value in (*values, *passwords) if value]
