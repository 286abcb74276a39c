"""Does the API answer, down to its database?"""

from __future__ import annotations

import time
from dataclasses import dataclass

from healthchecks.facts import agents_by_api, server_version
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.targets.facts import Measurement


@dataclass(frozen=True)
class ApiAnswer(Measurement):
    """How the API answered: `version` from its health page; `seconds` of a request that reads the
    database. `error` is the first thing that went wrong, if anything did.
    """

    url: str
    version: str | None = None
    seconds: float = 0.0
    agents: int | None = None
    error: LettaOpsError | None = None


def ask_api(deployment: Deployment) -> ApiAnswer:
    """Ask for the health page, then for something that needs the password and the database."""
    url, version = deployment.server.url, None
    try:
        version = server_version(deployment)
        started = time.monotonic()
        agents = agents_by_api(deployment)
        return ApiAnswer(url, version, time.monotonic() - started, agents)
    except LettaOpsError as error:
        return ApiAnswer(url, version, error=error)
