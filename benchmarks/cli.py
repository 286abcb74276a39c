"""How long the command line takes to start, against importing the library that it is made with."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

from benchmarks.stage import Figure, summary
from tests.live.machine import LETTA_OPS, Machine

RUNS = 20


def measure(machine: Machine) -> Iterator[Figure]:  # noqa: ARG001  # like the others

    ours, theirs = [], []
    for _ in range(RUNS):
        ours.append(_seconds(str(LETTA_OPS), "--version"))
        theirs.append(_seconds(sys.executable, "-c", "import typer"))
    yield Figure(
        "letta-ops --version against python -c 'import typer'",
        median(ours) / median(theirs),
        "x",
        1.5,
        f"{summary(ours)}; {summary(theirs)}",
    )


def _seconds(*argv: str) -> float:
    started = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return time.perf_counter() - started
