"""Doing one thing with many objects of a store, a few at a time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

THREADS = 8  # of small requests: what one waits for is the way there and back

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_parallel(do: Callable[[Given], Made], items: Sequence[Given]) -> list[Made]:
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

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(THREADS, len(items)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return [made[number] for number in range(len(items))]
