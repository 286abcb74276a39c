"""Which container of a stack doesn't work, and why: what Pulumi's words for a failed wait leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.deployment import SERVICE_SERVER
from infra.targets.docker.engine.client import explain, is_well, last_lines, own_containers
from infra.targets.docker.names import LABEL_PREFIX, LABEL_SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from docker import DockerClient
    from docker.models.containers import Container

Failure = Literal["killed", "crashed", "late"]  # for want of memory; again and again; too slow
MEMORY_SETTINGS = {"letta": "server.memory", "postgres": "database.memory"}


def explain_failure(message: str) -> LettaOpsError | None:
    """Turn Pulumi's words into our error; None when they aren't about containers."""
    known = explain(_sentence(message))
    return None if known.code == "engine" else known


def give_up(
    client: DockerClient, failed: Container, failure: Failure, secrets: Iterable[Sensitive]
) -> LettaOpsError:
    """Say why a container isn't well. Servers that would try for ever beside one that serves are
    stopped, all of the failed one's digest: they serve together."""
    explained = _not_healthy(failed, failure, secrets)
    if failed.labels.get(LABEL_SERVICE) == SERVICE_SERVER:
        everyone = own_containers(client, str(failed.labels[LABEL_PREFIX]), SERVICE_SERVER)
        together = [one for one in everyone if _digest(one) == _digest(failed)]
        if any(is_well(one) for one in everyone if one not in together):
            for one in together:
                one.stop(timeout=5)
    return explained


def _digest(server: Container) -> str:
    """Servers are named `...-letta-<digest>-<number>`: those of one digest serve together."""
    return str(server.name).rpartition("-")[0]


def _not_healthy(
    newest: Container, failure: Failure, secrets: Iterable[Sensitive]
) -> LettaOpsError:
    """Say why a container isn't well: out of memory, or its state and the last lines of its log."""
    service = str(newest.labels.get(LABEL_SERVICE, newest.name))
    log = last_lines(str(newest.name), secrets)
    if failure == "killed":
        limit = int(newest.attrs["HostConfig"]["Memory"]) // 1024**2
        setting = MEMORY_SETTINGS.get(service)
        return LettaOpsError(
            "out-of-memory",
            f"{newest.name} was killed: it needs more than its {limit} MiB of memory",
            f"give it more: `letta-ops up --config {setting}=MIB`"
            if setting
            else "free memory on this machine, then run the same command again",
        )
    return LettaOpsError(
        "service-not-healthy",
        f"{newest.name} {_state(newest, failure)}; the last lines of its log:\n{log}",
        "mend the cause, then run the same command again; what served before goes on serving",
    )


def _state(container: Container, failure: Failure) -> str:
    code = container.attrs["State"].get("ExitCode")
    if failure == "crashed":
        return "ends again and again" + (f" (exit code {code})" if code else "")
    if container.status == "running":
        health = container.attrs["State"].get("Health", {}).get("Status")
        return f"runs, but did not become healthy ({health})"
    return f"is {container.status} (exit code {code})"


def _sentence(message: str) -> str:
    """Pulumi's errors come as a list with one entry."""
    lines = [line.strip().lstrip("*").strip() for line in message.splitlines()]
    return " ".join(line for line in lines if line and not line.endswith("occurred:"))
