"""Do the stack's services run, and who can reach them?"""

from __future__ import annotations

import errno
import ipaddress
import os
from dataclasses import dataclass

from healthchecks.model import Measurement
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.stack.locations import StackFolder


@dataclass(frozen=True)
class Service:
    """One supervised service: supervisord's word for its state, and its uptime in seconds."""

    name: str
    state: str
    uptime: float


@dataclass(frozen=True)
class Services(Measurement):
    """`supervised` is False when the stack's supervisord itself doesn't run."""

    supervised: bool
    services: tuple[Service, ...]


@dataclass(frozen=True)
class Listener:
    """A TCP socket that takes connections, of a process of the stack."""

    process: str
    pid: int
    address: str
    port: int

    @property
    def loopback(self) -> bool:
        address = ipaddress.ip_address(self.address.partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback


@dataclass(frozen=True)
class Listeners(Measurement):
    """`hidden` names the processes whose sockets this user may not see."""

    listeners: tuple[Listener, ...]
    hidden: tuple[str, ...]


def ask_supervisor(deployment: Deployment) -> Services:
    """Ask supervisord for every service that provisioning gave it."""
    from infra.embedded import supervisor

    folder = _folder(deployment)
    states = supervisor.states(folder)
    wanted = {file.stem for file in folder.program("x").parent.glob("*.conf")}
    services = tuple(
        Service(name, states[name].state, states[name].uptime)
        if name in states
        else Service(name, "ABSENT", 0.0)
        for name in sorted(wanted | set(states))
    )
    return Services(supervisor.process(folder) is not None, services)


def find_listeners(deployment: Deployment) -> Listeners:
    """Find the listening sockets of supervisord and of all that runs below it.

    That includes what agents' tools started. Raises LettaOpsError (`not-running`) when no process
    of the stack runs: then nothing can be said about where it would listen.
    """
    import psutil

    from infra.embedded import supervisor

    processes = supervisor.processes(_folder(deployment))
    if not processes:
        raise LettaOpsError("not-running", "the stack doesn't run", "start it with `letta-ops up`")
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


def _folder(deployment: Deployment) -> StackFolder:
    if deployment.folder is None:
        raise LettaOpsError(
            "not-provisioned", "the stack was not provisioned here", "look on its own machine"
        )
    services = deployment.folder.services
    if services.exists() and not os.access(services, os.R_OK | os.X_OK):
        # Without this a stack that runs would look like one that doesn't.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(services))
    return deployment.folder
