"""Stopping and starting a deployment's Letta server, and nothing else of it."""

from __future__ import annotations

import time

from infra.api import answers
from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_SERVER, Deployment
from infra.targets import host
from infra.targets.target import Standby

START_SECONDS = 240.0
POLL_SECONDS = 0.3


def stop_server(deployment: Deployment) -> None:
    """Stop every server of the deployment; one that is stopped stays so.

    Raises LettaOpsError: `server-runs` for one that we didn't provision and that still answers.
    """
    if is_ours(deployment):
        host(deployment).stop(SERVICE_SERVER)
    else:
        ensure_can_stop(deployment)


def start_server(deployment: Deployment, *, wait: bool = True) -> None:
    """Start every server of the deployment, and `wait` until it answers.

    Raises LettaOpsError (`server-not-started`). One that isn't ours is left to its owner.
    """
    if not is_ours(deployment):
        return
    if not wait:
        host(deployment).start(SERVICE_SERVER)
        return
    deadline = time.monotonic() + START_SECONDS
    # Again and again: while a command that was killed is still stopping it, it counts as started.
    while not _started(deployment):
        if time.monotonic() > deadline:
            raise LettaOpsError(
                "server-not-started",
                f"the server did not answer {START_SECONDS:.0f} s after it was started",
                "see why: `letta-ops logs letta`",
            )
        time.sleep(POLL_SECONDS)


def _started(deployment: Deployment) -> bool:
    host(deployment).start(SERVICE_SERVER)
    return answers(deployment)


def standby_of(deployment: Deployment) -> Standby | None:
    """What can serve while the deployment's servers are stopped and started; None where nothing can."""
    return host(deployment).standby() if is_ours(deployment) else None


def remove_standby(deployment: Deployment, patience: int = 0) -> None:
    """End what a command has let serve in the servers' place; requests that it has at hand are given as
    many seconds. Nothing happens where there is none."""
    if (found := standby_of(deployment)) is not None:
        found.remove(patience)


def ensure_can_stop(deployment: Deployment) -> None:
    """Raise LettaOpsError (`server-runs`) for a server that runs and isn't ours."""
    if not is_ours(deployment) and answers(deployment):
        raise LettaOpsError(
            "server-runs",
            f"the server at {deployment.server.url} runs, and is not ours to stop",
            "stop it, then run this again; it is yours to start afterwards",
        )


def is_ours(deployment: Deployment) -> bool:
    """Whether we stop and start the server; else that is for whoever made it."""
    return host(deployment).is_ours
