"""Stopping and starting a deployment's Letta server, and nothing else of it, on every target."""

from __future__ import annotations

import time
import xmlrpc.client

from infra.connect import http
from infra.embedded import supervisor
from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_SERVER, Deployment

START_SECONDS = 240.0
STOP_SECONDS = 60
POLL_SECONDS = 0.3
HEALTH = "/v1/health/"


def stop_server(deployment: Deployment) -> None:
    """Stop every server of the deployment; one that is stopped stays so.

    Raises LettaOpsError: `server-runs` for one that we didn't provision and that still answers.
    """
    if deployment.containers is not None:
        from infra.targets.docker.engine.client import engine, own_containers

        with engine(STOP_SECONDS * 2) as client:
            for each in own_containers(client, deployment.containers.prefix, SERVICE_SERVER):
                each.stop(timeout=STOP_SECONDS)
    elif _is_here(deployment):
        _ask(deployment, "stopProcess", True)
    else:
        ensure_can_stop(deployment)


def start_server(deployment: Deployment) -> None:
    """Start every server of the deployment, and wait until it answers.

    Raises LettaOpsError (`server-not-started`). One that isn't ours is left to its owner.
    """
    if deployment.containers is not None:
        from infra.targets.docker.engine.client import engine, own_containers

        with engine(STOP_SECONDS) as client:
            for each in own_containers(client, deployment.containers.prefix, SERVICE_SERVER):
                each.start()
    elif _is_here(deployment):
        _ask(deployment, "startProcess", False)  # supervisord tries again; we ask the server below
    else:
        return
    deadline = time.monotonic() + START_SECONDS
    while not answers(deployment):
        if time.monotonic() > deadline:
            raise LettaOpsError(
                "server-not-started",
                f"the server did not answer {START_SECONDS:.0f} s after it was started",
                "see why: `letta-ops logs letta`",
            )
        time.sleep(POLL_SECONDS)


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
    return deployment.containers is not None or _is_here(deployment)


def answers(deployment: Deployment) -> bool:
    """Whether a server answers at the deployment's URL."""
    import httpx

    try:
        with http(deployment, 10.0) as client:
            return client.get(HEALTH).status_code == 200
    except httpx.HTTPError:
        return False


def _is_here(deployment: Deployment) -> bool:
    folder = deployment.folder
    return deployment.target == "local" and folder is not None and folder.root.is_dir()


def _ask(deployment: Deployment, call: str, wait: bool) -> None:
    from supervisor.xmlrpc import Faults

    folder = deployment.folder
    assert folder is not None  # noqa: S101  # see `_is_here`
    expected = (Faults.NOT_RUNNING, Faults.ALREADY_STARTED)
    try:
        with supervisor.rpc(folder, STOP_SECONDS * 2) as keeper:
            getattr(keeper, call)(SERVICE_SERVER, wait)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode in expected:
            return
        raise _refused(deployment, fault) from None
    except OSError as error:
        raise _refused(deployment, error) from None


def _refused(deployment: Deployment, error: Exception) -> LettaOpsError:
    return LettaOpsError(
        "supervisor-failed",
        f"the server can't be stopped or started: {error}",
        f"bring the stack up first: `letta-ops --stack {deployment.stack} up`",
    )
