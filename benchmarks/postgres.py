"""How long nobody serves while Postgres goes to another major version, against doing it by hand.

By hand is what the manual of most servers says: stop, pg_dump, a new cluster, pg_restore, start.
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
from infra.embedded.binaries import install_binaries
from infra.embedded.throwaway import throwaway_folder
from infra.embedded.throwaway_postgres import start_postgres
from infra.sensitive import Sensitive
from infra.servers import start_server, stop_server
from infra.stack.deployment import DATABASE_NAME, Database
from infra.stack.locations import cache_folder
from tests.live.machine import Machine, Stack

BEFORE, AFTER = "16", "18"


def measure(machine: Machine) -> Iterator[Figure]:
    stack = machine.stack("postgres")
    stack.up("--no-smoke", "--config", f"database.postgres={BEFORE}")
    seed(stack.deployment, SCALE)
    done = stack.json(
        "migrate", "apply", "--postgres", AFTER, "--yes", "--no-smoke", "--without-rehearsal"
    )
    stack.json("migrate", "rollback", "--yes", "--no-smoke")
    theirs = _by_hand(stack, machine.root)
    with stack.administrator() as link:
        (size,) = link.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
    yield Figure(
        "time without a server on the way to another Postgres, of doing it by hand",
        done["down_seconds"] / theirs,
        "x",
        0.5,
        f"{size / 1e9:.2f} GB; ours {done['down_seconds']:.1f} s, of which the copy"
        f" {done['migration_seconds']:.1f} s; by hand {theirs:.1f} s",
    )


def _by_hand(stack: Stack, root: Path) -> float:
    database, dump = stack.deployment.database, root / "by-hand.dump"
    assert database is not None
    with throwaway_folder(root, lambda _: None) as folder:
        started = time.perf_counter()
        stop_server(stack.deployment)
        _run(
            BEFORE, "pg_dump", database, "--format=custom", "--exclude-schema=letta_ops",
            f"--file={dump}",
            DATABASE_NAME,
        )  # fmt: skip
        postgres = start_postgres(folder, AFTER)
        with postgres.access.connect(postgres.access.maintenance) as link:
            link.execute(f"CREATE DATABASE {DATABASE_NAME} OWNER letta")
        with postgres.access.connect(DATABASE_NAME) as link:
            link.execute("CREATE EXTENSION vector")
        _run(
            AFTER, "pg_restore", postgres.database, "--jobs=2", "--no-comments", "--exit-on-error",
            f"--dbname={DATABASE_NAME}", str(dump),
        )  # fmt: skip
        start_server(stack.deployment)
        return time.perf_counter() - started


def _run(major: str, program: str, database: Database, *words: str) -> None:
    password = database.owner.password or Sensitive("")
    subprocess.run(
        [install_binaries(cache_folder(), major) / "bin" / program, f"--host={database.host}",
         f"--port={database.port}", f"--username={database.owner.name}", *words],
        env={"PATH": os.defpath, "PGPASSWORD": password.reveal()},
        check=True,
    )  # fmt: skip
