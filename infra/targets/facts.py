"""What can be seen of a deployment where it runs, as plain data: checks judge it, nothing here does."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass
from pathlib import Path


class Fact(enum.Enum):
    """What not every target can be asked for."""

    SERVICES = enum.auto()  # supervised processes, and on what they listen
    CONTAINERS = enum.auto()


@dataclass(frozen=True)
class Measurement:
    """What a probe saw, as plain data: a rule judges it without touching the deployment."""


@dataclass(frozen=True)
class Running:
    """The services in their keeper's own words, by name, and the server's uptime in seconds.

    Of several servers, the uptime of the one that started last; None where none runs. `engine`: the
    address of the container engine that keeps them.
    """

    services: dict[str, str]
    uptime: float | None
    engine: str | None = None


@dataclass(frozen=True)
class Service:
    """One supervised service: its supervisor's word for its state, and its uptime in seconds."""

    name: str
    state: str
    uptime: float


@dataclass(frozen=True)
class Services(Measurement):
    """`supervised` is False when the stack's supervisor itself doesn't run."""

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


@dataclass(frozen=True)
class DiskSpace(Measurement):
    """Bytes of the file system that holds `folder`; `free` is what this user may still use."""

    folder: Path
    total: int
    free: int
    container: str | None = None  # the one that sees it so
