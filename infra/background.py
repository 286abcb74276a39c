"""Work beside other work: in daemon threads, which keep no program from its end, however they hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Background(Generic[T]):
    """Work that began in a thread of its own. Its result, or its error, comes where it is asked for.

    The threads of an executor are waited for at the program's end; this one is left behind.
    """

    def __init__(self, work: Callable[[], T], name: str = "background") -> None:
        self._work = work
        self._made: T | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it has ended, with a result or an error; False when it has not by then."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> T:
        """Wait for it, and return its result or raise its error."""
        self.wait()
        if self.error is not None:
            raise self.error
        return cast(T, self._made)

    def _run(self) -> None:
        try:
            self._made = self._work()
        except BaseException as error:  # noqa: BLE001  # raised by `result`
            self.error = error


@contextmanager
def every(seconds: float, work: Callable[[], object], grace: float | None = None) -> Iterator[None]:
    """Do `work` again and again while the block runs; at its end wait for it, up to `grace` seconds."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds):
            work()

    running = Background(run, "every")
    try:
        yield
    finally:
        over.set()
        running.wait(grace)
