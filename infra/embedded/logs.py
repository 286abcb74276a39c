"""The logs of a local stack's services, from their files: merged, followed over rotation, redacted."""

from __future__ import annotations

import datetime as dt
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from infra.log_lines import LogLine, Wanted, merged, unknown_service
from infra.sensitive import Sensitive, redact
from infra.stack.locations import StackFolder

POLL_SECONDS = 0.25
# These are shown when they are named: they are about the stack's making, not about its work.
NOT_SERVICES = ("supervisord", "migration-", "operations")
# How Postgres, Python's logging and supervisord begin a line; other zones than UTC are our own.
STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,](\d{1,6})\d*)?(Z| UTC)?")


def lines(folder: StackFolder, wanted: Wanted, secrets: tuple[Sensitive, ...]) -> Iterator[LogLine]:
    """Yield the lines of all services, or of one log. Raises LettaOpsError (`unknown-service`)."""
    names = _names(folder, wanted.service)
    if not names:
        raise unknown_service(wanted.service, _names(folder, None))
    files = {name: LogFile(name, folder.log(name), secrets) for name in names}
    yield from merged(files[name].history(wanted) for name in names)
    while wanted.follow:
        heard = [line for file in files.values() for line in file.fresh()]
        yield from heard
        if not heard:
            time.sleep(POLL_SECONDS)
        for name in _names(folder, wanted.service):
            if name not in files:  # a service that has come since
                files[name] = LogFile(name, folder.log(name), secrets)


class LogFile:
    """One log and the files into which supervisord has rotated it (`letta.log.1` is the newest)."""

    def __init__(self, name: str, path: Path, secrets: tuple[Sensitive, ...]) -> None:
        self._name, self._path, self._secrets = name, path, secrets
        self._open: BinaryIO | None = None
        self._rest = b""  # the beginning of a line that isn't finished
        self._time: dt.datetime | None = None

    def history(self, wanted: Wanted) -> Iterator[LogLine]:
        """What was logged up to now, oldest first."""
        newest = list(self._read())
        if not wanted.follow and self._rest:
            newest.append(self._rest)
        raw = [*self._rotated(wanted, len(newest)), *newest]
        found = [
            line
            for line in map(self._line, raw)
            if wanted.since is None or line.time is None or line.time >= wanted.since
        ]
        yield from found if wanted.tail is None else found[max(0, len(found) - wanted.tail) :]

    def fresh(self) -> Iterator[LogLine]:
        """What was logged since the last time, also when the file was rotated in between."""
        for raw in self._read():
            yield self._line(raw)
        if self._open is None or not self._is_current(self._open):
            if self._open is not None:
                self._open.close()
            self._open, self._rest = None, b""
            for raw in self._read():
                yield self._line(raw)

    def _read(self) -> Iterator[bytes]:
        """Whole lines behind what was read already."""
        if self._open is None:
            try:
                self._open = self._path.open("rb")
            except FileNotFoundError:
                return
        *whole, self._rest = (self._rest + self._open.read()).split(b"\n")
        yield from whole

    def _is_current(self, opened: BinaryIO) -> bool:
        """Whether the name still belongs to the file that we have open, and it wasn't cut."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return True  # between the two steps of a rotation
        return os.path.samestat(named, os.fstat(opened.fileno())) and (
            named.st_size >= opened.tell()
        )

    def _rotated(self, wanted: Wanted, found: int) -> list[bytes]:
        """The lines of older files, as far back as is wanted."""
        older: list[bytes] = []
        number = 1
        while (path := self._path.with_name(f"{self._path.name}.{number}")).is_file():
            enough = wanted.tail is not None and found + len(older) >= wanted.tail
            if enough or (wanted.since is not None and _written(path) < wanted.since):
                break
            data = path.read_bytes()
            older = [*data.removesuffix(b"\n").split(b"\n"), *older]
            number += 1
        return older

    def _line(self, raw: bytes) -> LogLine:
        text = raw.decode(errors="replace").rstrip("\r")
        self._time = stamp(text) or self._time
        return LogLine(self._name, self._name, self._time, redact(text, self._secrets))


def stamp(text: str) -> dt.datetime | None:
    """The time with which a line begins, if it does."""
    found = STAMP.match(text)
    if found is None:
        return None
    day, clock, fraction, universal = found.groups()
    try:
        naive = dt.datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0'):0<6}")
    except ValueError:
        return None  # digits that only look like a date
    return naive.replace(tzinfo=dt.UTC) if universal else naive.astimezone()


def _written(path: Path) -> dt.datetime:
    return dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)


def _names(folder: StackFolder, service: str | None) -> list[str]:
    there = sorted(path.stem for path in folder.logs.glob("*.log"))
    if service is not None:
        return [service] if service in there else []
    return [name for name in there if not name.startswith(NOT_SERVICES)]
