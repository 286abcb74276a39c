"""The port of this machine that a stack of containers publishes: whose is it?"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from infra.errors import ConfigurationError
from infra.stack.deployment import SERVICE_PROXY
from infra.targets.docker.engine.address import address
from infra.targets.docker.engine.client import find_container
from infra.targets.docker.names import Names
from infra.targets.ports import describe, listeners

if TYPE_CHECKING:
    from docker import DockerClient


def ensure_port(client: DockerClient, stack: str, names: Names, bind: str, port: int) -> None:
    """Raise ConfigurationError when something else than the stack's own proxy has the port."""
    proxy = find_container(client, names.container(SERVICE_PROXY))
    if proxy is not None:
        bound = proxy.attrs["HostConfig"].get("PortBindings") or {}
        ours = {entry["HostPort"] for entries in bound.values() for entry in entries}
        if str(port) in ours and proxy.status == "running":
            return
    if address().startswith("unix:"):
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((bind, port))
            except OSError as error:
                problem = f"cannot be opened on {bind}: {error.strerror}"
                if error.errno == errno.EADDRINUSE:
                    owner = listeners().get(port)
                    problem = f"is taken by {describe(owner)}"
                raise ConfigurationError(
                    "ports",
                    [f"server.port: {port} {problem}"],
                    "end the other program, or choose another port:"
                    f" `letta-ops --stack {stack} up --config server.port=PORT`",
                ) from None
