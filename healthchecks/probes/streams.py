"""Does the server offer streams in the background? It looks for its Redis once, when it starts."""

from __future__ import annotations

from dataclasses import dataclass

from infra.api import authorized_http, unreachable
from infra.servers import is_ours
from infra.stack.deployment import Deployment
from infra.targets.facts import Measurement

# What to come back to is looked for only where there is a Redis; an agent has no such conversation.
PATH = "/v1/conversations/conv-00000000-0000-4000-8000-000000000000/stream"


@dataclass(frozen=True)
class Streams(Measurement):
    """The `status` with which the server answered who came back to a stream that never was."""

    status: int
    is_ours: bool


def come_back(deployment: Deployment) -> Streams:
    """Come back to a stream that never was. Raises LettaOpsError (`server-unreachable`)."""
    import httpx

    try:
        with authorized_http(deployment, 10.0) as client:
            status = client.post(PATH).status_code
    except httpx.HTTPError as error:
        raise unreachable(deployment, str(error) or type(error).__name__) from None
    return Streams(status, is_ours(deployment))
