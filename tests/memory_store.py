"""A store in memory, for tests and dry runs. Safe to use from several threads."""

from __future__ import annotations

import datetime as dt
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from backups.stores.store import Entry, Sink, Source, checked
from infra.errors import LettaOpsError


class MemoryStore:
    """What it holds ends with the process."""

    url = "memory:"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, dt.datetime]] = {}

    @contextmanager
    def write(self, name: str, *, exclusive: bool = False) -> Iterator[Sink]:
        checked(name)
        sink = io.BytesIO()
        yield sink
        with self._lock:
            if exclusive and name in self._objects:
                raise LettaOpsError(
                    "object-exists",
                    f"{self.url} has {name} already",
                    "look at what is there; remove it if it is not wanted",
                )
            self._objects[name] = (sink.getvalue(), dt.datetime.now(dt.UTC))

    @contextmanager
    def read(self, name: str) -> Iterator[Source]:
        with self._lock:
            found = self._objects.get(checked(name))
        if found is None:
            raise LettaOpsError(
                "object-missing",
                f"{self.url} has no {name}",
                "see what is there with `letta-ops backup list`",
            )
        yield io.BytesIO(found[0])

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        with self._lock:
            objects = sorted(self._objects.items())
        for name, (content, modified) in objects:
            if name.startswith(prefix):
                yield Entry(name, len(content), modified)

    def delete(self, name: str) -> None:
        with self._lock:
            self._objects.pop(checked(name), None)

    def limits(self) -> tuple[str, ...]:
        return ()

    def protection(self) -> str:
        return ""

    def unfinished(self, older_than: dt.datetime, *, remove: bool) -> Iterator[Entry]:
        """Yield nothing: an aborted write has left nothing."""
        return iter(())
