"""One connection to a Postgres, with its failures in words that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError

if TYPE_CHECKING:
    import psycopg

    from infra.stack.deployment import Database, Deployment

CONNECT_SECONDS = 5.0


@contextmanager
def connection(
    settings: Mapping[str, str | int], place: str | None = None, seconds: float = CONNECT_SECONDS
) -> Iterator[psycopg.Connection[Any]]:
    """Yield a psycopg connection in autocommit; raises LettaOpsError (`database-unreachable`).

    `settings` are libpq's keywords; `place` is what people call its host and port; `seconds` is how
    long connecting may take.
    """
    import psycopg

    try:
        link = psycopg.connect(
            **settings,  # type: ignore[arg-type]  # libpq's own words, checked by libpq
            autocommit=True,
            connect_timeout=int(seconds),
            application_name="letta-ops",
            client_encoding="utf8",  # else a database in SQL_ASCII would answer in bytes
        )
    except psycopg.OperationalError as error:
        place = place or f"at {settings['host']}:{settings['port']}"
        reason = str(error).strip().splitlines()[0].rpartition('" failed: ')[2]  # no socket's path
        raise LettaOpsError(
            "database-unreachable",
            f"the database {settings['dbname']} {place} cannot be reached as"
            f" {settings['user']}: {reason}",
            "see whether Postgres runs (`letta-ops check`), and whether the profile's password holds",
        ) from None
    with link:
        yield link


def database_of(deployment: Deployment) -> Database:
    """The deployment's database, as its profile describes it. Raises LettaOpsError (`no-database`)."""
    if deployment.database is not None:
        return deployment.database
    raise LettaOpsError(
        "no-database",
        f"the profile of {deployment.called} names no database",
        "add [database] with host, port, name and a role to the profile (docs/profile.md)",
    )
