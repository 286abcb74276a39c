"""What a Letta server's start costs: as `launch.py` starts it, and as the release does by itself."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import httpx

from benchmarks.stage import Figure, summary
from infra.api import HEALTH_PATH
from infra.embedded import launch
from infra.embedded.release import InstalledRelease
from infra.embedded.throwaway_postgres import free_port
from infra.stack.deployment import LOOPBACK, SERVICE_SERVER
from infra.stack.locations import cache_folder
from infra.stack.releases import RELEASES
from infra.stack.server_environment import IMPORT_FIRST, TELEMETRY_OFF
from infra.targets import host
from tests.live.machine import Machine

ROUNDS = 5
STARTS = 3
READY_SECONDS = 120.0
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
    yield _until_ready(machine, release, home)


def _until_ready(machine: Machine, release: InstalledRelease, home: Path) -> Figure:
    """On the database of a stack, whose own server is stopped."""
    stack = machine.stack("start")
    stack.up("--no-smoke")
    host(stack.deployment).stop(SERVICE_SERVER)
    folder = stack.folder
    document = json.loads(folder.server_environment.read_text())
    port = free_port()
    arguments = ["server", "--secure", "--host", LOOPBACK, "--port", str(port)]
    ours = [str(folder.script("launch.py")), str(folder.server_environment), "letta.main:app"]
    commands = {
        "ours": [release.python, *ours, *arguments],
        "plain": [release.python, release.python.with_name("letta"), *arguments],
    }
    environment = {"PATH": os.defpath, "HOME": str(folder.home), **document["environment"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(STARTS):
        for name, command in commands.items():
            times[name].append(_started(command, environment, home, port))
    stack.destroy("--delete-data")
    return Figure(
        "time of a server's start until it is ready, of what `letta server` takes",
        median(times["ours"]) / median(times["plain"]),
        "x",
        bound=0.8,
        detail="; ".join(f"{name} {summary(taken)}" for name, taken in times.items()),
    )


def _started(
    command: Sequence[object], environment: Mapping[str, str], home: Path, port: int
) -> float:
    began = time.monotonic()
    with subprocess.Popen(
        list(map(str, command)),
        env=environment,
        cwd=home,  # it writes its OpenAPI document where it is started
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            while time.monotonic() < began + READY_SECONDS:
                with suppress(httpx.HTTPError):
                    if httpx.get(f"http://{LOOPBACK}:{port}{HEALTH_PATH}").is_success:
                        return time.monotonic() - began
                time.sleep(0.02)
            raise AssertionError(f"{command} is not ready")
        finally:
            server.terminate()
