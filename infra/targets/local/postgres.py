"""The administrator's way to Postgres on this machine: by its socket, known by the operating system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.database.administration import NO_EVENT_TRIGGERS, DatabaseAccess
from infra.database.connection import connection
from infra.stack.deployment import ADMIN_ROLE, DATABASE_NAME, LOOPBACK, Role
from infra.stack.locations import StackFolder

if TYPE_CHECKING:
    import psycopg


def administrator_access(folder: StackFolder, port: int) -> DatabaseAccess:
    settings: dict[str, str | int] = {
        "host": str(folder.sockets), "port": port, "user": ADMIN_ROLE, "options": NO_EVENT_TRIGGERS,
    }  # fmt: skip
    return DatabaseAccess(settings, True, f"at {LOOPBACK}:{port}", ADMIN_ROLE)


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
