"""A container with a Letta server that no stack made: how it was started, and who answers it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.deployment import LOOPBACK, THIS_MACHINE
from infra.targets.docker.engine.client import engine, find_container
from infra.targets.docker.names import LABEL_PREFIX
from infra.targets.target import Installation

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

# Of the official image; where nothing was mounted there, the engine has made a volume without a name.
DATA = "/var/lib/postgresql"
GATEWAY = "host-gateway"


def installation(name: str) -> Installation | None:
    """See `infra.targets.target.Target`."""
    import docker.errors

    with engine() as client:
        found = find_container(client, name)
        if found is None:
            return None
        if LABEL_PREFIX in found.labels:
            raise LettaOpsError(
                "source-is-stack",
                f"the container {name} is one of a stack of letta-ops",
                "move that by a backup: `letta-ops backup create` there, `letta-ops backup restore"
                " --into-other` here",
            )
        environment = _environment(found.attrs)
        brought: Mapping[str, str] = {}
        with suppress(docker.errors.ImageNotFound):
            brought = _environment(client.images.get(found.attrs["Image"]).attrs)
        return Installation(
            name,
            found.status == "running",
            {key: Sensitive(value) for key, value in environment.items()},
            sorted(key for key, value in environment.items() if brought.get(key) != value),
            _addresses(client, found),
            next(iter(_folders(found.attrs)), None),
            f"docker stop {name}",
        )


def _environment(attributes: Mapping[str, Any]) -> dict[str, str]:
    lines = attributes["Config"].get("Env") or []
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def _addresses(client: DockerClient, found: Container) -> dict[str, str]:
    """What its networks call each other, and where that answers from this machine."""
    addresses = {}
    for line in found.attrs["HostConfig"].get("ExtraHosts") or []:
        host, _, address = line.partition(":")
        addresses[host] = LOOPBACK if address == GATEWAY else address
    runs = found.status == "running"
    if runs and found.attrs["HostConfig"]["NetworkMode"] == "host":
        addresses |= dict.fromkeys(THIS_MACHINE, LOOPBACK)
    for name in found.attrs["NetworkSettings"]["Networks"]:
        for other in client.networks.get(name).attrs.get("Containers") or {}:
            container = client.containers.get(other)
            here = container.attrs["NetworkSettings"]["Networks"].get(name) or {}
            address = here.get("IPAddress")
            if address:
                known = [
                    *(here.get("Aliases") or []),
                    *(here.get("DNSNames") or []),
                    container.name,
                ]
                addresses |= dict.fromkeys(map(str, known), address)
                if runs and other == found.id:
                    addresses |= dict.fromkeys(THIS_MACHINE, address)
    return addresses


def _folders(attributes: Mapping[str, Any]) -> list[Path]:
    mounts = attributes.get("Mounts") or []
    inside = [each for each in mounts if str(each["Destination"]).startswith(DATA)]
    return [Path(each["Source"]) for each in inside if each.get("Source")]
