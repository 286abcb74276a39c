"""What a Letta server's start costs in imports: as `launch.py` has them, and as they are."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.stage import Figure, summary
from infra.embedded import launch
from infra.embedded.release import InstalledRelease
from infra.stack.locations import cache_folder
from infra.stack.releases import RELEASES
from infra.stack.server_environment import IMPORT_FIRST, TELEMETRY_OFF
from tests.live.machine import Machine

ROUNDS = 5
PLAIN = f"import {IMPORT_FIRST}"
QUICK = (
    f"import launch\nwith launch.quick_imports(), launch.schemas_on_demand({IMPORT_FIRST!r}):\n"
    f"    import {IMPORT_FIRST}"
)


def measure(machine: Machine) -> Iterator[Figure]:
    # Whatever Python the services of a stack were given.
    there = (cache_folder() / "releases").glob("letta-0.16.8-*")
    releases = [InstalledRelease(RELEASES["0.16.8"], folder) for folder in there]
    release = next((each for each in releases if each.is_complete()), None)
    assert release is not None, "bring a stack up first: `make up`"
    home = machine.root / "home"
    home.mkdir(parents=True)
    environment = {
        **TELEMETRY_OFF,
        "PATH": os.defpath,
        "HOME": str(home),
        "LETTA_DIR": str(home / ".letta"),
        "MEMGPT_CONFIG_PATH": "/dev/null",
        "LETTA_PG_URI": "postgresql://nobody@127.0.0.1:9/nothing",
        "PYTHONPATH": str(Path(launch.__file__).parent),
    }
    times: dict[str, list[float]] = {PLAIN: [], QUICK: []}
    for _ in range(ROUNDS):
        for code, taken in times.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [release.python, "-c", code],
                env=environment,
                cwd=home,
                capture_output=True,
                check=True,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    yield Figure(
        "processor of a server's start, of what it is without launch.py",
        median(times[QUICK]) / median(times[PLAIN]),
        "x",
        bound=0.6,
        detail=f"ours {summary(times[QUICK])}; plain {summary(times[PLAIN])}",
    )
