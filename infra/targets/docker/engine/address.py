"""Which engine is meant: one, for all of our programs and for Pulumi's, which know it in different ways.

`docker` and its library follow DOCKER_HOST, then DOCKER_CONTEXT, then the current context; Pulumi's
provider follows DOCKER_HOST alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

LOCAL = "unix:///var/run/docker.sock"


def address() -> str:
    """The engine's address, as DOCKER_HOST would say it."""
    return os.environ.get("DOCKER_HOST") or variables().get("DOCKER_HOST") or LOCAL


def variables() -> Mapping[str, str]:
    """What names the engine to a program that doesn't know contexts; nothing where all agree."""
    if os.environ.get("DOCKER_HOST"):
        return {}
    from docker.context import ContextAPI
    from docker.errors import DockerException

    try:
        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    except (DockerException, OSError, ValueError):
        return {}  # said by whoever asks the engine next
    if context is None or not context.Host or context.Host == LOCAL:
        return {}
    chosen = {"DOCKER_HOST": str(context.Host)}
    if context.TLSConfig is not None:
        folder = Path(context.tls_path) / "docker"
        chosen |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(folder)}
    return chosen
