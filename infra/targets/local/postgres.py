"""The administrator's way to Postgres on this machine: by its socket, known by the operating system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.database.administration import DatabaseAccess, through_socket
from infra.database.connection import connection
from infra.embedded.binaries import MAJOR
from infra.embedded.cluster import major_of
from infra.stack.deployment import DATABASE_NAME, LOOPBACK, Role
from infra.stack.locations import StackFolder

if TYPE_CHECKING:
    import psycopg


def administrator_access(folder: StackFolder, port: int) -> DatabaseAccess:
    major = major_of(folder.postgres_data) or MAJOR
    return through_socket(folder.sockets, port, f"at {LOOPBACK}:{port}", major)


@contextmanager
def administrator(
    folder: StackFolder, port: int, name: str = DATABASE_NAME
) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection to database `name`. Raises LettaOpsError (`database-unreachable`)."""
    with administrator_access(folder, port).connect(name) as link:
        yield link


@contextmanager
def logged_in(port: int, role: Role) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection as `role`, with its password, as the server itself would connect."""
    settings: dict[str, str | int] = {
        "host": LOOPBACK,
        "port": port,
        "dbname": DATABASE_NAME,
        "user": role.name,
    }
    if role.password is not None:
        settings["password"] = role.password.reveal()
    with connection(settings) as link:
        yield link
