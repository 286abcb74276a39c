"""The database inside the cluster: roles, extension, ownership; made and put right by SQL."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from infra.database.claim import claim
from infra.database.facts import find_pgvector
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.deployment import ADMIN_ROLE, DATABASE_NAME, OWNER_ROLE, READER_ROLE, Role
from infra.stack.locations import StackFolder
from infra.targets.providers.provider import Properties, Provider

if TYPE_CHECKING:
    import psycopg


class DatabaseProvider(Provider):
    """Inputs: where it is (a target's own), `owner_password`, `reader_password`,
    `deployment_id` (refused when the database belongs to another).

    The owner owns the database and what Letta makes in it; the reader may read everything and
    write nothing. `remove` leaves both: they are data.
    """

    kind: ClassVar[str] = "LettaDatabase"
    compared: ClassVar[tuple[str, ...]] = ("owner_password", "reader_password", "deployment_id")

    @abstractmethod
    def administrator(
        self, folder: StackFolder, inputs: Properties, name: str
    ) -> AbstractContextManager[psycopg.Connection[Any]]:
        """The administrator's connection to database `name`."""

    @abstractmethod
    def logged_in(
        self, inputs: Properties, role: Role
    ) -> AbstractContextManager[psycopg.Connection[Any]]:
        """A connection as `role`, as the server itself would connect."""

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        owner, reader = (Sensitive(inputs[f"{role}_password"]) for role in ("owner", "reader"))
        with self.administrator(folder, inputs, ADMIN_ROLE) as link:
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
        with self.administrator(folder, inputs, DATABASE_NAME) as link:
            link.execute("CREATE EXTENSION IF NOT EXISTS vector")
            claim(link, inputs["deployment_id"])
        return DATABASE_NAME, {}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        """Log in as both roles: a data folder put back from a copy may know other passwords."""
        try:
            with self.administrator(folder, outputs, DATABASE_NAME) as link:
                if find_pgvector(link) is None:
                    return "the extension vector is missing"
        except LettaOpsError:
            return None  # Postgres is down, or the database is: its own service says so
        for name, key in ((OWNER_ROLE, "owner_password"), (READER_ROLE, "reader_password")):
            try:
                with self.logged_in(outputs, Role(name, Sensitive(outputs[key]))):
                    pass
            except LettaOpsError:
                return f"the role {name} can't log in"
        return None


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
