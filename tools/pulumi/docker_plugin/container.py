"""Containers: `docker:index/container:Container`, in the order of steps of the official provider."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from docker.errors import APIError, NotFound

from docker_plugin.configuration import archive, configuration, limits
from docker_plugin.engine import Engine, InitializationError, ResourceError, ensure_image, told
from docker_plugin.fields import differs, nanoseconds
from docker_plugin.outputs import outputs
from docker_plugin.properties import Properties
from docker_plugin.schema import CONTAINER

SETTLE_SECONDS = 0.1  # after the start, as the official provider waits before it looks
POLL_SECONDS = 0.5
REMOVE_SECONDS = 30.0
# The engine can do these while a container runs; the order is of no consequence.
LIVE = ("restart", "maxRetryCount", "cpuShares", "memory", "memorySwap")
# The first version of the engine's interface that knows `start-interval`.
START_INTERVAL_VERSION = (1, 44)


def create(engine: Engine, inputs: Mapping[str, Any]) -> tuple[str, Properties]:
    """Make, connect, fill, start and await a container; return its id and outputs.

    Raises ResourceError when there is none afterwards, InitializationError when it was made and a
    later step failed: then it stays as it is.
    """
    try:
        ensure_image(engine, inputs["image"])
    except ResourceError as error:
        message = f"unable to create container with image {inputs['image']}: {error}"
        raise ResourceError(message) from None
    _ensure_understood(engine, inputs)
    with told("unable to create container"):
        made = engine.client.create_container_from_config(  # type: ignore[no-untyped-call]
            configuration(inputs), inputs["name"]
        )
    identity = str(made["Id"])
    state = dict(inputs)
    try:
        _bring_up(engine, identity, inputs)
        if inputs.get("attach"):
            state["containerLogs"] = _await_end(engine, identity, inputs)
    except ResourceError as error:
        raise InitializationError(str(error), identity) from None
    _ensure_runs(engine, identity, inputs)
    with told("unable to inspect container"):
        return identity, outputs(engine.client.inspect_container(identity), state)


def read(engine: Engine, identity: str, state: Mapping[str, Any]) -> Properties | None:
    """Return what the engine has, or None when it is gone.

    A container that must run and doesn't is removed, and so gone: the official provider replaces it
    by a pristine one in the run that follows.
    """
    found = inspected(engine, identity)
    if found is None:
        return None
    if _must_run(state) and not found["State"]["Running"]:
        delete(engine, identity, state)
        return None
    return outputs(found, state)


def peek(engine: Engine, identity: str, state: Mapping[str, Any]) -> Properties | None:
    """Return what the engine has, or None when it is gone; nothing is removed."""
    found = inspected(engine, identity)
    return None if found is None else outputs(found, state)


def update(
    engine: Engine, identity: str, state: Mapping[str, Any], inputs: Mapping[str, Any]
) -> None:
    """Change what the engine can change; a new health check and the like change nothing there."""
    fields = CONTAINER.fields
    if not any(differs(fields[name], inputs.get(name), state.get(name)) for name in LIVE):
        return
    wanted = limits(inputs)
    with told("unable to update container"):
        engine.client.update_container(
            identity,
            cpu_shares=wanted["CpuShares"],
            mem_limit=wanted["Memory"],
            memswap_limit=wanted["MemorySwap"],
            restart_policy=wanted["RestartPolicy"],
        )


def delete(engine: Engine, identity: str, state: Mapping[str, Any]) -> None:
    """Stop the container with its grace, remove it, and see it gone. One that is gone is no error."""
    grace = state.get("destroyGraceSeconds") or 0
    try:
        with told("unable to remove container"), suppress(NotFound):
            if grace > 0 and not state.get("attach"):
                engine.client.stop(identity, timeout=grace)
            _remove(engine, identity, volumes=bool(state.get("removeVolumes", True)))
    except ResourceError:
        if inspected(engine, identity) is not None:
            raise
    deadline = time.monotonic() + REMOVE_SECONDS
    while inspected(engine, identity) is not None:
        if time.monotonic() > deadline:
            raise ResourceError("unable to remove container: the engine has not let go of it")
        time.sleep(POLL_SECONDS)


def inspected(engine: Engine, identity: str) -> dict[str, Any] | None:
    """Return the engine's description of a container, or None when there is none."""
    with told("unable to inspect container"):
        try:
            return dict(engine.client.inspect_container(identity))
        except NotFound:
            return None


def _ensure_understood(engine: Engine, inputs: Mapping[str, Any]) -> None:
    # An older engine would leave it out without a word.
    interval = (inputs.get("healthcheck") or {}).get("startInterval") or ""
    version = tuple(int(part) for part in engine.client.api_version.split("."))
    if nanoseconds(interval) and version < START_INTERVAL_VERSION:
        raise ResourceError(
            "healthcheck.startInterval needs API version 1.44, and the Docker engine has"
            f" {engine.client.api_version}"
        )


def _bring_up(engine: Engine, identity: str, inputs: Mapping[str, Any]) -> None:
    if networks := inputs.get("networksAdvanced"):
        _connect(engine, identity, networks)
    if uploads := inputs.get("uploads"):
        with told("unable to upload files"):
            engine.client.put_archive(identity, "/", archive(uploads))
    if inputs.get("start", True):
        with told("unable to start container"):
            engine.client.start(identity)
        if inputs.get("wait"):
            _await_health(engine, identity, inputs.get("waitTimeout") or 60)


def _connect(engine: Engine, identity: str, networks: list[dict[str, Any]]) -> None:
    # A container that was made without a bridge is not on it.
    with suppress(APIError):
        engine.client.disconnect_container_from_network(identity, "bridge")
    for network in networks:
        with told(f"unable to connect to network {network['name']}"):
            engine.client.connect_container_to_network(
                identity,
                network["name"],
                ipv4_address=network.get("ipv4Address"),
                aliases=network.get("aliases"),
            )


def _await_health(engine: Engine, identity: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with told("unable to inspect container"):
            health = engine.client.inspect_container(identity)["State"].get("Health")
        if health is None:
            raise ResourceError("wait needs a healthcheck, and the container has none")
        if health["Status"] == "healthy":
            return
        if engine.interrupted.wait(POLL_SECONDS):
            raise ResourceError("interrupted while waiting for the container to become healthy")
    raise ResourceError("container failed to be in healthy state")


def _await_end(engine: Engine, identity: str, inputs: Mapping[str, Any]) -> str | None:
    """Wait until the container has ended; return what it printed when that is wanted."""
    while True:
        found = inspected(engine, identity)
        # One that removes itself may be gone before we look.
        if found is None or not found["State"]["Running"]:
            break
        if engine.interrupted.wait(POLL_SECONDS):
            raise ResourceError("interrupted while waiting for the container to end")
    if found is None or not inputs.get("logs"):
        return None
    with told("unable to read the container's logs"):
        return engine.client.logs(identity).decode(errors="replace")


def _ensure_runs(engine: Engine, identity: str, inputs: Mapping[str, Any]) -> None:
    if not _must_run(inputs) or not inputs.get("start", True):
        return
    time.sleep(SETTLE_SECONDS)
    found = inspected(engine, identity)
    if found is not None and found["State"]["Running"]:
        return
    delete(engine, identity, inputs)
    raise ResourceError("container exited immediately")


def _must_run(state: Mapping[str, Any]) -> bool:
    return bool(state.get("mustRun", True))


def _remove(engine: Engine, identity: str, *, volumes: bool) -> None:
    try:
        engine.client.remove_container(identity, v=volumes, force=True)
    except APIError as error:
        # One with `rm` is removing itself already.
        if error.status_code != 409:
            raise
