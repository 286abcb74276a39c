"""How much room is left where the stack keeps its data?"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from healthchecks.model import Measurement
from infra.deployment import Deployment
from infra.errors import LettaOpsError


@dataclass(frozen=True)
class DiskSpace(Measurement):
    """Bytes of the file system that holds `folder`; `free` is what this user may still use."""

    folder: Path
    total: int
    free: int


def measure_disk(deployment: Deployment) -> DiskSpace:
    if deployment.folder is None:
        raise LettaOpsError("no-folder", "the stack has no folder here", "look on its own machine")
    usage = shutil.disk_usage(deployment.folder.root)
    return DiskSpace(deployment.folder.root, usage.total, usage.free)
