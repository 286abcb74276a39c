"""A server that we did not provision, or not on this machine: what its profile alone lets us do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.database.administration import DatabaseAccess, owner_access
from infra.database.connection import connection, database_of
from infra.errors import LettaOpsError
from infra.log_lines import LogLine, Wanted
from infra.process import Finished, Report
from infra.stack.deployment import EXTERNAL, Deployment, Role
from infra.stack.releases import Release
from infra.targets.facts import (
    Containers,
    DiskSpace,
    Fact,
    Listeners,
    Running,
    Services,
)

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class ExternalHost:
    """See `infra.targets.target.Host`."""

    deployment: Deployment

    is_ours = False
    provides_database = False
    shares_disk = False
    facts: Collection[Fact] = ()

    @property
    def can_back_up(self) -> bool:
        # The profile of a stack of ours that was copied here reaches nothing of it.
        return self.deployment.target == EXTERNAL and self.deployment.database is not None

    def stop(self, service: str) -> None:
        raise self._elsewhere(f"{service} can't be stopped from here")

    def start(self, service: str) -> None:
        raise self._elsewhere(f"{service} can't be started from here")

    def standby(self) -> None:
        return None

    def administrator(self) -> AbstractContextManager[DatabaseAccess]:
        return self.owner()

    def owner(self) -> AbstractContextManager[DatabaseAccess]:
        return owner_access(database_of(self.deployment))

    @contextmanager
    def session(self, role: Role | None = None) -> Iterator[psycopg.Connection[Any]]:
        database = database_of(self.deployment)
        with connection(database.connection(role or database.reader)) as link:
            yield link

    def server_programs(self) -> None:
        return None

    def migrations(self, release: Release, report: Report) -> None:
        return None

    def cluster(self) -> None:
        return None

    def home(self, name: str, program: str, code: str) -> None:
        return None

    def ask_server(self, script: str, question: str, seconds: float) -> Finished:
        raise self._elsewhere("no script can be run beside the server")

    def logs(self, wanted: Wanted) -> Iterator[LogLine]:
        raise LettaOpsError(
            "no-logs",
            f"the logs of {self.deployment.called} are not within reach",
            "letta-ops reads the logs of stacks that it runs; look on the server's own machine",
        )

    def packages(self) -> Mapping[str, str]:
        return {}

    def running(self) -> Running:
        return Running({}, None)

    def services(self) -> Services:
        raise self._elsewhere("its services can't be seen from here")

    def listeners(self) -> Listeners:
        raise self._elsewhere("its sockets can't be seen from here")

    def containers(self, *, memory: bool) -> Containers:
        raise self._elsewhere("its containers can't be seen from here")

    def disk(self) -> DiskSpace:
        raise self._elsewhere("its disk can't be seen from here")

    def _elsewhere(self, what: str) -> LettaOpsError:
        return LettaOpsError(
            "not-provisioned",
            f"{self.deployment.called} was not provisioned here: {what}",
            "look on its own machine",
        )
