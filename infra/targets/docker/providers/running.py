"""A container that runs, within its limit of processes: what Pulumi's docker resources don't see to.

They have no input for that limit, and they don't notice that somebody stopped a container. (With
`mustRun` they do, and then their refresh removes it, even in a preview.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.targets.docker.engine.client import engine, find_container, is_well
from infra.targets.docker.failure import Failure, give_up
from infra.targets.providers.provider import Properties, Provider

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container


# Of the processor, where nobody says otherwise. The engine can't be asked for none, and on some of
# them 1024 is less than that: so it is asked for only where somebody else has changed it.
SHARES = 1024
UNCHANGED = (None, 0, SHARES)
CRASHES = 2  # it would go on as it began


class RunningContainer(Provider):
    """Inputs: `container` (name), `container_id`, `networks` that it is in, `alias` (on
    the first of them), `limit`, `seconds` (to
    become healthy; 0: don't wait), `secrets` (values, for redaction).
    """

    compared: ClassVar[tuple[str, ...]] = ("container", "container_id", "networks", "limit")

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        with engine() as client:
            found = _existing(client, inputs["container"])
            _limit(client, found, inputs)
            for network in _missing(found, inputs):
                alias = inputs["alias"] if network == inputs["networks"][0] else ""
                client.networks.get(network).connect(found, aliases=[alias] if alias else None)
            if found.status == "paused":
                found.unpause()
            elif found.status != "running":
                found.start()
            seconds = int(inputs["seconds"])
            failure = _wait(found, seconds) if seconds else ""
            if failure:
                secrets = [Sensitive(value) for value in inputs.get("secrets") or []]
                raise give_up(client, found, failure, secrets)
        return inputs["container"], {}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        with engine() as client:
            found = find_container(client, outputs["container"])
        if found is None:
            return None  # the container's own resource says so, when Pulumi refreshes
        if found.status != "running":
            return f"it is {found.status}"
        if missing := _missing(found, outputs):
            return f"it is not in {', '.join(missing)}"
        limit: Any = found.attrs["HostConfig"].get("PidsLimit")
        if limit != int(outputs["limit"]):
            return f"its limit of processes is {limit}"
        shares = found.attrs["HostConfig"].get("CpuShares")
        if shares not in UNCHANGED:
            return f"its share of the processor is {shares} of {SHARES}"
        waits = int(outputs.get("seconds") or 0) > 0
        return "it is not healthy" if waits and not is_well(found) else None


def _missing(container: Container, properties: Properties) -> list[str]:
    """The networks that it was disconnected from."""
    there: Mapping[str, Any] = container.attrs["NetworkSettings"]["Networks"]
    ids = [str(each.get("NetworkID")) for each in there.values()]
    wanted = properties.get("networks") or []
    return [
        network
        for network in wanted
        if network not in there and not any(each.startswith(network) for each in ids)
    ]


def _limit(client: DockerClient, found: Container, inputs: Properties) -> None:
    # docker-py's update_container has no word for it; the engine has since API 1.40.
    session: Any = client.api
    url = f"{session.base_url}/v{session.api_version}/containers/{inputs['container']}/update"
    wanted = {"PidsLimit": int(inputs["limit"])}
    if found.attrs["HostConfig"].get("CpuShares") not in UNCHANGED:
        wanted["CpuShares"] = SHARES
    answer = session.post(url, json=wanted)
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


def _wait(container: Container, seconds: int) -> Failure | Literal[""]:
    """Wait until it is well, but not for one that ends again and again."""
    deadline = time.monotonic() + seconds
    container.reload()
    before = container.attrs["RestartCount"]
    # Of an earlier life, which the engine doesn't forget when it starts the container again.
    known = container.status == "running" and container.attrs["State"].get("OOMKilled")
    while not is_well(container):
        crashes = container.attrs["RestartCount"] - before
        if container.attrs["State"].get("OOMKilled") and (crashes or not known):
            return "killed"
        if crashes >= CRASHES:
            return "crashed"
        if time.monotonic() > deadline:
            return "late"
        time.sleep(0.5)
        container.reload()
    return ""
