"""A docker stack where it runs: containers, volumes and networks of an engine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import docker.errors  # noqa: F401  # here, since threads of checks may not import it all at once

from infra.database.administration import DatabaseAccess, owner_access
from infra.database.connection import connection, database_of
from infra.errors import LettaOpsError
from infra.log_lines import LogLine, Wanted
from infra.process import Finished, Report
from infra.stack.deployment import (
    SERVICE_POSTGRES,
    SERVICE_PROXY,
    SERVICE_REDIS,
    SERVICE_SCHEDULER,
    SERVICE_SERVER,
    SERVICE_STANDBY,
    Deployment,
    Role,
)
from infra.stack.releases import Release
from infra.targets import remote_script
from infra.targets.docker.engine.address import address
from infra.targets.docker.engine.client import engine, own_containers
from infra.targets.docker.engine.execution import execute_with
from infra.targets.docker.health import disk_space, inspect, look, running_server
from infra.targets.docker.home_volume import VolumeHome
from infra.targets.docker.images.recipes import installed_packages
from infra.targets.docker.migrations import ContainerMigrations, image_of
from infra.targets.docker.names import PYTHON, Names
from infra.targets.docker.postgres import administrator_access, inside, owner_inside
from infra.targets.docker.programs import ContainerPrograms
from infra.targets.docker.redis import forget
from infra.targets.docker.standby import ContainerStandby
from infra.targets.facts import Containers, DiskSpace, Fact, Listeners, Running, Services

if TYPE_CHECKING:
    import psycopg
    from docker import DockerClient

STOP_SECONDS = 60


@dataclass(frozen=True)
class DockerHost:
    """See `infra.targets.target.Host`. `postgres` is its container; None: the database is external."""

    deployment: Deployment
    names: Names
    postgres: str | None

    is_ours = True
    can_back_up = True
    shares_disk = False
    facts: Collection[Fact] = (Fact.CONTAINERS,)

    @property
    def provides_database(self) -> bool:
        return self.postgres is not None

    def stop(self, service: str) -> None:
        with engine(STOP_SECONDS * 2) as client:
            for each in own_containers(client, self.names.prefix, service):
                each.stop(timeout=STOP_SECONDS)

    def start(self, service: str) -> None:
        with engine(STOP_SECONDS) as client:
            found = own_containers(client, self.names.prefix, service)
            if service == SERVICE_SERVER and not self._serves(client):
                forget(client, self.names)  # they were stopped to be given other data
            for each in found:
                each.start()

    def _serves(self, client: DockerClient) -> bool:
        return any(
            each.status == "running"
            for service in (SERVICE_SERVER, SERVICE_STANDBY)
            for each in own_containers(client, self.names.prefix, service)
        )

    def standby(self) -> ContainerStandby:
        return ContainerStandby(self.names, self.deployment.secrets)

    @contextmanager
    def administrator(self) -> Iterator[DatabaseAccess]:
        database = database_of(self.deployment)
        opened = administrator_access(self.postgres) if self.postgres else owner_access(database)
        with opened as access:
            yield access

    def owner(self) -> AbstractContextManager[DatabaseAccess]:
        database = database_of(self.deployment)
        return owner_inside(self.postgres, database) if self.postgres else owner_access(database)

    @contextmanager
    def session(self, role: Role | None = None) -> Iterator[psycopg.Connection[Any]]:
        database = database_of(self.deployment)
        settings = database.connection(role or database.reader)
        opened = inside(self.postgres, settings) if self.postgres else connection(settings)
        with opened as link:
            yield link

    def server_programs(self) -> ContainerPrograms | None:
        return ContainerPrograms(self.postgres) if self.postgres else None

    def migrations(self, release: Release, report: Report) -> ContainerMigrations | None:
        folder = self.deployment.folder
        if self.postgres is None or folder is None:
            return None
        image = image_of(folder, release, report)
        return ContainerMigrations(self.deployment, self.names, self.postgres, image)

    def cluster(self) -> None:
        """Debian's image brings one version of Postgres, and so do ours."""
        return

    def home(self, name: str, program: str, code: str) -> VolumeHome:
        return VolumeHome(self.names, self.deployment.release, name, program, code)

    def ask_server(self, script: str, question: str, seconds: float) -> Finished:
        with engine() as client:
            server = running_server(client, self.names)
            done = execute_with(
                client,
                str(server.id),
                remote_script.arguments(PYTHON),
                remote_script.stdin(script, question),
                seconds,
            )
        return Finished(done.code, done.stdout, done.stderr)

    def logs(self, wanted: Wanted) -> Iterator[LogLine]:
        # What is no container's comes from its file.
        if wanted.service == SERVICE_SCHEDULER and self.deployment.folder is not None:
            from infra.embedded.logs import lines as file_lines

            return file_lines(self.deployment.folder, wanted, self.deployment.secrets)
        from infra.targets.docker.logs import lines

        return lines(self.names.prefix, wanted, self.deployment.secrets)

    def packages(self) -> Mapping[str, str]:
        return installed_packages(self.names.prefix)

    def running(self) -> Running:
        found = sorted(look(self.names), key=lambda each: each.name)
        if not found:
            raise LettaOpsError(
                "no-containers",
                "no container of the stack is on this engine",
                "start it with `letta-ops up`, or name its engine with DOCKER_HOST",
            )
        uptimes = [each.uptime for each in found if each.service == SERVICE_SERVER and each.runs]
        services = {each.name.removeprefix(f"{self.names.prefix}-"): each.state for each in found}
        return Running(services, min(uptimes, default=None), address())

    def services(self) -> Services:
        raise NotImplementedError("see `facts`")

    def listeners(self) -> Listeners:
        raise NotImplementedError("see `facts`")

    def containers(self, *, memory: bool) -> Containers:
        own = [SERVICE_POSTGRES] if self.postgres else []
        wanted = [*own, SERVICE_SERVER, SERVICE_REDIS, SERVICE_PROXY]
        tls = self.deployment.server.url.startswith("https://")
        return inspect(self.names, wanted, tls=tls, memory=memory)

    def disk(self) -> DiskSpace:
        return disk_space(self.names, self.postgres)
