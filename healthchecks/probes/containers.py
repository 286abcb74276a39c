"""What the engine says of the stack's containers: do they run, with what, and how confined?"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from healthchecks.model import Measurement
from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_MODEL, SERVICE_POSTGRES, SERVICE_SERVER, Deployment
from infra.targets.docker.names import SERVICE_PROXY, SERVICE_REDIS

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

SERVICES = (SERVICE_POSTGRES, SERVICE_SERVER, SERVICE_MODEL, SERVICE_PROXY, SERVICE_REDIS)
BASE_LABELS = ("org.opencontainers.image.base.name", "org.opencontainers.image.base.digest")
# Of both versions of cgroups: how often something inside was killed for want of memory.
KILL_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")


@dataclass(frozen=True)
class Published:
    """A port of the machine that leads into a container. An empty address is every address."""

    address: str
    port: int

    @property
    def loopback(self) -> bool:
        return bool(self.address) and ipaddress.ip_address(self.address).is_loopback


@dataclass(frozen=True)
class Confinement:
    """What a container may do; `user` as the engine knows it ("" and "0" are root)."""

    user: str
    read_only: bool
    no_new_privileges: bool
    drops_all: bool
    privileged: bool
    host_network: bool

    @property
    def root(self) -> bool:
        return self.user.partition(":")[0] in ("", "0", "root")


@dataclass(frozen=True)
class ContainerFacts:
    """One container. `health` is None without a health check; times in seconds, memory in bytes.

    `killed`: how often something in it was killed for want of memory since it started;
    `killed_whole`: that this was its last end. `image_days` is how long ago the packages of its image
    were installed, None when that was deleted.
    `limit` and `used` are None without a limit; `used` also where it wasn't measured.
    """

    name: str
    service: str
    status: str
    health: str | None
    exit_code: int
    uptime: float
    restarts: int
    killed_whole: bool
    killed: int
    used: int | None
    limit: int | None
    image: str
    image_days: float | None
    base: str | None
    published: tuple[Published, ...]
    confinement: Confinement

    @property
    def runs(self) -> bool:
        return self.status == "running"

    @property
    def state(self) -> str:
        """In the words of `status`: `RUNNING (healthy)`, `EXITED (137)`."""
        if self.status == "exited":
            return f"EXITED ({self.exit_code})"
        return self.status.upper() + (f" ({self.health})" if self.health and self.runs else "")


@dataclass(frozen=True)
class Containers(Measurement):
    """The stack's containers; `missing` names the services of which there is none."""

    containers: tuple[ContainerFacts, ...]
    missing: tuple[str, ...]
    tls: bool


def inspect(deployment: Deployment) -> Containers:
    """Ask the engine. Raises LettaOpsError: those of `infra.targets.docker.engine.client`."""
    return _containers(deployment, memory=False)


def inspect_memory(deployment: Deployment) -> Containers:
    """Like `inspect`, and measure the memory of each: that costs a command in every container."""
    return _containers(deployment, memory=True)


def _containers(deployment: Deployment, *, memory: bool) -> Containers:
    found = tuple(look(deployment, memory=memory))
    wanted = [SERVICE_SERVER, SERVICE_PROXY]
    if deployment.database is not None and deployment.database.container is not None:
        wanted.insert(0, SERVICE_POSTGRES)
    there = {each.service for each in found}
    missing = tuple(service for service in wanted if service not in there)
    return Containers(found, missing, deployment.server.url.startswith("https://"))


def look(deployment: Deployment, *, memory: bool = False) -> Iterator[ContainerFacts]:
    """Yield the containers of the stack's services, oldest first."""
    import docker.errors

    from infra.targets.docker.engine.client import engine, own_containers
    from infra.targets.docker.names import LABEL_SERVICE

    names = deployment.containers
    if names is None:
        raise LettaOpsError(
            "no-containers", "the stack doesn't run in containers", "look on its own machine"
        )
    with engine() as client:
        for container in own_containers(client, names.prefix):
            service = container.labels.get(LABEL_SERVICE, "")
            if service in SERVICES:
                try:
                    yield _facts(client, container, str(service), memory)
                except docker.errors.NotFound:
                    continue  # removed while we looked: its successor is in the list


def _facts(
    client: DockerClient, container: Container, service: str, memory: bool
) -> ContainerFacts:
    attributes: Mapping[str, Any] = container.attrs
    state, host = attributes["State"], attributes["HostConfig"]
    runs = state["Status"] == "running"
    now = dt.datetime.now(dt.UTC)
    limit = int(host.get("Memory") or 0) or None
    image, made, labels = _image(client, attributes["Image"])
    return ContainerFacts(
        name=str(container.name),
        service=service,
        status=str(state["Status"]),
        health=(state.get("Health") or {}).get("Status"),
        exit_code=int(state["ExitCode"]),
        uptime=(now - _moment(state["StartedAt"])).total_seconds() if runs else 0.0,
        restarts=int(attributes["RestartCount"]),
        killed_whole=bool(state["OOMKilled"]),
        killed=_killed(client, container) if memory and runs else 0,
        used=_used(client, str(container.id)) if memory and runs and limit else None,
        limit=limit,
        image=image,
        image_days=None if made is None else (now - made).total_seconds() / 86400,
        base=next((labels[name] for name in BASE_LABELS if labels.get(name)), None),
        published=tuple(_published(attributes)),
        confinement=_confinement(attributes["Config"], host),
    )


def _confinement(configured: Mapping[str, Any], host: Mapping[str, Any]) -> Confinement:
    options = [option.replace("=", ":") for option in host.get("SecurityOpt") or []]
    return Confinement(
        user=str(configured.get("User") or ""),
        read_only=bool(host.get("ReadonlyRootfs")),
        no_new_privileges=any(
            option in ("no-new-privileges", "no-new-privileges:true") for option in options
        ),
        drops_all="ALL" in (host.get("CapDrop") or []),
        privileged=bool(host.get("Privileged")),
        host_network=host.get("NetworkMode") == "host",
    )


def _published(attributes: Mapping[str, Any]) -> Iterator[Published]:
    """What is published now, or was asked for where the container doesn't run."""
    now = attributes["NetworkSettings"].get("Ports") or {}
    asked = attributes["HostConfig"].get("PortBindings") or {}
    found = {
        Published(each.get("HostIp") or "", int(each.get("HostPort") or 0))
        for places in (now if any(now.values()) else asked).values()
        for each in places or ()
    }
    yield from sorted(found, key=lambda each: (each.port, each.address))


def _image(client: DockerClient, image: str) -> tuple[str, dt.datetime | None, Mapping[str, str]]:
    """Its name, since when its packages are in it, and its labels; a container outlives an image that
    is deleted."""
    from infra.targets.docker.engine.client import find_image
    from infra.targets.docker.names import LABEL_INSTALLED

    short = image.removeprefix("sha256:")[:12]
    found = find_image(client, image)
    if found is None:
        return short, None, {}
    installed = found.labels.get(LABEL_INSTALLED)  # an image that was labelled is younger
    since = _moment(f"{installed}T00:00:00Z" if installed else found.attrs["Created"])
    return (*found.tags, short)[0], since, found.labels


def _used(client: DockerClient, container: str) -> int | None:
    """The memory in use, as `docker stats` counts it: without files that could be dropped."""
    seen: Any = client.api.stats(container, stream=False, one_shot=True)
    memory = seen.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    details = memory.get("stats") or {}
    droppable = details.get("inactive_file", 0)  # cgroup v2
    droppable = details.get("total_inactive_file", droppable)  # cgroup v1
    return max(0, int(memory["usage"]) - int(droppable))


def _killed(client: DockerClient, container: Container) -> int:
    """Also a part may have been killed (a session of Postgres, a tool), which the engine can't say."""
    from infra.targets.docker.engine.execution import execute

    done = execute(client, str(container.id), ["cat", *KILL_COUNTERS], seconds=5.0)
    words = done.stdout.split()
    pairs = dict(zip(words[::2], words[1::2], strict=False))
    return int(pairs.get("oom_kill", 0))


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
