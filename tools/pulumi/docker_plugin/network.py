"""Networks: `docker:index/network:Network`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool

from docker_plugin.engine import Engine, ResourceError, as_labels, from_labels, sentence, told
from docker_plugin.properties import Properties

REMOVE_SECONDS = 30.0
IN_USE = 403  # what the engine answers while containers are connected


def create(engine: Engine, inputs: Mapping[str, Any]) -> tuple[str, Properties]:
    """Make the network; a name that is taken already is an error."""
    pools = [
        IPAMPool(
            subnet=pool.get("subnet"),
            iprange=pool.get("ipRange"),
            gateway=pool.get("gateway"),
            aux_addresses=pool.get("auxAddress"),
        )
        for pool in inputs.get("ipamConfigs") or []
    ]
    with told("unable to create network"):
        made = engine.client.create_network(
            inputs["name"],
            driver=inputs.get("driver"),
            options=inputs.get("options"),
            ipam=IPAMConfig(driver=inputs.get("ipamDriver") or "default", pool_configs=pools),
            # Old engines would make a second one of that name.
            check_duplicate=True,
            internal=bool(inputs.get("internal")),
            labels=as_labels(inputs.get("labels")),
            enable_ipv6=bool(inputs.get("ipv6")),
            attachable=inputs.get("attachable"),
            ingress=inputs.get("ingress"),
        )
    identity = str(made["Id"])
    return identity, read(engine, identity, inputs) or {}


def read(engine: Engine, identity: str, _state: Mapping[str, Any]) -> Properties | None:
    """Return what the engine has, or None when it is gone."""
    with told("unable to inspect network"):
        try:
            found = engine.client.inspect_network(identity)
        except NotFound:
            return None
    plan = found.get("IPAM") or {}
    return {
        "name": found["Name"],
        "driver": found["Driver"],
        "internal": found["Internal"],
        "attachable": found["Attachable"],
        "ingress": found["Ingress"],
        "ipv6": found["EnableIPv6"],
        "ipamDriver": plan.get("Driver"),
        "ipamConfigs": [_pool(pool) for pool in plan.get("Config") or []],
        "labels": from_labels(found.get("Labels")),
        "options": found.get("Options") or {},
        "scope": found["Scope"],
    }


def delete(engine: Engine, identity: str, state: Mapping[str, Any]) -> None:
    """Remove the network, waiting for containers that are still being disconnected."""
    deadline = time.monotonic() + REMOVE_SECONDS
    while True:
        try:
            engine.client.remove_network(identity)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != IN_USE or time.monotonic() > deadline:
                message = f"unable to remove network {state.get('name')}: {sentence(error)}"
                raise ResourceError(message) from None
            time.sleep(1)
        else:
            return


def _pool(pool: Mapping[str, Any]) -> Properties:
    return {
        "subnet": pool.get("Subnet") or "",
        "gateway": pool.get("Gateway") or "",
        "ipRange": pool.get("IPRange") or "",
        "auxAddress": pool.get("AuxiliaryAddresses") or {},
    }
