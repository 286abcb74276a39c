"""Removing what a stack has on the engine and Pulumi doesn't know or keeps: leftovers, and its data."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from infra.targets.docker.engine.client import engine
from infra.targets.docker.names import LABEL_DEPLOYMENT, LABEL_PREFIX, Names

STOP_SECONDS = 660  # longer than any of our containers may take to end by itself


def remove_all(names: Names, deployment: str | None, delete_data: bool) -> None:
    """Remove the stack's containers and networks, and its volumes only with `delete_data`.

    What carries the id of another deployment stays: two stacks may have been given one prefix.
    Raises those of `infra.targets.docker.engine.client`.
    """
    with engine(STOP_SECONDS) as client:
        for container in _ours(names, deployment, client.containers, all=True):
            if not delete_data:
                container.stop()
            container.remove(force=True, v=True)
        for network in _ours(names, deployment, client.networks):
            network.remove()
        if delete_data:
            for volume in _ours(names, deployment, client.volumes):
                volume.remove()


def remove_unfinished(
    names: Names, deployment: str, unfinished: Collection[str], known: Collection[str]
) -> list[str]:
    """Remove the deployment's containers and networks that a run was making when it was killed.

    Only what that run has named itself (`unfinished`), and the state doesn't know (`known` ids):
    with another state, or an empty one, everything that serves would look unknown.
    """
    removed = []
    with engine(STOP_SECONDS) as client:
        for container in _ours(names, deployment, client.containers, all=True):
            if container.name in unfinished and container.id not in known:
                container.stop()  # it may be a Postgres that works
                container.remove(force=True)
                removed.append(str(container.name))
        for network in _ours(names, deployment, client.networks):
            if network.name in unfinished and network.id not in known:
                network.remove()
                removed.append(str(network.name))
    return removed


def _ours(names: Names, deployment: str | None, kind: Any, **options: Any) -> list[Any]:
    found = kind.list(filters={"label": f"{LABEL_PREFIX}={names.prefix}"}, **options)
    return [each for each in found if _labels(each).get(LABEL_DEPLOYMENT, deployment) == deployment]


def _labels(thing: Any) -> dict[str, str]:
    # Of containers the engine keeps them elsewhere than of volumes and networks.
    attributes = thing.attrs
    return dict(attributes.get("Labels") or attributes.get("Config", {}).get("Labels") or {})
