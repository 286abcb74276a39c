"""What the engine says of a stack's containers: do they run, with what, how confined, on what disk?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.stack.deployment import (
    SERVICE_MODEL,
    SERVICE_POSTGRES,
    SERVICE_PROXY,
    SERVICE_REDIS,
    SERVICE_SERVER,
)
from infra.targets.docker.engine.client import engine, find_container, find_image, own_containers
from infra.targets.docker.engine.execution import execute_with
from infra.targets.docker.names import LABEL_INSTALLED, LABEL_SERVICE, Names
from infra.targets.facts import Confinement, ContainerFacts, Containers, DiskSpace, Published
from infra.targets.target import not_running

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

DATABASE_DATA = "/var/lib/postgresql"
SERVER_DATA = "/home/letta"
SERVICES = (SERVICE_POSTGRES, SERVICE_SERVER, SERVICE_MODEL, SERVICE_PROXY, SERVICE_REDIS)
BASE_LABELS = ("org.opencontainers.image.base.name", "org.opencontainers.image.base.digest")
# Of both versions of cgroups: how often something inside was killed for want of memory.
KILL_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")


def inspect(names: Names, wanted: Sequence[str], *, tls: bool, memory: bool) -> Containers:
    """Ask the engine for the stack's containers; of the services `wanted` there must be one each.

    With `memory`, that of each is measured: that costs a command in every container. Raises
    LettaOpsError: those of `infra.targets.docker.engine.client`.
    """
    found = tuple(look(names, memory=memory))
    there = {each.service for each in found}
    missing = tuple(service for service in wanted if service not in there)
    return Containers(found, missing, tls)


def look(names: Names, *, memory: bool = False) -> Iterator[ContainerFacts]:
    """Yield the containers of the stack's services, oldest first."""
    import docker.errors

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
    done = execute_with(client, str(container.id), ["cat", *KILL_COUNTERS], seconds=5.0)
    found = done.stdout.split()
    pairs = dict(zip(found[::2], found[1::2], strict=False))
    return int(pairs.get("oom_kill", 0))


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def running_server(client: DockerClient, names: Names) -> Container:
    """A server's container that runs; the newest. Raises LettaOpsError (`server-not-running`)."""
    found = own_containers(client, names.prefix, SERVICE_SERVER)
    running = [each for each in found if each.status == "running"]
    if not running:
        raise not_running()
    return running[-1]


def disk_space(names: Names, postgres: str | None) -> DiskSpace:
    """As the container `postgres` sees its volume, or else a server.

    The engine's own folder says nothing: a volume may be on another disk, and an engine elsewhere.
    """
    with engine() as client:
        found = find_container(client, postgres) if postgres else None
        folder = DATABASE_DATA
        if found is None or found.status != "running":
            found, folder = running_server(client, names), SERVER_DATA
        name = str(found.name)
        arguments = ["df", "--block-size=1", "--output=size,avail", folder]
        done = execute_with(client, name, arguments, seconds=10.0)
    numbers = done.stdout.split()[-2:]
    if done.code != 0 or not all(word.isdecimal() for word in numbers):
        raise LettaOpsError(
            "no-disk",
            f"df in {name} failed: {(done.stderr or done.stdout).strip()[:300]}",
            "look at the disk of the engine's own machine",
        )
    total, free = map(int, numbers)
    return DiskSpace(Path(folder), total, free, name)
