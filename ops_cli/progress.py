"""Progress of long work on stderr: a live line on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infra.process import Report
from ops_cli.invocation import Invocation
from ops_cli.output import note, printable

Clock = Callable[[], float]


@contextmanager
def progress(invocation: Invocation, clock: Clock = time.monotonic) -> Iterator[Report]:
    """Yield a function that prints a line with the seconds since the start: `[  12 s] ...`."""
    start = clock()

    def stamped(line: str) -> str:
        return f"[{clock() - start:4.0f} s] {printable(line)}"

    # The log lines of -v would tear the live line apart.
    if sys.stderr.isatty() and not invocation.verbose:
        with _live() as show:
            yield lambda line: show(stamped(line))
    else:
        yield lambda line: note(stamped(line))


@contextmanager
def _live() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Progress(
        SpinnerColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("working", total=None)

        def show(line: str) -> None:
            console.print(Text(line))
            bar.update(task, description=line.partition("] ")[2][: max(20, console.width - 20)])

        yield show
