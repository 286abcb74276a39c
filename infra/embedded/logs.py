"""The logs of a local stack's services, from their files: merged, followed over rotation, redacted."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

from infra.log_lines import (
    Entries,
    LogLine,
    Wanted,
    merged,
    plain,
    stamp,
    surely_whole,
    unknown_service,
)
from infra.sensitive import Sensitive, redact
from infra.stack.locations import StackFolder

POLL_SECONDS = 0.25
BLOCK = 1 << 18  # bytes
# These are shown when they are named: they are about the stack's making, not about its work.
NOT_SERVICES = ("supervisord", "migration-", "operations")


def lines(folder: StackFolder, wanted: Wanted, secrets: tuple[Sensitive, ...]) -> Iterator[LogLine]:
    """Yield the entries of all services, or of one log. Raises LettaOpsError (`unknown-service`)."""
    names = _names(folder, wanted.service)
    if not names:
        raise unknown_service(wanted.service, _names(folder, None))
    files = {name: LogFile(name, folder.log(name), secrets) for name in names}
    yield from merged(files[name].history(wanted) for name in names)
    while wanted.follow:
        silent = True
        for file in files.values():
            before = file.heard
            yield from filter(wanted.takes, file.fresh())
            silent = silent and file.heard == before
        if silent:
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
        self._followed = Entries()
        self.heard = 0  # lines

    def history(self, wanted: Wanted) -> Iterator[LogLine]:
        """What was logged up to now, oldest first. In memory are no more than the last `wanted.tail`."""
        if wanted.tail is None or wanted.since is not None or wanted.is_choosy:
            entries = self._entries(self._whole(wanted))
            found: Iterator[LogLine] = filter(wanted.takes, entries)
        else:
            found = iter(self._last(wanted.tail, wanted))
        yield from found if wanted.tail is None else deque(found, wanted.tail)

    def fresh(self) -> Iterator[LogLine]:
        """What was logged since the last time, also when the file was rotated in between.

        An entry comes when it is known to have ended: with the next one, or when nothing was added to it.
        """
        before = self.heard
        for raw in self._read():
            yield from self._followed.add(self._line(raw))
        if self._open is None or not self._is_current(self._open):
            if self._open is not None:
                if self._was_cut(self._open):
                    self._rest = b""
                self._open.close()
            self._open = None
            for raw in self._read():
                yield from self._followed.add(self._line(raw))
        if self.heard == before:
            yield from self._followed.rest()

    def _entries(self, raw: Iterator[bytes]) -> Iterator[LogLine]:
        return Entries().of(map(self._line, raw))

    def _whole(self, wanted: Wanted) -> Iterator[bytes]:
        """Every line, from the oldest file that may hold one that is recent enough."""
        self._ensure_open()
        with ExitStack() as opened:
            for file in [opened.enter_context(each) for each in reversed(self._rotated())]:
                if wanted.since is None or _written(file) >= wanted.since:
                    yield from self._lines_of(file)
            yield from self._read()
            yield from self._unfinished(wanted)

    def _last(self, wished: int, wanted: Wanted) -> list[LogLine]:
        """The last `wished` entries, read from the end on."""
        self._ensure_open()
        if self._open is None:
            return []
        with ExitStack() as opened:
            files = [self._open, *map(opened.enter_context, self._rotated())]
            ends = [file.seek(0, os.SEEK_END) for file in files]
            amount = BLOCK
            while True:
                raw, left = b"", amount
                for file, end in zip(files, ends, strict=True):
                    file.seek(max(0, end - left))
                    raw = file.read(min(end, left)) + raw
                    left -= min(end, left)
                *whole, self._rest = raw.split(b"\n")
                self._time = None
                found = list(self._entries(chain(whole, self._unfinished(wanted))))
                found = found if left else surely_whole(found)
                if left or len(found) >= wished:
                    break
                amount *= 4
            self._open.seek(ends[0])
        return found[max(0, len(found) - wished) :]

    def _unfinished(self, wanted: Wanted) -> Iterator[bytes]:
        if self._rest and not wanted.follow:
            yield self._rest

    def _read(self) -> Iterator[bytes]:
        """Whole lines behind what was read already."""
        self._ensure_open()
        if self._open is not None:
            yield from self._lines_of(self._open)

    def _lines_of(self, file: BinaryIO) -> Iterator[bytes]:
        """Its whole lines; the first may have begun in the file before, the last ends in the next one."""
        while block := file.read(BLOCK):
            *whole, self._rest = (self._rest + block).split(b"\n")
            yield from whole

    def _ensure_open(self) -> None:
        if self._open is None:
            try:
                self._open = self._path.open("rb")
            except FileNotFoundError:
                return

    def _was_cut(self, opened: BinaryIO) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(self._path.stat(), os.fstat(opened.fileno()))
        return False

    def _is_current(self, opened: BinaryIO) -> bool:
        """Whether the name still belongs to the file that we have open, and it wasn't cut."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return True  # between the two steps of a rotation
        return os.path.samestat(named, os.fstat(opened.fileno())) and (
            named.st_size >= opened.tell()
        )

    def _rotated(self) -> list[BinaryIO]:
        """The older files, opened, newest first; not the one that we have open, if it has become one."""
        found: list[BinaryIO] = []
        own = None if self._open is None else os.fstat(self._open.fileno())
        with suppress(FileNotFoundError):
            for number in count(1):
                file = self._path.with_name(f"{self._path.name}.{number}").open("rb")
                if own is None or not os.path.samestat(own, os.fstat(file.fileno())):
                    found.append(file)
        return found

    def _line(self, raw: bytes) -> LogLine:
        self.heard += 1
        text = plain(raw.decode(errors="replace").rstrip("\r"))
        self._time = stamp(text) or self._time
        return LogLine(self._name, self._name, self._time, redact(text, self._secrets))


def _written(file: BinaryIO) -> dt.datetime:
    return dt.datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, dt.UTC)


def _names(folder: StackFolder, service: str | None) -> list[str]:
    there = sorted(path.stem for path in folder.logs.glob("*.log"))
    if service is not None:
        return [service] if service in there else []
    return [name for name in there if not name.startswith(NOT_SERVICES)]
