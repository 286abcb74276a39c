"""The types of resources that the stand-in knows, and what does the work for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from docker_plugin import container, image, network, volume
from docker_plugin.engine import Engine
from docker_plugin.properties import Properties
from docker_plugin.schema import CONTAINER, IMAGE, NETWORK, VOLUME, Schema

Create = Callable[[Engine, Mapping[str, Any]], tuple[str, Properties]]
Read = Callable[[Engine, str, Mapping[str, Any]], Properties | None]
Update = Callable[[Engine, str, Mapping[str, Any], Mapping[str, Any]], None]
Delete = Callable[[Engine, str, Mapping[str, Any]], None]


def _nothing(*_: object) -> None:
    """The update of what has nothing to change on the engine."""


@dataclass(frozen=True)
class ResourceType:
    """One type: what it knows, and what is done for it. `peek` reads, and never changes a thing."""

    schema: Schema
    create: Create
    read: Read
    delete: Delete
    peek: Read
    update: Update = _nothing


TYPES: Mapping[str, ResourceType] = {
    "docker:index/network:Network": ResourceType(
        NETWORK, network.create, network.read, network.delete, network.read
    ),
    "docker:index/volume:Volume": ResourceType(
        VOLUME, volume.create, volume.read, volume.delete, volume.read
    ),
    "docker:index/container:Container": ResourceType(
        CONTAINER,
        container.create,
        container.read,
        container.delete,
        container.peek,
        container.update,
    ),
    "docker:index/remoteImage:RemoteImage": ResourceType(
        IMAGE, image.create, image.read, image.delete, image.read
    ),
}
