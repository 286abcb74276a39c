"""What of the stack configuration is for the local target alone: the ports of its services."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra.stack.deployment import LOOPBACK
from infra.stack.settings import ModelChoice, Reader, Settings

DEFAULTS: Mapping[str, Any] = {"model_port": 8284, "database.port": 8285, "smollm2_port": 8286}
LOWEST_PORT = 1024  # the services' accounts may not open lower ones
PORTS = ("server.port", *DEFAULTS)


@dataclass(frozen=True)
class LocalSettings:
    """The local target's part of Settings: ports of loopback."""

    server_port: int
    model_port: int
    database_port: int
    smollm2_port: int
    model: ModelChoice

    @property
    def server_url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}"

    @property
    def model_url(self) -> str:
        return f"http://{LOOPBACK}:{self.model_port}/v1"

    @property
    def ports(self) -> Mapping[str, int]:
        found = {"server.port": self.server_port, "database.port": self.database_port}
        if self.model != "none":
            found["model_port"] = self.model_port
        if self.model == "smollm2":
            found["smollm2_port"] = self.smollm2_port
        return found


def local_settings(settings: Settings) -> LocalSettings:
    """Of a stack's settings those of this target."""
    assert isinstance(settings.own, LocalSettings)  # noqa: S101  # nobody else's come here
    return settings.own


def parse_ports(reader: Reader, model: ModelChoice) -> LocalSettings:
    """Read this target's part of the configuration; what is wrong is added to its problems."""
    text = reader.text("server.port")
    server = int(text) if text.isdecimal() else 0  # judged already
    others = [reader.port(name, LOWEST_PORT) for name in DEFAULTS]
    ports = dict(zip(PORTS, (server, *others), strict=True))
    reader.problems.extend(_collisions(ports))
    return LocalSettings(server, others[0], others[1], others[2], model)


def _collisions(ports: Mapping[str, int]) -> Iterator[str]:
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if port and port in seen:
            yield f"{name}: {port} is the port of {seen[port]} already"
        seen[port] = name
