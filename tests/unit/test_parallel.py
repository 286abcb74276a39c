"""Two at the same time: the failure of either ends the other, and the first one is told."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from backups.parallel import Stop, concurrently


def test_both_come_to_their_end() -> None:
    done: list[str] = []
    with concurrently(lambda _: done.append("beside")) as stop:
        assert list(stop.ends([b"one", b"two"])) == [b"one", b"two"]
    assert done == ["beside"]


def endless(stop: Stop, seen: threading.Event) -> None:
    for _ in stop.ends(itertools.count()):
        seen.set()


def test_a_block_that_fails_ends_what_is_beside_and_is_told() -> None:
    before = threading.active_count()

    def run() -> None:
        seen = threading.Event()
        with concurrently(lambda stop: endless(stop, seen)):
            assert seen.wait(60)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        run()
    assert threading.active_count() == before


def test_what_fails_beside_ends_the_block_at_its_next_chunk() -> None:
    def fail(_: Stop) -> None:
        raise OSError("gone")

    def forever(stop: Stop) -> Iterator[int]:
        yield from stop.ends(itertools.count())

    with pytest.raises(OSError, match="gone"), concurrently(fail) as stop:
        for _ in forever(stop):
            pass


def test_what_fails_beside_after_the_block_is_told_at_its_end() -> None:
    ended = threading.Event()

    def fail_late(_: Stop) -> None:
        ended.wait(60)
        raise OSError("late")

    with pytest.raises(OSError, match="late"), concurrently(fail_late):
        ended.set()
