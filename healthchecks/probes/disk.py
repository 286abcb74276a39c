"""How much room is left where the stack keeps its data?"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from healthchecks.model import Measurement
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment

DATABASE_DATA = "/var/lib/postgresql"
SERVER_DATA = "/home/letta"


@dataclass(frozen=True)
class DiskSpace(Measurement):
    """Bytes of the file system that holds `folder`; `free` is what this user may still use."""

    folder: Path
    total: int
    free: int
    container: str | None = None  # the one that sees it so


def measure_disk(deployment: Deployment) -> DiskSpace:
    """Measure where the data is: on this machine, or as a container sees its volume.

    The engine's own folder says nothing: a volume may be on another disk, and an engine elsewhere.
    """
    if deployment.containers is not None:
        return _inside(deployment)
    if deployment.folder is None:
        raise LettaOpsError("no-folder", "the stack has no folder here", "look on its own machine")
    usage = shutil.disk_usage(deployment.folder.root)
    return DiskSpace(deployment.folder.root, usage.total, usage.free)


def _inside(deployment: Deployment) -> DiskSpace:
    from healthchecks.probes.model import running_server
    from infra.targets.docker.engine.client import engine, find_container
    from infra.targets.docker.engine.execution import execute

    database = deployment.database.container if deployment.database else None
    with engine() as client:
        found = find_container(client, database) if database else None
        folder = DATABASE_DATA
        if found is None or found.status != "running":
            found, folder = running_server(client, deployment), SERVER_DATA
        name = str(found.name)
        words = ["df", "--block-size=1", "--output=size,avail", folder]
        done = execute(client, name, words, seconds=10.0)
    numbers = done.stdout.split()[-2:]
    if done.code != 0 or not all(word.isdecimal() for word in numbers):
        raise LettaOpsError(
            "no-disk",
            f"df in {name} failed: {(done.stderr or done.stdout).strip()[:300]}",
            "look at the disk of the engine's own machine",
        )
    total, free = map(int, numbers)
    return DiskSpace(Path(folder), total, free, name)
