"""The database inside the cluster: roles, extension, ownership; made and put right by SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from infra.connect import connection
from infra.deployment import ADMIN_ROLE, DATABASE_NAME, LOOPBACK, OWNER_ROLE, READER_ROLE
from infra.embedded.provider import Properties, Provider
from infra.errors import LettaOpsError
from infra.locations import StackFolder
from infra.sensitive import Sensitive

if TYPE_CHECKING:
    import psycopg


class LettaDatabase(Provider):
    """Inputs: `port`, `owner_password`, `reader_password`.

    The owner owns the database and what Letta makes in it; the reader may read everything and
    write nothing. `remove` leaves both: they are data.
    """

    compared: ClassVar[tuple[str, ...]] = ("port", "owner_password", "reader_password")

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        port = int(inputs["port"])
        owner, reader = (Sensitive(inputs[f"{role}_password"]) for role in ("owner", "reader"))
        with administrator(folder, port, ADMIN_ROLE) as link:
            _role(link, OWNER_ROLE, owner)
            _role(link, READER_ROLE, reader)
            link.execute(f"GRANT pg_read_all_data TO {READER_ROLE}")
            link.execute(f"ALTER ROLE {READER_ROLE} SET default_transaction_read_only = on")
            if not link.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE_NAME]
            ).fetchone():
                link.execute(f"CREATE DATABASE {DATABASE_NAME} OWNER {OWNER_ROLE}")
            for name in (DATABASE_NAME, "postgres", "template1"):
                link.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
            link.execute(f"GRANT CONNECT ON DATABASE {DATABASE_NAME} TO {READER_ROLE}")
        with administrator(folder, port) as link:
            link.execute("CREATE EXTENSION IF NOT EXISTS vector")
        return DATABASE_NAME, {}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        """Log in as both roles: a data folder put back from a copy may know other passwords."""
        port = int(outputs["port"])
        try:
            with administrator(folder, port) as link:
                if not link.execute(
                    "SELECT 1 FROM pg_extension WHERE extname = 'vector'"
                ).fetchone():
                    return "the extension vector is missing"
        except LettaOpsError:
            return None  # Postgres is down, or the database is: its own service says so
        for name, key in ((OWNER_ROLE, "owner_password"), (READER_ROLE, "reader_password")):
            settings: dict[str, str | int] = {
                "host": LOOPBACK,
                "port": port,
                "dbname": DATABASE_NAME,
                "user": name,
                "password": outputs[key],
            }
            try:
                with connection(settings):
                    pass
            except LettaOpsError:
                return f"the role {name} can't log in"
        return None


@contextmanager
def administrator(
    folder: StackFolder, port: int, name: str = DATABASE_NAME
) -> Iterator[psycopg.Connection[Any]]:
    """Yield the administrator's connection: by socket, known by the operating system, no password."""
    with connection(
        {"host": str(folder.sockets), "port": port, "dbname": name, "user": ADMIN_ROLE}
    ) as link:
        yield link


def revision(folder: StackFolder, port: int) -> str | None:
    """Return the alembic revision of Letta's database, or None where it was never migrated."""
    with administrator(folder, port) as link:
        if _value(link, "SELECT to_regclass('alembic_version')::text") is None:
            return None
        found = _value(link, "SELECT version_num FROM alembic_version")
    return None if found is None else str(found)


def _role(link: Any, name: str, password: Sensitive) -> None:
    from psycopg import sql

    exists = link.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    verb = "ALTER" if exists else "CREATE"
    # Utility statements take no parameters: the password is quoted on our side.
    link.execute(
        sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}").format(
            sql.SQL(verb), sql.Identifier(name), sql.Literal(password.reveal())
        )
    )


def _value(link: Any, query: str) -> Any:
    row = link.execute(query).fetchone()
    return None if row is None else row[0]
