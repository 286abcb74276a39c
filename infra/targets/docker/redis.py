"""The stack's Redis: what it holds lasts for minutes, and belongs to the data that servers work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.stack.deployment import SERVICE_REDIS
from infra.targets.docker.engine.client import own_containers
from infra.targets.docker.engine.execution import execute_with
from infra.targets.docker.names import REDIS_PORT, Names

if TYPE_CHECKING:
    from docker import DockerClient

FORGET_SECONDS = 30


def forget(client: DockerClient, names: Names) -> None:
    """Let it forget the locks and streams of runs on data that is no more.

    A client that sends its message again would be told of such a run, and the message be lost; one that
    doesn't would be refused for as long as the lock lasts. A Redis that doesn't run holds nothing.
    """
    for found in own_containers(client, names.prefix, SERVICE_REDIS):
        if found.status == "running":
            command = ["valkey-cli", "-p", str(REDIS_PORT), "FLUSHALL"]
            execute_with(client, str(found.id), command, "", FORGET_SECONDS)
