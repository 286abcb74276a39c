"""A stack of the target docker: containers, volumes and networks of the engine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import psutil

from infra.stack.deployment import SERVICE_POSTGRES
from infra.targets.docker.engine.client import engine, own_containers
from infra.targets.docker.engine.execution import execute
from infra.targets.docker.names import LABEL_PREFIX, Names
from tests.live.stack import Stack, end_processes

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

# Where nothing can be pulled: the name of a Debian image that the engine has.
BASE_VARIABLE = "LETTA_OPS_TEST_BASE"
START_SECONDS = "900"  # one that is slow is waited for; tests of one that can't start set less
KILL_FIRST = "read -r first others < /proc/1/task/1/children; kill -9 $first"


@dataclass(frozen=True)
class DockerStack(Stack):
    target: ClassVar[str] = "docker"
    services: ClassVar[tuple[str, ...]] = ("letta", "postgres", "model", "proxy")
    front: ClassVar[str] = "proxy"

    @property
    def names(self) -> Names:
        """Its prefix is no other test run's, on an engine that others use too."""
        return Names(f"{self.machine.mark}-{self.name}")

    @property
    def configuration(self) -> dict[str, str]:
        base = os.environ.get(BASE_VARIABLE)
        return {
            "target": "docker",
            "containers.prefix": self.names.prefix,
            **({"image.base": base} if base else {}),
            "server.start_seconds": START_SECONDS,
            **{key: str(port) for key, port in self.ports.items()},
        }

    @property
    def this_machine(self) -> str:
        with engine() as client:
            network = client.networks.get(self.names.outer_network)
            return str(network.attrs["IPAM"]["Config"][0]["Gateway"])

    @property
    def has_data(self) -> bool:
        with engine() as client:
            return any(
                each.name == self.names.volume("database") for each in _volumes(client, self.names)
            )

    def containers(self, service: str | None = None) -> list[dict[str, Any]]:
        """What the engine says of each container (`docker inspect`), oldest first."""
        with engine() as client:
            return [dict(each.attrs) for each in own_containers(client, self.names.prefix, service)]

    def container(self, service: str) -> dict[str, Any]:
        """The service's newest container."""
        return self.containers(service)[-1]

    def pid(self, service: str) -> int:
        found = self.containers(service)
        return int(found[-1]["State"]["Pid"]) if found else 0

    def kill(self, service: str) -> None:
        """From inside: after `docker kill` the engine wouldn't start the container again."""
        with self._newest(service) as container:
            container.exec_run(["sh", "-c", KILL_FIRST])

    def stop(self, service: str) -> None:
        with self._newest(service) as container:
            container.stop()

    def processes(self) -> list[psutil.Process]:
        return self.processes_of(None)

    def processes_of(self, service: str | None) -> list[psutil.Process]:
        """Those of a container begin with its first one."""
        found = []
        with engine() as client:
            for container in own_containers(client, self.names.prefix, service):
                if container.status == "running":
                    rows = container.top(ps_args="-o pid")["Processes"]
                    first = int(container.attrs["State"]["Pid"])
                    pids = {int(row[0]) for row in rows} - {first}
                    found += [first, *sorted(pids)]
        return [psutil.Process(pid) for pid in found if psutil.pid_exists(pid)]

    def discard(self) -> None:
        end_processes(self.folder)
        remove_everything(f"{self.names.prefix}-")
        shutil.rmtree(self.folder.root)

    def server_settings(self) -> dict[str, str]:
        name = str(self.container("letta")["Name"]).lstrip("/")
        answer = execute(name, ["sh", "-c", 'cat "$LETTA_OPS_ENVIRONMENT_FILE"'])
        assert answer.code == 0, answer.output
        return dict(json.loads(answer.output)["environment"])

    @contextmanager
    def data_elsewhere(self) -> Iterator[None]:
        name, aside = self.names.volume("database"), self.names.volume("elsewhere")
        with engine() as client:
            labels = dict(client.volumes.get(name).attrs["Labels"])
            client.containers.get(self.names.container(SERVICE_POSTGRES)).remove(force=True)
            self._move(client, name, aside, {LABEL_PREFIX: self.names.prefix})
        try:
            yield
        finally:
            with engine() as client:
                self._move(client, aside, name, labels)

    def lose_data(self) -> None:
        with engine() as client:
            for kind in ("database", "home"):
                client.volumes.get(self.names.volume(kind)).remove()

    def remains(self) -> list[str]:
        with engine() as client:
            return sorted(
                f"{type(each).__name__.lower()} {each.name}" for each in everything_of(self, client)
            )

    def _move(self, client: DockerClient, source: str, target: str, labels: dict[str, str]) -> None:
        """Move a volume's contents to a new volume."""
        from infra.targets.docker.names import POSTGRES_USER

        assert not [each for each in _volumes(client, self.names) if each.name == target]
        client.volumes.create(target, labels=labels)
        user = f"{POSTGRES_USER}:{POSTGRES_USER}"
        client.containers.run(
            self._image(client),
            user="0:0",
            entrypoint=["sh", "-c"],
            command=[f"cp -a /source/. /target/ && chown {user} /target && chmod 0700 /target"],
            volumes={source: {"bind": "/source"}, target: {"bind": "/target"}},
            labels={LABEL_PREFIX: self.names.prefix},
            network_mode="none",
            remove=True,
        )
        client.volumes.get(source).remove()

    def _image(self, client: DockerClient) -> str:
        tags = [tag for each in client.images.list() for tag in each.tags]
        return next(tag for tag in tags if tag.startswith("letta-ops/postgres:"))

    @contextmanager
    def _newest(self, service: str) -> Iterator[Container]:
        with engine() as client:
            yield own_containers(client, self.names.prefix, service)[-1]


def remove_everything(mark: str) -> None:
    """Remove every container, volume and network of the stacks whose prefix begins with `mark`."""
    with engine() as client:
        for container in client.containers.list(all=True, ignore_removed=True):
            if _is_of(mark, container):
                container.remove(force=True, v=True)
        for kind in (client.volumes, client.networks):
            for each in kind.list():
                if _is_of(mark, each):
                    each.remove()


def everything_of(stack: DockerStack, client: DockerClient) -> list[Any]:
    found: list[Any] = client.containers.list(all=True, ignore_removed=True)
    found += [*client.volumes.list(), *client.networks.list()]
    return [each for each in found if _is_of(f"{stack.names.prefix}-", each)]


def _is_of(mark: str, thing: Any) -> bool:
    """By its name, and by the label of whose name doesn't tell."""
    labels = thing.attrs.get("Labels") or getattr(thing, "labels", None) or {}
    return str(thing.name).startswith(mark) or f"{labels.get(LABEL_PREFIX, '')}-".startswith(mark)


def _volumes(client: DockerClient, names: Names) -> list[Any]:
    return list(client.volumes.list(filters={"name": names.prefix}))
