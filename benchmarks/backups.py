"""`backup create` and `backup restore` against PostgreSQL's own programs, side by side.

LETTA_OPS_BENCH_SCALE says how large the database is (1: more than 1 GB), LETTA_OPS_BENCH_LARGE how
large the one whose backup must not take more memory.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from backups.crypto import new_identity
from backups.programs import find_dump, find_restore
from benchmarks import backup_rivals
from benchmarks.cost import Cost, in_words, middle, pipe
from benchmarks.seed import seed
from benchmarks.stage import Figure
from infra.administration import Way, way_in
from tests.contract.s3_server import S3Server, running_s3_server
from tests.live.machine import LETTA_OPS, Machine, Stack

SCALE = float(os.environ.get("LETTA_OPS_BENCH_SCALE", "1"))
LARGE = float(os.environ.get("LETTA_OPS_BENCH_LARGE", "4"))
RUNS = 3
BUCKET = "bench"
FRESH = "bench_fresh"
COMPRESS = ("zstd", "-3", "-T2", "-q", "-c")  # what ours does
PUT = Path(__file__).with_name("put_object.py")
MEGABYTE = 1000**2
SWITCH = "switching: the server is stopped"
PHASES = ("fetching", "restoring", "comparing", "memory", SWITCH)


@dataclass(frozen=True)
class Scene:
    """A stack with a filled database, its backups in S3, and the ways to both."""

    stack: Stack
    server: S3Server
    way: Way
    name: str  # of the database
    dump: Path
    postgres: int  # its pid

    @property
    def plain_dump(self) -> list[str | Path]:
        return [self.dump, "--format=custom", "--compress=0", "--no-password"]

    @property
    def environment(self) -> dict[str, str]:
        return {**self.way.environment(self.name), **self.server.environment()}

    def ours(self, *words: str, on_line: object = None) -> Cost:
        environment = {**self.stack.machine.environment, **self.server.environment()}
        listening = {"on_line": on_line} if callable(on_line) else {}
        argv = [LETTA_OPS, "--stack", self.stack.name, *words]
        return pipe(argv, server=self.postgres, environment=environment, **listening)

    def upload(self, key: str) -> Cost:
        """The same job with PostgreSQL's program, zstd and a plain client."""
        put = [_python(), PUT, self.server.url, BUCKET, key]
        return pipe(self.plain_dump, COMPRESS, put, server=self.postgres, environment=self.environment)
