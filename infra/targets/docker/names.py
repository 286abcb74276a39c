"""What the docker target calls its containers, volumes, networks and labels. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Every object of ours carries these labels; nothing without them is ever touched.
LABEL_PREFIX = "letta-ops.prefix"
LABEL_SERVICE = "letta-ops.service"
LABEL_DEPLOYMENT = "letta-ops.deployment"
# Of an image: which of Debian's packages are in it, as `name=version`, and the day they were installed.
LABEL_PACKAGES = "letta-ops.packages"
LABEL_BASE = "org.opencontainers.image.base.name"
LABEL_INSTALLED = "letta-ops.packages.installed"

IDENTIFIER = "database.identifier"  # in the profile: which cluster has this deployment's data

SERVER_PORT = 8283
MODEL_PORT = 8284
PROXY_PORT = 8080
PROXY_TLS_PORT = 8443
PROXY_CHALLENGE_PORT = 8082  # never the one on which the API is served in the clear
REDIS_PORT = 6379

PREFIX = r"[a-z][a-z0-9-]{0,48}"  # of every name

# The accounts of the images; each is alone in its container.
SERVER_USER = 10001
POSTGRES_USER = 10002
PROXY_USER = 10003
REDIS_USER = 10004

SECRETS_FOLDER = "/secrets"

# In Letta's image.
SOURCE = "/opt/letta/source"
PYTHON = "/opt/letta/bin/python"
LAUNCH = "/opt/letta-ops/launch.py"


@dataclass(frozen=True)
class Names:
    """Every name of one stack on its engine, from the stack's `containers.prefix`."""

    prefix: str

    @property
    def inner_network(self) -> str:
        """Database, Redis, fake model and servers: no way out, nothing published."""
        return f"{self.prefix}-inner"

    @property
    def outer_network(self) -> str:
        """Proxy and servers: servers reach model providers through it."""
        return f"{self.prefix}-outer"

    @property
    def cache_network(self) -> str:
        """Redis and servers: Redis has no password, so nobody else may speak to it."""
        return f"{self.prefix}-cache"

    def volume(self, what: str) -> str:
        """A named volume: `database`, `home`, `secrets`, `proxy`."""
        return f"{self.prefix}-{what}"

    def container(self, service: str) -> str:
        return f"{self.prefix}-{service}"

    def server(self, digest: str, number: int) -> str:
        """A server is named after its configuration: its successor has another name."""
        return f"{self.prefix}-letta-{digest}-{number}"

    @property
    def networks(self) -> tuple[str, ...]:
        return (self.inner_network, self.outer_network, self.cache_network)

    def labels(self, service: str) -> Mapping[str, str]:
        return {LABEL_PREFIX: self.prefix, LABEL_SERVICE: service}


DATA_VOLUMES = ("database", "home", "proxy")
VOLUMES = (*DATA_VOLUMES, "secrets")
