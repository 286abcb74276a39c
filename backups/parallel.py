"""Doing things at the same time: one with many objects of a store, or one beside another."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from infra.background import Background

THREADS = 8  # of small requests: what one waits for is the way there and back
ENDING_SECONDS = 10.0  # what is done beside something that failed gets to come to its end

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_parallel(
    do: Callable[[Given], Made], items: Sequence[Given], threads: int = THREADS
) -> list[Made]:
    """Return `do(item)` of every item, in their order; the first error stops the rest and is raised.

    The threads are daemons, which those of `concurrent.futures` are not: a store that hangs must not
    keep the program from its end.
    """
    made: dict[int, Made] = {}
    failures: list[BaseException] = []
    numbers, taking = itertools.count(), threading.Lock()

    def work() -> None:
        while not failures:
            with taking:
                number = next(numbers)
            if number >= len(items):
                return
            try:
                made[number] = do(items[number])
            except BaseException as error:  # noqa: BLE001  # raised below, where somebody sees it
                failures.append(error)

    for worker in [Background(work) for _ in range(min(threads, len(items)))]:
        worker.wait()
    if failures:
        raise failures[0]
    return [made[number] for number in range(len(items))]


class Stopped(Exception):  # noqa: N818  # no error of its own
    """Raised where chunks would go on, after what is done beside has failed."""


class Stop:
    """Between two that go on at the same time: when one fails, the other ends."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def ends(self, chunks: Iterable[Given]) -> Iterator[Given]:
        """Yield `chunks`; raises Stopped once it was set."""
        for chunk in chunks:
            if self._event.is_set():
                raise Stopped
            yield chunk


@contextmanager
def concurrently(work: Callable[[Stop], None]) -> Iterator[Stop]:
    """Do `work` in a thread while the block runs; what either raises is raised at the block's end."""
    stop = Stop()

    def run() -> None:
        try:
            work(stop)
        except BaseException:
            stop.set()
            raise

    running = Background(run)
    try:
        yield stop
    except BaseException as error:
        stop.set()
        running.wait(ENDING_SECONDS)
        if isinstance(error, Stopped) and running.error is not None:
            raise running.error from None
        raise
    running.result()
