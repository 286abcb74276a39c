"""How long provisioning takes with warm caches, and what a whole stack weighs in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from benchmarks.stage import Figure, summary
from tests.live.machine import Machine

RUNS = 5


def measure(machine: Machine) -> Iterator[Figure]:
    yield from ups(machine, "", (90, 10))
    yield from _memory(machine.stack("bench").processes())


def ups(
    machine: Machine, label: str, bounds: tuple[float | None, float | None]
) -> Iterator[Figure]:
    """How long `up` takes from nothing and with nothing to change; leaves the stack `bench` up."""
    warm = machine.stack("warm")
    warm.up("--no-smoke")  # fills the caches
    warm.destroy("--delete-data")

    stack = machine.stack("bench")
    started = time.perf_counter()
    outcome = stack.up()
    seconds = time.perf_counter() - started
    smoke = outcome["smoke"]["seconds"]
    what = f"{label}up from nothing to a passed smoke test"
    yield Figure(what, seconds, "s", bounds[0], f"smoke {smoke} s")

    unchanged = []
    for _ in range(RUNS):
        started = time.perf_counter()
        stack.run("--json", "up")
        unchanged.append(time.perf_counter() - started)
    what = f"{label}up with nothing to change, smoke test included"
    yield Figure(what, median(unchanged), "s", bounds[1], summary(unchanged))


def _memory(processes: list) -> Iterator[Figure]:  # type: ignore[type-arg]  # of psutil.Process
    """Proportional set size: what the processes share is counted once."""
    parts: dict[str, float] = {}
    for process in processes:
        words = " ".join(process.cmdline())
        name = next(
            (
                part
                for part in ("supervisord", "fake_model", "launch.py", "postgres")
                if part in words
            ),
            "other",
        )
        size = process.memory_full_info().pss / 1024**2
        parts[name] = parts.get(name, 0.0) + size
    detail = ", ".join(f"{name} {size:.0f}" for name, size in sorted(parts.items()))
    yield Figure("memory of the whole stack", sum(parts.values()), "MiB", None, detail)
