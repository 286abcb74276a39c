"""Reaching a deployment's API: a Letta client, and plain HTTP for what must be quick."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from infra.errors import LettaOpsError
from infra.stack.deployment import THIS_MACHINE, Deployment, Server

if TYPE_CHECKING:
    import httpx
    from letta_client import Letta

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 120.0
HEALTH_PATH = "/v1/health/"  # needs no password, and doesn't look at the database


@contextmanager
def api(
    deployment: Deployment, timeout: float = REQUEST_SECONDS, over: httpx.Client | None = None
) -> Iterator[Letta]:
    """Yield a Letta client for the deployment; its failures come out as LettaOpsError.

    `over` is an HTTP client (`http`) that stays open, for many in a row: making one takes 25 ms.

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
        http_client=http(deployment, timeout) if over is None else over,
    )
    with client if over is None else nullcontext():
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

    local = deployment.server.host in THIS_MACHINE
    return httpx.Client(
        base_url=deployment.server.url,
        timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
        trust_env=not local,
        verify=_trust(deployment.server),
        follow_redirects=True,
    )


def _trust(server: Server) -> ssl.SSLContext | bool:
    if server.authority is not None:
        return ssl.create_default_context(cafile=str(server.authority))
    if server.host in THIS_MACHINE and server.url.startswith("http:"):
        # It trusts nobody, and is asked about nobody: to read the usual authorities takes 25 ms.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return True


def authorized_http(deployment: Deployment, timeout: float = REQUEST_SECONDS) -> httpx.Client:
    """Return a plain HTTP client that sends the server's password, where the profile has one.

    For what must be quick: importing the Letta client alone takes longer than most requests.
    """
    client = http(deployment, timeout)
    if deployment.server.password is not None:
        client.headers["Authorization"] = f"Bearer {deployment.server.password.reveal()}"
    return client


def answers(deployment: Deployment) -> bool:
    """Whether a server answers at the deployment's URL."""
    import httpx

    try:
        with http(deployment, 10.0) as client:
            return client.get(HEALTH_PATH).status_code == 200
    except httpx.HTTPError:
        return False


def wrong_password(deployment: Deployment) -> LettaOpsError:
    where = deployment.profile or "LETTA_OPS_SERVER_PASSWORD"
    again = ", or run `letta-ops up` to write it anew" if deployment.folder is not None else ""
    return LettaOpsError(
        "wrong-password",
        f"wrong password: the server at {deployment.server.url} refuses it (401)",
        f"correct server.password in {where}{again}",
    )


def unreachable(deployment: Deployment, reason: str) -> LettaOpsError:
    return LettaOpsError(
        "server-unreachable",
        f"no server answers at {deployment.server.url}: {reason}",
        "start it with `letta-ops up`, or correct server.url in the profile"
        if deployment.folder is not None
        else f"start it, or correct server.url in {deployment.profile or 'LETTA_OPS_SERVER_URL'}",
    )


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.text[:300]
    return str(body.get("detail", body))[:300] if isinstance(body, dict) else str(body)[:300]
