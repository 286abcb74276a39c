"""What work costs: its time, the processor seconds of everything that takes part, and its memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

Argv = Sequence[str | Path]
OnLine = Callable[[str], None]
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Cost:
    """`processor` is that of the programs themselves, `server` that of Postgres for them, in seconds.

    `peak` is the most memory that one of the programs, the last one of a pipe, has held, in bytes.
    """

    seconds: float
    processor: float
    server: float
    peak: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:.1f} s, {self.processor:.1f} s of processor and {self.server:.1f} s of"
            f" Postgres'"
        )


def middle(costs: Sequence[Cost]) -> Cost:
    """The median of each."""
    return Cost(
        median(cost.seconds for cost in costs),
        median(cost.processor for cost in costs),
        median(cost.server for cost in costs),
        max(cost.peak for cost in costs),
    )


def in_words(costs: Sequence[Cost]) -> str:
    seconds = [cost.seconds for cost in costs]
    return f"{middle(costs)}; {min(seconds):.1f} to {max(seconds):.1f} s, n={len(costs)}"


def pipe(
    *programs: Argv,
    server: int,
    environment: Mapping[str, str] | None = None,
    on_line: OnLine = lambda _: None,
) -> Cost:
    """Run programs, each reading what the one before it writes; `on_line` gets the last one's stderr.

    `server` is the pid of Postgres. Raises AssertionError with what a program complained of.
    """
    before, started = processor_of(server), time.perf_counter()
    running: list[subprocess.Popen[bytes]] = []
    for number, argv in enumerate(programs):
        last = number == len(programs) - 1
        running.append(
            subprocess.Popen(
                [str(word) for word in argv],
                env={**os.environ, **(environment or {})},
                stdin=running[-1].stdout if running else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if last else subprocess.PIPE,
                stderr=subprocess.PIPE if last else None,
            )
        )
        if number:
            before_it = running[-2].stdout
            assert before_it is not None
            before_it.close()  # the reader alone has it now: its end is heard
    watch = _Watch(running[-1].pid)
    watch.start()
    said = []
    complaints = running[-1].stderr
    assert complaints is not None
    for raw in complaints:
        line = raw.decode(errors="replace").rstrip()
        said.append(line)
        on_line(line)
    processor = 0.0
    for process in running:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        processor += used.ru_utime + used.ru_stime
    seconds = time.perf_counter() - started
    watch.join()
    assert not any(process.returncode for process in running), "\n".join(said[-20:])
    return Cost(seconds, processor, processor_of(server) - before, watch.peak)


def processor_of(server: int) -> float:
    """Processor seconds of a process and all that it ever started, and has ended or still runs."""
    total = 0.0
    for process in (parent := psutil.Process(server), *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


class _Watch(threading.Thread):
    """Sees how much memory a process holds at most. What `wait4` says counts its parent's, too."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self.peak = 0

    def run(self) -> None:
        with suppress(OSError):
            while line := self._line():
                self.peak = max(self.peak, int(line.split()[1]) * 1024)
                time.sleep(POLL_SECONDS)

    def _line(self) -> str | None:
        lines = self._status.read_text().splitlines()  # a process that has ended has none
        return next((line for line in lines if line.startswith("VmHWM")), None)
