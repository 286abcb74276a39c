"""A local stack where it runs: processes of this machine, under their supervisor."""

from __future__ import annotations

import errno
import os
import shutil
import time
import xmlrpc.client
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.accounts import as_account, let_through, service_account, service_python
from infra.database.administration import DatabaseAccess, owner_access
from infra.database.connection import connection, database_of
from infra.embedded import supervisor
from infra.embedded.alembic import upgrade
from infra.embedded.home import ServerHome
from infra.embedded.release import InstalledRelease, install
from infra.errors import LettaOpsError
from infra.log_lines import LogLine, Wanted
from infra.process import Finished, Report, attempt, command
from infra.stack.deployment import SERVICE_POSTGRES, SERVICE_SERVER, Deployment, Role
from infra.stack.locations import StackFolder, cache_folder
from infra.stack.releases import Release
from infra.targets import remote_script
from infra.targets.facts import (
    Containers,
    DiskSpace,
    Fact,
    Listener,
    Listeners,
    Running,
    Service,
    Services,
)
from infra.targets.local.cluster import LocalCluster
from infra.targets.local.postgres import administrator_access
from infra.targets.target import not_running

if TYPE_CHECKING:
    import psycopg

STOP_SECONDS = 120


@dataclass(frozen=True)
class EmbeddedMigrations:
    """See `infra.targets.target.Migrations`."""

    deployment: Deployment
    folder: StackFolder
    installed: InstalledRelease

    def run(self, database: str, keep: Callable[[str], None], hint: str) -> None:
        upgrade(
            self.folder,
            self.installed,
            replace(database_of(self.deployment), name=database),
            self.installed.release.alembic_head,
            keep,
            hint,
            self.deployment.server.encryption_key,
        )


@dataclass(frozen=True)
class LocalHost:
    """See `infra.targets.target.Host`."""

    deployment: Deployment
    folder: StackFolder

    is_ours = True
    provides_database = True
    can_back_up = True
    shares_disk = True
    facts: Collection[Fact] = (Fact.SERVICES,)

    def stop(self, service: str) -> None:
        # It is not the supervisor who waits: its own wait doesn't end for a service that somebody
        # started again between two of its looks.
        self._ask_supervisor("stopProcess", service)
        # A large database writes its last checkpoint as long as it takes.
        patience = supervisor.STOP_SECONDS if service == SERVICE_POSTGRES else STOP_SECONDS
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            state = supervisor.states(self.folder).get(service)
            if state is not None and state.state != "STOPPING":
                return
            time.sleep(supervisor.POLL_SECONDS)
        raise self._refused(TimeoutError(f"{service} still runs after {patience:.0f} s"))

    def start(self, service: str) -> None:
        # One that is being stopped, by a command that was killed, is "already started" until it is not.
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            self._ask_supervisor("startProcess", service)  # it tries again by itself
            state = supervisor.states(self.folder).get(service)
            if state is None or state.state not in ("STOPPING", "STOPPED", "EXITED"):
                return
            time.sleep(supervisor.POLL_SECONDS)

    def standby(self) -> None:
        # One port of this machine, and nothing before it that could send clients elsewhere.
        return None

    @contextmanager
    def administrator(self) -> Iterator[DatabaseAccess]:
        yield administrator_access(self.folder, database_of(self.deployment).port)

    def owner(self) -> AbstractContextManager[DatabaseAccess]:
        return owner_access(database_of(self.deployment))

    @contextmanager
    def session(self, role: Role | None = None) -> Iterator[psycopg.Connection[Any]]:
        database = database_of(self.deployment)
        with connection(database.connection(role or database.reader)) as link:
            yield link

    def server_programs(self) -> None:
        """Its programs are those that we bring along: they are found here."""
        return

    def migrations(self, release: Release, report: Report) -> EmbeddedMigrations:
        account = service_account(self.folder, "server")
        found = install(release, cache_folder(), service_python(account), report)
        let_through(account, found.folder)
        return EmbeddedMigrations(self.deployment, self.folder, found)

    def cluster(self) -> LocalCluster:
        return LocalCluster(self)

    def home(self, name: str, program: str, code: str) -> ServerHome:
        return ServerHome(self.folder, f"{name}.py", program, code)

    def ask_server(self, script: str, question: str, seconds: float) -> Finished:
        state = supervisor.states(self.folder).get(SERVICE_SERVER)
        if state is None or not state.running:
            raise not_running()
        job = command(
            *remote_script.arguments(_interpreter(state.pid)),
            environment={"LETTA_OPS_ENVIRONMENT_FILE": str(self.folder.server_environment)},
            directory=Path("/"), stdin=remote_script.stdin(script, question), timeout=seconds,
            secrets=self.deployment.secrets,
        )  # fmt: skip
        return attempt(
            as_account(service_account(self.folder, "server"), job),
            code="timeout",
            hint="look at the server's log: `letta-ops logs letta`",
            what="running a script beside the server",
        )

    def logs(self, wanted: Wanted) -> Iterator[LogLine]:
        from infra.embedded.logs import lines

        return lines(self.folder, wanted, self.deployment.secrets)

    def packages(self) -> Mapping[str, str]:
        return {}

    def running(self) -> Running:
        try:
            states = supervisor.states(self.folder)
        except (OSError, xmlrpc.client.Error) as error:
            raise LettaOpsError(
                "supervisor-failed",
                f"the supervisor can't be asked: {error}",
                f"look at {self.folder.log('supervisord')}",
            ) from None
        server = states.get(SERVICE_SERVER)
        uptime = server.uptime if server is not None and server.running else None
        return Running({name: states[name].state for name in sorted(states)}, uptime)

    def services(self) -> Services:
        """Every service that provisioning gave to the supervisor."""
        self._ensure_readable()
        states = supervisor.states(self.folder)
        wanted = {file.stem for file in self.folder.programs.glob("*.conf")}
        services = tuple(
            Service(name, states[name].state, states[name].uptime)
            if name in states
            else Service(name, "ABSENT", 0.0)
            for name in sorted(wanted | set(states))
        )
        return Services(supervisor.process(self.folder) is not None, services)

    def listeners(self) -> Listeners:
        """The listening sockets of the supervisor and of all that runs below it.

        That includes what agents' tools started. Raises LettaOpsError (`not-running`) when no
        process of the stack runs: then nothing can be said about where it would listen.
        """
        import psutil

        self._ensure_readable()
        processes = supervisor.processes(self.folder)
        if not processes:
            raise LettaOpsError(
                "not-running", "the stack doesn't run", "start it with `letta-ops up`"
            )
        listeners: dict[tuple[str, int], Listener] = {}
        hidden = []
        for process in processes:
            try:
                name = process.name()
                for socket in process.net_connections(kind="tcp"):
                    if socket.status == psutil.CONN_LISTEN:
                        place = (socket.laddr.ip, socket.laddr.port)
                        listeners.setdefault(place, Listener(name, process.pid, *place))
            except psutil.AccessDenied:
                hidden.append(f"{name} ({process.pid})")
            except psutil.NoSuchProcess:
                continue  # ended while we looked: it listens nowhere
        return Listeners(tuple(listeners[place] for place in sorted(listeners)), tuple(hidden))

    def containers(self, *, memory: bool) -> Containers:
        raise LettaOpsError(
            "no-containers", "the stack doesn't run in containers", "look at its services"
        )

    def disk(self) -> DiskSpace:
        usage = shutil.disk_usage(self.folder.root)
        return DiskSpace(self.folder.root, usage.total, usage.free)

    def _ensure_readable(self) -> None:
        services = self.folder.services
        if services.exists() and not os.access(services, os.R_OK | os.X_OK):
            # Without this a stack that runs would look like one that doesn't.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(services))

    def _ask_supervisor(self, call: str, service: str) -> None:
        from supervisor.xmlrpc import Faults

        expected = (Faults.NOT_RUNNING, Faults.ALREADY_STARTED)
        try:
            with supervisor.rpc(self.folder, STOP_SECONDS) as keeper:
                getattr(keeper, call)(service, False)  # whether it waits
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in expected:
                raise self._refused(fault) from None
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> LettaOpsError:
        return LettaOpsError(
            "supervisor-failed",
            f"the server can't be stopped or started: {error}",
            f"bring the stack up first: `letta-ops --stack {self.deployment.stack} up`",
        )


def _interpreter(pid: int) -> str:
    """The interpreter of the server's release, as its process was started."""
    import psutil

    try:
        return psutil.Process(pid).cmdline()[0]
    except (psutil.Error, IndexError):
        raise not_running() from None
