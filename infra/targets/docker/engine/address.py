"""Which engine is meant: one, for all of our programs and for Pulumi's, which know it in different ways.

`docker` and its library follow DOCKER_HOST, then DOCKER_CONTEXT, then the current context; Pulumi's
provider follows DOCKER_HOST alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from infra.errors import LettaOpsError

LOCAL = "unix:///var/run/docker.sock"


def address() -> str:
    """The engine's address, as DOCKER_HOST would say it."""
    return os.environ.get("DOCKER_HOST") or variables().get("DOCKER_HOST") or LOCAL


def variables() -> Mapping[str, str]:
    """What names the engine to a program that doesn't know contexts; nothing where all agree.

    Raises LettaOpsError (`engine-context`) for a context that isn't there: the library would take
    the engine of this machine instead.
    """
    if os.environ.get("DOCKER_HOST"):
        return {}
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name

    name = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
    try:
        context = ContextAPI.get_context(name)
    except Exception:  # noqa: BLE001  it raises no kind of its own for what it can't read
        context = None
    if context is None:
        raise LettaOpsError(
            "engine-context",
            f"the Docker context {name!r} can't be read",
            "see `docker context ls`, then choose one: `docker context use NAME`, or DOCKER_HOST",
        )
    if not context.Host or context.Host == LOCAL:
        return {}
    chosen = {"DOCKER_HOST": str(context.Host)}
    if context.TLSConfig is not None:
        chosen["DOCKER_CERT_PATH"] = str(Path(context.tls_path) / "docker")
        if context.TLSConfig.verify:
            chosen["DOCKER_TLS_VERIFY"] = "1"
    return chosen
