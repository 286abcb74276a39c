"""Facts that the server and the database tell about themselves, never read from configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.api import HEALTH_PATH, authorized_http, http, unreachable, wrong_password
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.targets import host

if TYPE_CHECKING:
    import psycopg

COUNT_PATH = "/v1/agents/count"  # the cheapest request that the server can't answer by itself
STATEMENT_SECONDS = 10


def server_version(deployment: Deployment, timeout: float = 10.0) -> str:
    """Return the version that the server itself names; it needs no password for that.

    Raises LettaOpsError: `server-unreachable`, `server-timeout`, or `not-letta` when something else
    answers there.
    """
    answer = request(deployment, HEALTH_PATH, timeout=timeout, authorized=False)
    if not isinstance(answer, dict) or "version" not in answer:
        raise _not_letta(deployment)
    return str(answer["version"])


def running_version(deployment: Deployment) -> str:
    """Return the version that the server names; while it's down, the one in the profile.

    Raises LettaOpsError like `server_version` where the profile names none.
    """
    try:
        return server_version(deployment)
    except LettaOpsError:
        if deployment.release is None:
            raise
        return deployment.release


def agents_by_api(deployment: Deployment) -> int:
    """Let the server count its agents; that takes its password and its database.

    Raises LettaOpsError like `request`.
    """
    answer = request(deployment, COUNT_PATH)
    if not isinstance(answer, int):
        raise _not_letta(deployment)
    return answer


def request(
    deployment: Deployment, path: str, *, timeout: float = 10.0, authorized: bool = True
) -> Any:
    """GET `path` and return its JSON.

    Raises LettaOpsError: `server-unreachable`, `server-timeout`, `wrong-password`, `not-letta`, or
    `api` for any other refusal.
    """
    import httpx

    opened = authorized_http if authorized else http
    try:
        with opened(deployment, timeout) as client:
            response = client.get(path)
    except httpx.ReadTimeout:
        raise LettaOpsError(
            "server-timeout",
            f"the server at {deployment.server.url} gave no answer in {timeout:.0f} s",
            "look at the server's log, and whether its database answers",
        ) from None
    except httpx.HTTPError as error:
        raise unreachable(deployment, str(error) or type(error).__name__) from None
    if response.status_code == 401:
        raise wrong_password(deployment)
    if response.status_code >= 400:
        raise LettaOpsError(
            "api",
            f"the server answered {response.status_code} to GET {path}: {response.text[:300]}",
            "look at the server's log",
        )
    try:
        return response.json()
    except ValueError:
        raise _not_letta(deployment) from None


@contextmanager
def reading(deployment: Deployment) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection of the reader on which no statement takes longer than some seconds.

    Raises LettaOpsError: `no-database`, `database-unreachable`, or `database-refused` when the role
    may not read, or the database stops answering.
    """
    import psycopg

    with host(deployment).session() as link:
        try:
            link.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")
            yield link
        except psycopg.Error as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise LettaOpsError(
                "database-refused",
                f"the database {link.info.dbname} can't be read as {link.info.user}: {reason}",
                "let the role read Letta's tables (GRANT pg_read_all_data), and see Postgres' log",
            ) from None


def count_agents(link: psycopg.Connection[Any], schema: str) -> int:
    """Count the agents in the Letta tables of `schema`, of all organizations."""
    from psycopg import sql

    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, "agents"))
    row = link.execute(query).fetchone()
    return int(row[0]) if row else 0


def _not_letta(deployment: Deployment) -> LettaOpsError:
    return LettaOpsError(
        "not-letta",
        f"what answers at {deployment.server.url} is no Letta server",
        "correct server.url in the profile, or see which program has that port",
    )
