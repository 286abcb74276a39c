"""Putting objects into stores and getting them out again, for tests."""

from __future__ import annotations

import datetime as dt
import random

from backups.stores.store import Store

FAR = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


def content(size: int, seed: int = 0) -> bytes:
    """Bytes of which no two stretches are alike; the same ones for the same `seed`."""
    return random.Random(seed).randbytes(size)  # noqa: S311


def put(store: Store, name: str, data: bytes, *, exclusive: bool = False) -> None:
    with store.write(name, exclusive=exclusive) as sink:
        sink.write(data)


def get(store: Store, name: str) -> bytes:
    with store.read(name) as source:
        return source.read()


def nothing_is_there(store: Store) -> bool:
    return not list(store.entries()) and not list(store.unfinished(FAR, remove=False))
