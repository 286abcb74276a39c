"""What the server of the local target shares with itself over requests: a Redis, on a socket."""

from __future__ import annotations

import pulumi

from infra.stack.deployment import SERVICE_REDIS
from infra.stack.locations import StackFolder
from infra.targets.components.secrets import Secrets
from infra.targets.local.providers.runtime import Valkey
from infra.targets.resources import Resource, resource, service


def redis(folder: StackFolder, secrets: Secrets) -> Resource:
    """Return its service."""
    after = pulumi.ResourceOptions(depends_on=[secrets])
    installed = resource(Valkey(), "valkey", folder, {"socket": str(folder.redis_socket)}, after)
    return service(
        SERVICE_REDIS,
        folder,
        {
            "command": [installed.program, str(folder.redis_settings)],
            "directory": "/",
            "health": {"kind": "redis", "path": str(folder.redis_socket), "seconds": 60},
            "port": 0,
            "digest": installed.digest,
        },
    )
