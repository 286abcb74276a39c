"""The way into a Postgres with the most rights that we have there: an administrator's, or the owner's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.database.connection import connection
from infra.database.tls_relay import tls_relay
from infra.errors import LettaOpsError
from infra.stack.deployment import ADMIN_ROLE, Database

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class DatabaseAccess:
    """How a deployment's Postgres is reached with the most rights that we have there.

    `settings` are libpq's words without `dbname`, password included, and `programs` those for its
    programs, where they differ; `is_superuser` says whether it is the administrator's way, or that of
    a database's owner.
    """

    settings: Mapping[str, str | int]
    is_superuser: bool
    place: str  # in words, for messages
    maintenance: str  # a database that is there whatever happens to the deployment's own
    programs: Mapping[str, str | int] | None = None

    @contextmanager
    def connect(self, name: str) -> Iterator[psycopg.Connection[Any]]:
        """Yield a connection to database `name`, in autocommit; raises like `infra.database.connection`.

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
                "see why in its log (of a stack's own: `letta-ops logs postgres`), then run this again",
            ) from None

    @contextmanager
    def examine(self, name: str) -> Iterator[psycopg.Connection[Any]]:
        """Like `connect`, for a database whose content may be anybody's: plain names are Postgres' own,
        whatever search path was set for it. Else an operator of its owner's would run as us."""
        with self.connect(name) as link:
            # Nor does a policy of somebody else's table: reading from that is an error.
            link.execute("SET search_path = pg_catalog; SET row_security = off")
            yield link

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
    "options": "PGOPTIONS",
}
PATIENCE_SECONDS = 15.0
# Of an administrator's session: what others wrote into a database's event triggers would run with
# all rights.
NO_EVENT_TRIGGERS = "-c event_triggers=off"
FIRST_WITHOUT_EVENT_TRIGGERS = 17  # before, there is no such setting


def through_socket(folder: Path, port: int, place: str, major: str) -> DatabaseAccess:
    """The administrator's way into a Postgres of ours by its socket in `folder`."""
    settings: dict[str, str | int] = {"host": str(folder), "port": port, "user": ADMIN_ROLE}
    if int(major) >= FIRST_WITHOUT_EVENT_TRIGGERS:
        settings["options"] = NO_EVENT_TRIGGERS
    return DatabaseAccess(settings, True, place, ADMIN_ROLE)


@contextmanager
def owner_access(database: Database) -> Iterator[DatabaseAccess]:
    """Yield the way of the database's owner: all that we have in a Postgres that we didn't make.

    It holds for as long as the block; nothing is connected yet.
    """
    settings = database.connection(database.owner)
    name = str(settings.pop("dbname"))
    place = f"at {database.host}:{database.port}"
    if settings["sslmode"] == "disable" or database.host.startswith("/"):
        yield DatabaseAccess(settings, False, place, name)
        return
    with tls_relay(settings) as programs:
        yield DatabaseAccess(settings, False, place, name, programs)


def revision(link: psycopg.Connection[Any]) -> str | None:
    """Return the alembic revision of a database that we made, or None where it was never migrated."""
    if _value(link, "SELECT to_regclass('alembic_version')::text") is None:
        return None
    found = _value(link, "SELECT version_num FROM alembic_version")
    return None if found is None else str(found)


def _value(link: psycopg.Connection[Any], query: str) -> Any:
    row = link.execute(query).fetchone()
    return None if row is None else row[0]
