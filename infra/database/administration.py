"""The administrator's way into a stack's Postgres, wherever it runs; never by a password of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.connect import administrator_in, connection, inside, no_database
from infra.database.tls_relay import tls_relay
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.deployment import (
    ADMIN_ROLE,
    DATABASE_NAME,
    LOOPBACK,
    Deployment,
    Role,
    database_from_url,
)
from infra.stack.locations import StackFolder
from infra.targets.docker.engine.tunnel import VIA_SOCKET, tunnel
from infra.targets.docker.names import POSTGRES_PORT

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


@dataclass(frozen=True)
class Way:
    """How a deployment's Postgres is reached with the most rights that we have there.

    `settings` are libpq's words without `dbname`, password included, and `programs` those for its
    programs, where they differ; `all_rights` says whether it is the administrator's way, or that of
    a database's owner.
    """

    settings: Mapping[str, str | int]
    all_rights: bool
    place: str  # in words, for messages
    maintenance: str  # a database that is there whatever happens to the deployment's own
    programs: Mapping[str, str | int] | None = None

    @contextmanager
    def connect(self, name: str) -> Iterator[psycopg.Connection[Any]]:
        """Yield a connection to database `name`, in autocommit; raises like `infra.connect`.

        A Postgres that goes away meanwhile is a LettaOpsError (`database-lost`).
        """
        import psycopg

        try:
            with connection(
                {**self.settings, "dbname": name}, self.place, PATIENCE_SECONDS
            ) as link:
                yield link
        except psycopg.OperationalError as error:
            if error.sqlstate is not None and not isinstance(error, _ended_by_server()):
                raise
            raise LettaOpsError(
                "database-lost",
                f"Postgres {self.place} went away in the middle: {str(error).strip().splitlines()[0]}",
                "see why with `letta-ops logs postgres`, then run this again",
            ) from None

    def environment(self, name: str) -> dict[str, str]:
        """What libpq's programs read from their environment to get there: a secret is among it."""
        given = {**(self.programs or self.settings), "dbname": name}
        known = {LIBPQ[word]: str(value) for word, value in given.items()}
        return {**known, "PGCONNECT_TIMEOUT": str(int(PATIENCE_SECONDS))}


def _ended_by_server() -> tuple[type[Exception], ...]:
    from psycopg import errors

    return errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow


LIBPQ = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}
PATIENCE_SECONDS = 15.0


@contextmanager
def way_in(deployment: Deployment) -> Iterator[Way]:
    """Yield the way to the deployment's Postgres: the administrator's where we provisioned it.

    It holds for as long as the block. Raises LettaOpsError (`no-database`) and those of
    `infra.targets.docker.engine.tunnel`; nothing else is connected yet.
    """
    database = deployment.database
    if database is None:
        raise no_database(deployment)
    folder = deployment.folder
    here: dict[str, str | int]
    if database.container is not None:
        with tunnel(database.container, VIA_SOCKET) as sockets:
            here = {"host": str(sockets), "port": POSTGRES_PORT, "user": ADMIN_ROLE}
            yield Way(here, True, f"in container {database.container}", ADMIN_ROLE)
    elif deployment.target == "local" and folder is not None and folder.root.is_dir():
        here = {"host": str(folder.sockets), "port": database.port, "user": ADMIN_ROLE}
        yield Way(here, True, f"at {database.host}:{database.port}", ADMIN_ROLE)
    else:
        settings = database.connection(database.owner)
        name = str(settings.pop("dbname"))
        place = f"at {database.host}:{database.port}"
        if settings["sslmode"] == "disable" or database.host.startswith("/"):
            yield Way(settings, False, place, name)
            return
        with tls_relay(settings) as programs:
            yield Way(settings, False, place, name, programs)
