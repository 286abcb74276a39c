"""What of the stack configuration is for the local target alone: the ports of its services."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

from infra.embedded.binaries import MAJORS
from infra.stack.deployment import LOOPBACK
from infra.stack.keys import By, Section, port_from, setting
from infra.stack.settings import ServerSection, Settings

Port = Annotated[int, port_from(1024)]  # the services' accounts may not open lower ones


def _major(text: str) -> str:
    if text and text not in MAJORS:
        raise ValueError(f"{text!r} is unknown; this letta-ops brings {', '.join(MAJORS)}")
    return text


class LocalServerSection(ServerSection):
    port: Port = setting(8283, "where clients find the server")


class LocalDatabaseSection(Section):
    table: ClassVar[str] = "database."

    port: Port = setting(8285, "that of Postgres, on loopback")
    postgres: Annotated[str, By(_major, {"enum": ["", *MAJORS]})] = setting(
        "", "its major version; by default what is there stays, and what is new is the newest"
    )


class LocalSettings(Settings):
    """Those of a stack that runs as processes of this machine, on loopback."""

    server: LocalServerSection = setting(LocalServerSection(), "the Letta server")
    model_port: Port = setting(8284, "that of the fake model, on loopback")
    database: LocalDatabaseSection = setting(LocalDatabaseSection(), "its Postgres")
    smollm2_port: Port = setting(8286, "that of SmolLM2, on loopback")

    @property
    def server_url(self) -> str:
        return f"http://{LOOPBACK}:{self.server.port}"

    @property
    def model_url(self) -> str:
        return f"http://{LOOPBACK}:{self.model_port}/v1"

    @property
    def ports(self) -> Mapping[str, int]:
        found = {"server.port": self.server.port, "database.port": self.database.port}
        if self.model != "none":
            found["model_port"] = self.model_port
        if self.model == "smollm2":
            found["smollm2_port"] = self.smollm2_port
        return found

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        seen: dict[int, str] = {}
        for name, number in {
            "server.port": self.server.port,
            "model_port": self.model_port,
            "database.port": self.database.port,
            "smollm2_port": self.smollm2_port,
        }.items():
            if number in seen:
                yield f"{name}: {number} is the port of {seen[number]} already"
            seen[number] = name


def local_settings(settings: Settings) -> LocalSettings:
    """Those of a local stack."""
    assert isinstance(settings, LocalSettings)  # noqa: S101  # nobody else's come here
    return settings
