"""Reaching a deployment: its API and its database. The only places where secrets are revealed to them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.stack.deployment import ADMIN_ROLE, Deployment, Role
from infra.targets.docker.names import POSTGRES_PORT

if TYPE_CHECKING:
    import httpx
    import psycopg
    from letta_client import Letta

CONNECT_SECONDS = 5.0
TUNNEL_SECONDS = 15.0  # a busy engine takes its time to run a command
REQUEST_SECONDS = 120.0


@contextmanager
def api(deployment: Deployment, timeout: float = REQUEST_SECONDS) -> Iterator[Letta]:
    """Yield a Letta client for the deployment; its failures come out as LettaOpsError.

    Raises LettaOpsError: `server-unreachable`, `wrong-password` (401), or `api` with the server's
    own words for any other refusal.
    """
    import httpx
    import letta_client

    password = deployment.server.password
    client = letta_client.Letta(
        base_url=deployment.server.url,
        api_key=password.reveal() if password else "none",
        timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
        max_retries=0,
        http_client=http(deployment, timeout),
    )
    with client:
        try:
            yield client
        except letta_client.AuthenticationError:
            raise wrong_password(deployment) from None
        except letta_client.APITimeoutError:
            raise LettaOpsError(
                "server-timeout",
                f"the server at {deployment.server.url} gave no answer in {timeout:.0f} s",
                "run `letta-ops check`, and look at the server's log",
            ) from None
        except letta_client.APIConnectionError as error:
            raise unreachable(deployment, str(error.__cause__ or error)) from None
        except letta_client.APIStatusError as error:
            raise LettaOpsError(
                "api",
                f"the server answered {error.status_code}: {_detail(error.response)}",
                "correct the request; if it looks right, look at the server's log",
            ) from None


def http(deployment: Deployment, timeout: float = REQUEST_SECONDS) -> httpx.Client:
    """Return a plain HTTP client for the deployment's URL, without any credentials.

    A server on loopback is never reached through a proxy of the environment.
    """
    import httpx

    authority = deployment.server.authority
    local = deployment.server.host in ("127.0.0.1", "localhost", "::1")
    return httpx.Client(
        base_url=deployment.server.url,
        timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
        trust_env=not local,
        verify=True if authority is None else ssl.create_default_context(cafile=str(authority)),
        follow_redirects=True,
    )


def authorized_http(deployment: Deployment, timeout: float = REQUEST_SECONDS) -> httpx.Client:
    """Return a plain HTTP client that sends the server's password, where the profile has one.

    For what must be quick: importing the Letta client alone takes longer than most requests.
    """
    client = http(deployment, timeout)
    if deployment.server.password is not None:
        client.headers["Authorization"] = f"Bearer {deployment.server.password.reveal()}"
    return client


@contextmanager
def database(deployment: Deployment, role: Role | None = None) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection to the deployment's database, as its reader unless told otherwise.

    A database that isn't published is reached from inside its container. Raises LettaOpsError:
    `no-database` when the profile names none, `database-unreachable`, and those of
    `infra.targets.docker.engine.client`.
    """
    found = deployment.database
    if found is None:
        raise no_database(deployment)
    settings = found.connection(role or found.reader)
    opened = connection(settings) if found.container is None else inside(found.container, settings)
    with opened as link:
        yield link


@contextmanager
def administrator_in(container: str, name: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield the administrator's connection to database `name` in `container`: it has no password.

    Whoever may use the engine is administrator. Raises LettaOpsError like `database`.
    """
    from infra.targets.docker.engine.tunnel import VIA_SOCKET

    settings: dict[str, str | int] = {"dbname": name, "user": ADMIN_ROLE}
    with inside(container, settings, VIA_SOCKET) as link:
        yield link


@contextmanager
def inside(
    container: str, settings: dict[str, str | int], command: Sequence[str] | None = None
) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection to the Postgres inside `container`; host, port and TLS don't matter there."""
    from infra.targets.docker.engine.tunnel import VIA_TCP, tunnel

    with tunnel(container, command or VIA_TCP) as folder:
        way = settings | {"host": str(folder), "port": POSTGRES_PORT, "sslmode": "disable"}
        with connection(way, f"in container {container}", TUNNEL_SECONDS) as link:
            yield link


@contextmanager
def connection(
    settings: dict[str, str | int], place: str | None = None, seconds: float = CONNECT_SECONDS
) -> Iterator[psycopg.Connection[Any]]:
    """Yield a psycopg connection in autocommit; raises LettaOpsError (`database-unreachable`).

    `place` is what people call its host and port; `seconds` is how long connecting may take.
    """
    import psycopg

    try:
        link = psycopg.connect(
            **settings,  # type: ignore[arg-type]  # libpq's own words, checked by libpq
            autocommit=True,
            connect_timeout=int(seconds),
            application_name="letta-ops",
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


def no_database(deployment: Deployment) -> LettaOpsError:
    return LettaOpsError(
        "no-database",
        f"the profile of stack '{deployment.stack}' names no database",
        "add [database] with host, port, name and a role to the profile (docs/profile.md)",
    )


def wrong_password(deployment: Deployment) -> LettaOpsError:
    where = deployment.profile or "LETTA_OPS_SERVER_PASSWORD"
    return LettaOpsError(
        "wrong-password",
        f"the server at {deployment.server.url} refuses the password (401)",
        f"correct server.password in {where}, or run `letta-ops up` to write it anew",
    )


def unreachable(deployment: Deployment, reason: str) -> LettaOpsError:
    return LettaOpsError(
        "server-unreachable",
        f"no server answers at {deployment.server.url}: {reason}",
        "start it with `letta-ops up`, or correct server.url in the profile",
    )


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.text[:300]
    return str(body.get("detail", body))[:300] if isinstance(body, dict) else str(body)[:300]
