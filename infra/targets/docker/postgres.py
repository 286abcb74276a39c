"""Ways to the Postgres of a docker stack: unpublished in its container, or external by its URL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.database.administration import NO_EVENT_TRIGGERS, DatabaseAccess
from infra.database.connection import connection
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.deployment import (
    ADMIN_ROLE,
    DATABASE_NAME,
    POSTGRES_PORT,
    Database,
    Role,
)
from infra.targets.docker.engine.tunnel import VIA_SOCKET, VIA_TCP, tunnel
from infra.targets.external_database.preflight import owner_session

if TYPE_CHECKING:
    import psycopg

TUNNEL_SECONDS = 15.0  # a busy engine takes its time to run a command


@contextmanager
def administrator_access(container: str) -> Iterator[DatabaseAccess]:
    """Yield the administrator's way into `container`: whoever may use the engine is one."""
    with tunnel(container, VIA_SOCKET) as sockets:
        settings: dict[str, str | int] = {
            "host": str(sockets),
            "port": POSTGRES_PORT,
            "user": ADMIN_ROLE,
            "options": NO_EVENT_TRIGGERS,
        }
        yield DatabaseAccess(settings, True, f"in container {container}", ADMIN_ROLE)


@contextmanager
def owner_inside(container: str, database: Database) -> Iterator[DatabaseAccess]:
    """Yield the way of the database's owner into `container`, with its password."""
    with tunnel(container, VIA_TCP) as sockets:
        settings = {**database.connection(database.owner), "host": str(sockets)}
        settings |= {"port": POSTGRES_PORT, "sslmode": "disable"}
        name = str(settings.pop("dbname"))
        yield DatabaseAccess(settings, False, f"in container {container}", name)


@contextmanager
def administrator(
    place: Mapping[str, Any], name: str = DATABASE_NAME
) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection that may change everything of Letta's in database `name`.

    `place` has `container`, or the `uri` of an external database: its own role then, and `name` is
    not looked at. Raises LettaOpsError (`database-unreachable`).
    """
    if place.get("uri"):
        with owner_session(Sensitive(place["uri"])) as link:
            yield link
        return
    if not place.get("container"):  # the state of a local stack of before, refreshed by hand
        raise LettaOpsError(
            "database-unreachable",
            "Pulumi's state does not say in which container the database is",
            "run `letta-ops up`, which writes it anew",
        )
    with administrator_access(place["container"]) as access, access.connect(name) as link:
        yield link


@contextmanager
def logged_in(container: str, role: Role) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection as `role`, with its password, as the server itself would connect."""
    settings: dict[str, str | int] = {"dbname": DATABASE_NAME, "user": role.name}
    if role.password is not None:
        settings["password"] = role.password.reveal()
    with inside(container, settings) as link:
        yield link


@contextmanager
def inside(
    container: str, settings: Mapping[str, str | int], command: Sequence[str] = VIA_TCP
) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection to the Postgres inside `container`; host, port and TLS don't matter there."""
    with tunnel(container, command) as folder:
        access = {**settings, "host": str(folder), "port": POSTGRES_PORT, "sslmode": "disable"}
        with connection(access, f"in container {container}", TUNNEL_SECONDS) as link:
            yield link
