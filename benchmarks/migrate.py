"""How long nobody serves while a stack goes to another release, against doing it by hand; and how long a
rehearsal takes, against the drill of the same backup, which restores and serves it as it is.

By hand is what a careful operator does: stop the server, pg_dump, migrate, start.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.backup_scene import SCALE
from benchmarks.seed import seed
from benchmarks.stage import Figure
from infra.api import answers
from infra.embedded.binaries import install_binaries
from infra.stack.deployment import SERVICE_SERVER
from infra.stack.locations import cache_folder
from infra.targets import host
from tests.live.machine import Machine, Stack

BEFORE, AFTER = "0.16.0", "0.16.8"


def measure(machine: Machine) -> Iterator[Figure]:
    stack = machine.stack("migrate")
    stack.up("--no-smoke", "--config", f"release={BEFORE}")
    seed(stack.deployment, SCALE)
    stack.json("backup", "create")
    started = time.perf_counter()
    rehearsal = stack.json("migrate", "rehearse", "--to", AFTER)
    rehearsed = time.perf_counter() - started
    started = time.perf_counter()
    stack.json("backup", "drill")
    drilled = time.perf_counter() - started
    yield Figure(
        "rehearsal, of a drill of the same backup",
        rehearsed / drilled,
        "x",
        None,
        f"rehearsal {rehearsed:.1f} s, of which migrations {rehearsal['seconds']:.1f} s; drill"
        f" {drilled:.1f} s",
    )
    done = stack.json("migrate", "apply", "--to", AFTER, "--yes", "--no-smoke")
    ours = done["down_seconds"]
    stack.json("migrate", "rollback", "--yes", "--no-smoke")
    dumped, theirs = _by_hand(stack, machine.root / "by-hand.dump")
    size = rehearsal["size"] / 1e9
    yield Figure(
        "time without a server on the way to another release, of doing it by hand",
        ours / theirs,
        "x",
        0.5,
        f"{size:.2f} GB; ours {ours:.1f} s, of which migrations {done['migration_seconds']:.1f} s; by"
        f" hand {theirs:.1f} s, of which pg_dump {dumped:.1f} s",
    )


def _by_hand(stack: Stack, file: Path) -> tuple[float, float]:
    """Seconds of pg_dump, and of all of it, until the new release answers."""
    deployment = stack.deployment
    database = deployment.database
    assert database is not None
    assert database.owner.password is not None
    program = install_binaries(cache_folder()) / "bin" / "pg_dump"
    started = time.perf_counter()
    host(deployment).stop(SERVICE_SERVER)
    begun = time.perf_counter()
    subprocess.run(
        [program, "--format=custom", "--schema=public", f"--file={file}", f"--host={database.host}",
         f"--port={database.port}", f"--username={database.owner.name}", database.name],
        env={"PATH": os.defpath, "PGPASSWORD": database.owner.password.reveal()},
        check=True,
    )  # fmt: skip
    dumped = time.perf_counter() - begun
    stack.json("up", "--no-smoke", "--migrate", "--config", f"release={AFTER}")
    assert answers(stack.deployment)
    return dumped, time.perf_counter() - started
