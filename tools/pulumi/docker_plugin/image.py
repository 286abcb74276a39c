"""Images that are there or are pulled: `docker:index/remoteImage:RemoteImage`. None is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docker.errors import NotFound

from docker_plugin.engine import Engine, ensure_image, find_image, told
from docker_plugin.properties import Properties


def create(engine: Engine, inputs: Mapping[str, Any]) -> tuple[str, Properties]:
    """Find the image on the engine, or pull it. Its id is the engine's, then its name."""
    found = ensure_image(engine, inputs["name"], inputs.get("platform"))
    return found["Id"] + inputs["name"], _outputs(inputs, found)


def read(engine: Engine, identity: str, state: Mapping[str, Any]) -> Properties | None:
    """Return what the engine has under the image's name, or None when it is gone."""
    # An import knows the id only: "sha256:", 64 digits, the name.
    name = state.get("name") or identity[len("sha256:") + 64 :]
    with told(f"unable to look for image {name}"):
        found = find_image(engine, name)
    return None if found is None else _outputs({**state, "name": name}, found)


def delete(engine: Engine, _identity: str, state: Mapping[str, Any]) -> None:
    """Remove the image, unless it is to be kept."""
    if state.get("keepLocally"):
        return
    with told(f"unable to remove image {state['name']}"):
        try:
            engine.client.remove_image(state["name"], force=bool(state.get("forceRemove")))
        except NotFound:
            return


def _outputs(state: Mapping[str, Any], found: Mapping[str, Any]) -> Properties:
    digests = found.get("RepoDigests") or []
    return {**state, "imageId": found["Id"], "repoDigest": digests[0] if digests else ""}
