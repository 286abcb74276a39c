"""What a deployment's own machine or engine says of it: asked where it runs."""

from __future__ import annotations

from infra.stack.deployment import Deployment
from infra.targets import host
from infra.targets.facts import Containers, DiskSpace, Listeners, Services


def ask_supervisor(deployment: Deployment) -> Services:
    """Do the stack's services run?"""
    return host(deployment).services()


def find_listeners(deployment: Deployment) -> Listeners:
    """Who can reach the stack's processes?"""
    return host(deployment).listeners()


def inspect(deployment: Deployment) -> Containers:
    """Do the containers run, with what, and how confined?"""
    return host(deployment).containers(memory=False)


def inspect_memory(deployment: Deployment) -> Containers:
    """Like `inspect`, and measure the memory of each: that costs a command in every container."""
    return host(deployment).containers(memory=True)


def measure_disk(deployment: Deployment) -> DiskSpace:
    """How much room is left where the stack keeps its data?"""
    return host(deployment).disk()
