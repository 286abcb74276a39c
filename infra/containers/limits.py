"""The limit of processes of a container, which Pulumi's docker resources have no input for."""

from __future__ import annotations

from typing import Any, ClassVar

from infra.containers.engine import engine, find_container
from infra.locations import StackFolder
from infra.providers.provider import Properties, Provider


class ProcessLimit(Provider):
    """Inputs: `container` (name), `container_id`, `limit`. A restart of the container keeps it."""

    compared: ClassVar[tuple[str, ...]] = ("container", "container_id", "limit")

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        with engine() as client:
            # docker-py's update_container has no word for it; the engine has since API 1.40.
            session: Any = client.api
            url = (
                f"{session.base_url}/v{session.api_version}/containers/{inputs['container']}/update"
            )
            answer = session.post(url, json={"PidsLimit": int(inputs["limit"])})
            answer.raise_for_status()
        return inputs["container"], {}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        with engine() as client:
            found = find_container(client, outputs["container"])
        if found is None:
            return None  # the container's own resource says so
        limit: Any = found.attrs["HostConfig"].get("PidsLimit")
        return None if limit == int(outputs["limit"]) else f"its limit of processes is {limit}"
