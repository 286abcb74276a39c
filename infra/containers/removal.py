"""Removing what a stack has on the engine and Pulumi doesn't know or keeps: leftovers, and its data."""

from __future__ import annotations

from typing import Any

from infra.containers.engine import engine
from infra.containers.names import LABEL_DEPLOYMENT, LABEL_PREFIX, Names


def remove_all(names: Names, deployment: str | None, delete_data: bool) -> None:
    """Remove the stack's containers and networks, and its volumes only with `delete_data`.

    What carries the id of another deployment stays: two stacks may have been given one prefix.
    Raises those of `infra.containers.engine`.
    """
    with engine() as client:
        for container in _ours(names, deployment, client.containers, all=True):
            container.remove(force=True, v=True)
        for network in _ours(names, deployment, client.networks):
            network.remove()
        if delete_data:
            for volume in _ours(names, deployment, client.volumes):
                volume.remove()


def _ours(names: Names, deployment: str | None, kind: Any, **options: Any) -> list[Any]:
    found = kind.list(filters={"label": f"{LABEL_PREFIX}={names.prefix}"}, **options)
    return [each for each in found if _labels(each).get(LABEL_DEPLOYMENT, deployment) == deployment]


def _labels(thing: Any) -> dict[str, str]:
    # Of containers the engine keeps them elsewhere than of volumes and networks.
    attributes = thing.attrs
    return dict(attributes.get("Labels") or attributes.get("Config", {}).get("Labels") or {})
