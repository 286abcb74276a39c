"""A container that runs, within its limit of processes: what Pulumi's docker resources don't see to.

They have no input for that limit, and they don't notice that somebody stopped a container. (With
`mustRun` they do, and then their refresh removes it, even in a preview.)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import LettaOpsError
from infra.stack.locations import StackFolder
from infra.targets.docker.engine.client import engine, find_container, is_well
from infra.targets.docker.failure import not_healthy
from infra.targets.providers.provider import Properties, Provider

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container


class RunningContainer(Provider):
    """Inputs: `container` (name), `container_id`, `limit`, `seconds` (to become healthy; 0: don't
    wait).
    """

    compared: ClassVar[tuple[str, ...]] = ("container", "container_id", "limit")

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        with engine() as client:
            found = _existing(client, inputs["container"])
            _limit(client, inputs)
            if found.status != "running":
                found.start()
                _wait(found, int(inputs["seconds"]))
        return inputs["container"], {}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        with engine() as client:
            found = find_container(client, outputs["container"])
        if found is None:
            return None  # the container's own resource says so, when Pulumi refreshes
        if found.status != "running":
            return f"it is {found.status}"
        limit: Any = found.attrs["HostConfig"].get("PidsLimit")
        return None if limit == int(outputs["limit"]) else f"its limit of processes is {limit}"


def _limit(client: DockerClient, inputs: Properties) -> None:
    # docker-py's update_container has no word for it; the engine has since API 1.40.
    session: Any = client.api
    url = f"{session.base_url}/v{session.api_version}/containers/{inputs['container']}/update"
    answer = session.post(url, json={"PidsLimit": int(inputs["limit"])})
    answer.raise_for_status()


def _existing(client: DockerClient, name: str) -> Container:
    found = find_container(client, name)
    if found is None:
        raise LettaOpsError(
            "container-missing",
            f"the container {name} is gone",
            "run `letta-ops up`, which looks at the engine first (or `pulumi up --refresh`)",
        )
    return found


def _wait(container: Container, seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        container.reload()
        if is_well(container):
            return
        time.sleep(0.5)
    if seconds:
        raise not_healthy(container, ())
