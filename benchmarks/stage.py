"""Where benchmarks run: the tests' own kind of machine, and what a figure looks like."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.live.machine import Machine


@dataclass(frozen=True)
class Figure:
    """One measured figure; `bound` is what was promised, None where nothing was."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        promised = "" if self.bound is None else f" (at most {self.bound:g})"
        verdict = "" if self.bound is None else ("  ok" if self.value <= self.bound else "  MISSED")
        detail = f"  [{self.detail}]" if self.detail else ""
        return f"{self.what}: {self.value:.2f} {self.unit}{promised}{verdict}{detail}"


@contextmanager
def stage() -> Iterator[Machine]:
    """A machine for the benchmarks; ends with all of it removed."""
    root = Path(tempfile.mkdtemp(prefix="letta-ops-bench-"))
    root.chmod(0o755)
    machine = Machine(root)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load {load:.1f} before; medians, everything in one run")
    try:
        yield machine
    finally:
        machine.clean()


def summary(seconds: Sequence[float]) -> str:
    return f"median {median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f}, n={len(seconds)}"
