"""Is authentication really on? Asked from the outside, as a stranger would."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from infra.api import http, unreachable
from infra.stack.deployment import Deployment
from infra.targets.facts import Measurement

# A body without its required fields: an open server refuses it with 422 before it runs anything,
# a closed one never looks at it.
ATTEMPTS: tuple[tuple[str, str, dict[str, str] | None], ...] = (
    ("GET", "/v1/agents/?limit=1", None),
    ("POST", "/v1/tools/run", {}),
)


@dataclass(frozen=True)
class Attempt:
    """One request of a stranger: with what `token` ("no", "a wrong"), and the status it got."""

    method: str
    path: str
    token: str
    status: int


@dataclass(frozen=True)
class Strangers(Measurement):
    attempts: tuple[Attempt, ...]


def try_as_stranger(deployment: Deployment) -> Strangers:
    """Try both paths without a token and with a wrong one. No code runs, whatever the answer.

    Raises LettaOpsError (`server-unreachable`) when the server doesn't answer all of them.
    """
    import httpx

    headers = {"no": {}, "a wrong": {"Authorization": f"Bearer {secrets.token_urlsafe(16)}"}}
    seen = []
    try:
        with http(deployment, timeout=10.0) as client:
            for method, path, body in ATTEMPTS:
                for token, header in headers.items():
                    response = client.request(method, path, json=body, headers=header)
                    plain = path.partition("?")[0]
                    seen.append(Attempt(method, plain, token, response.status_code))
    except httpx.HTTPError as error:
        raise unreachable(deployment, str(error) or type(error).__name__) from None
    return Strangers(tuple(seen))
