"""The administrator's way into a stack's Postgres, wherever it runs; never by a password of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.connect import administrator_in, connection, inside
from infra.deployment import (
    ADMIN_ROLE,
    DATABASE_NAME,
    LOOPBACK,
    Role,
    database_from_url,
)
from infra.locations import StackFolder
from infra.sensitive import Sensitive

if TYPE_CHECKING:
    import psycopg


@contextmanager
def administrator(
    folder: StackFolder, place: Mapping[str, Any], name: str = DATABASE_NAME
) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection that may change everything of Letta's in database `name`.

    `place` says where the database is: `port` (of this machine: by socket, known by the operating
    system), `container` (by the socket inside of it), or `uri` (one that we didn't provision: its
    own role, `name` is not looked at). Raises LettaOpsError (`database-unreachable`).
    """
    if place.get("uri"):
        database = database_from_url(Sensitive(place["uri"]))
        with connection(database.connection(database.owner)) as link:
            yield link
    elif place.get("container"):
        with administrator_in(place["container"], name) as link:
            yield link
    else:
        settings: dict[str, str | int] = {
            "host": str(folder.sockets),
            "port": int(place["port"]),
            "dbname": name,
            "user": ADMIN_ROLE,
        }
        with connection(settings) as link:
            yield link


@contextmanager
def logged_in(place: Mapping[str, Any], role: Role) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection as `role`, with its password, as the server itself would connect."""
    settings: dict[str, str | int] = {"dbname": DATABASE_NAME, "user": role.name}
    if role.password is not None:
        settings["password"] = role.password.reveal()
    if place.get("container"):
        with inside(place["container"], settings) as link:
            yield link
    else:
        with connection({**settings, "host": LOOPBACK, "port": int(place["port"])}) as link:
            yield link


def location(place: Mapping[str, Any]) -> dict[str, Any]:
    """Of a resource's inputs those that say where the database is."""
    return {name: place[name] for name in ("port", "container", "uri") if place.get(name)}


def revision(folder: StackFolder, place: Mapping[str, Any]) -> str | None:
    """Return the alembic revision of Letta's database, or None where it was never migrated."""
    with administrator(folder, place) as link:
        if _value(link, "SELECT to_regclass('alembic_version')::text") is None:
            return None
        found = _value(link, "SELECT version_num FROM alembic_version")
    return None if found is None else str(found)


def _value(link: Any, query: str) -> Any:
    row = link.execute(query).fetchone()
    return None if row is None else row[0]
