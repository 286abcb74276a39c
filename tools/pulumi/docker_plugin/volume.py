"""Volumes: `docker:index/volume:Volume`. Making one that is there already adopts it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from docker.errors import APIError, NotFound

from docker_plugin.engine import Engine, ResourceError, as_labels, from_labels, sentence, told
from docker_plugin.properties import Properties

REMOVE_SECONDS = 30.0
IN_USE = 409


def create(engine: Engine, inputs: Mapping[str, Any]) -> tuple[str, Properties]:
    """Make the volume, or adopt the one of that name as it is."""
    with told("unable to create volume"):
        made = engine.client.create_volume(
            inputs["name"],
            driver=inputs.get("driver"),
            driver_opts=inputs.get("driverOpts"),
            labels=as_labels(inputs.get("labels")),
        )
    identity = str(made["Name"])
    return identity, read(engine, identity, inputs) or {}


def read(engine: Engine, identity: str, _state: Mapping[str, Any]) -> Properties | None:
    """Return what the engine has, or None when it is gone."""
    with told("unable to inspect volume"):
        try:
            found = engine.client.inspect_volume(identity)
        except NotFound:
            return None
    return {
        "name": found["Name"],
        "driver": found["Driver"],
        "driverOpts": found.get("Options") or {},
        "labels": from_labels(found.get("Labels")),
        "mountpoint": found["Mountpoint"],
        "cluster": None,
    }


def delete(engine: Engine, identity: str, _state: Mapping[str, Any]) -> None:
    """Remove the volume with its data, waiting for containers that are just being removed."""
    deadline = time.monotonic() + REMOVE_SECONDS
    while True:
        try:
            engine.client.remove_volume(identity, force=True)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != IN_USE or time.monotonic() > deadline:
                message = f"unable to remove volume {identity}: {sentence(error)}"
                raise ResourceError(message) from None
            time.sleep(1)
        else:
            return
