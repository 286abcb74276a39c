"""What the services of a stack have logged, wherever they run: one kind of entry, merged by time."""

from __future__ import annotations

import datetime as dt
import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from infra.errors import LettaOpsError

BEFORE_ALL = dt.datetime.min.replace(tzinfo=dt.UTC)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
Level = Literal["debug", "info", "warning", "error", "critical"]
LEVELS: tuple[str, ...] = get_args(Level)
PAUSE = dt.timedelta(seconds=1)  # what comes later doesn't belong to it
LONGEST = 1000  # lines of an entry; what goes on longer is shown in several

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# What `launch.py` writes in front of each line of a program that tells no time by itself.
OUR_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")
# How Postgres, Python's logging and supervisord begin a line; other zones than UTC are our own.
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,](\d{1,6})\d*)?(Z| UTC| GMT)?")
OF_REDIS = re.compile(r"\d+:[A-Z] (\d\d \w{3} \d{4} \d\d:\d\d:\d\d\.\d{3}) ([.\-*#]) ")
# How programs say how bad it is: Letta, uvicorn, Postgres, supervisord, nginx, Python's warnings.
LEVEL = re.compile(
    r"\S+ - (?P<letta>[A-Z]+) - "
    r"|(?P<uvicorn>DEBUG|INFO|WARNING|ERROR|CRITICAL): "
    r"|\d{4}-\S+ \S+ \w+ \[\d+\] (?:.*? )??(?P<postgres>[A-Z]+\d?):  "
    r"|\d{4}-\S+ \S+,\d+ (?P<supervisord>[A-Z]{4}) "
    r"|\d{4}/\S+ \S+ \[(?P<nginx>[a-z]+)\] "
    r"|/\S+:\d+: (?P<python>\w*Warning): "
)
MEANT = {
    ".": "debug", "-": "debug", "*": "info", "#": "warning", "debg": "debug", "trac": "debug",
    "blat": "debug", "notice": "info", "log": "info", "warn": "warning", "erro": "error",
    "crit": "critical", "fatal": "critical", "panic": "critical", "alert": "critical",
    "emerg": "critical",
}  # fmt: skip
# Postgres' second thoughts on what it has just said.
MORE = re.compile(
    r"\d{4}-\S+ \S+ \w+ \[\d+\] (?:.*? )??(DETAIL|HINT|CONTEXT|STATEMENT|QUERY|LOCATION):  "
)
TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True)
class LogLine:
    """An entry: a line and those that belong to it, a stack trace for instance. Redacted.

    `source` is the one of the service's containers or files that said it; `time` is None where nothing
    tells it; `level` is one of `LEVELS`.
    """

    service: str
    source: str
    time: dt.datetime | None
    text: str
    level: str = "info"

    def as_json(self) -> dict[str, Any]:
        return {
            "service": self.service,
            "source": self.source,
            "time": None if self.time is None else self.time.astimezone(dt.UTC).isoformat(),
            "level": self.level,
            "text": self.text,
        }


@dataclass(frozen=True)
class Wanted:
    """Which entries: of one service or all, not older than `since`, the last `tail` of each source, with
    what `pattern` finds, not less bad than `level`."""

    service: str | None = None
    since: dt.datetime | None = None
    tail: int | None = None
    follow: bool = False
    pattern: re.Pattern[str] | None = None
    level: str = LEVELS[0]

    @property
    def is_choosy(self) -> bool:
        """Whether not everything that is old enough is wanted."""
        return self.pattern is not None or self.level != LEVELS[0]

    def takes(self, entry: LogLine) -> bool:
        bad_enough = LEVELS.index(entry.level) >= LEVELS.index(self.level)
        recent = self.since is None or entry.time is None or entry.time >= self.since
        return (
            recent
            and bad_enough
            and (self.pattern is None or bool(self.pattern.search(entry.text)))
        )


class Entries:
    """Puts the lines of one source together: what a line goes on with belongs to it."""

    def __init__(self) -> None:
        self._open: LogLine | None = None
        self._lines: list[str] = []
        self._last: dt.datetime | None = None
        self._traced = False  # it has a stack trace, whose last lines are not indented

    def of(self, lines: Iterable[LogLine]) -> Iterator[LogLine]:
        """The entries of all lines."""
        for line in lines:
            yield from self.add(line)
        yield from self.rest()

    def add(self, line: LogLine) -> Iterator[LogLine]:
        """Take a line; yields the entry that ends before it, if one does."""
        text = OUR_STAMP.sub("", line.text, count=1)
        level = level_of(text)
        before, paused = self._open, self._paused(line)
        self._last = line.time
        if before is not None and not paused and self._goes_on(text, level):
            if len(self._lines) >= LONGEST:
                yield from self.rest()
                self._open, self._lines = before, []
            self._lines.append(text)
            self._traced = self._traced or TRACEBACK in text
            return
        yield from self.rest()
        if text.strip():
            self._traced = text.startswith(TRACEBACK)
            level = level or ("error" if self._traced else LEVELS[1])
            self._open, self._lines = replace(line, level=level), [text]

    def rest(self) -> Iterator[LogLine]:
        """The entry that is not known to have ended."""
        if self._open is not None:
            yield replace(self._open, text="\n".join(self._lines).rstrip())
        self._open = None

    def _paused(self, line: LogLine) -> bool:
        return None not in (line.time, self._last) and line.time - self._last > PAUSE  # type: ignore[operator]

    def _goes_on(self, text: str, level: str | None) -> bool:
        assert self._open is not None  # noqa: S101  # asked for nothing else
        if level is not None:
            return MORE.match(text) is not None
        if text.startswith(TRACEBACK):
            return self._traced or self._open.level in LEVELS[3:]
        return not text.strip() or text[0].isspace() or (self._traced and not STAMP.match(text))


def surely_whole(entries: list[LogLine]) -> list[LogLine]:
    """Those of a log read from somewhere on: without what may be the end of an entry from before."""
    heads = (number for number, entry in enumerate(entries) if level_of(entry.text))
    return entries[next(heads, 1) :]


def plain(text: str) -> str:
    """The text without colours."""
    return COLOURS.sub("", text) if "\x1b" in text else text


def level_of(text: str) -> str | None:
    """One of `LEVELS` where the line tells it, as the head of an entry does."""
    if found := OF_REDIS.match(text):
        return MEANT[found[2]]
    if not (found := LEVEL.match(text)):
        return None
    if found["python"]:
        return "warning"
    said = next(word for word in found.groups() if word).lower()
    known = MEANT.get(said, said)
    return known if known in LEVELS else "debug" if said.startswith("debug") else "info"


def stamp(text: str) -> dt.datetime | None:
    """The time with which a line begins, if it does."""
    try:
        if found := OF_REDIS.match(text):
            return dt.datetime.strptime(found[1], "%d %b %Y %H:%M:%S.%f").astimezone()
        found = STAMP.match(text.replace("/", "-", 2)) if text[4:5] == "/" else STAMP.match(text)
        if found is None:
            return None
        day, clock, fraction, universal = found.groups()
        naive = dt.datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0'):0<6}")
        return naive.replace(tzinfo=dt.UTC) if universal else naive.astimezone()
    except (ValueError, OverflowError):
        return None  # digits that only look like a date


def merged(sources: Iterable[Iterable[LogLine]]) -> Iterator[LogLine]:
    """Merge sources, each in its own order, by time; one without stays behind its forerunner."""
    return heapq.merge(*sources, key=lambda line: line.time or BEFORE_ALL)


def moment(text: str, now: dt.datetime) -> dt.datetime:
    """Read `10m` (ago; units s, m, h, d) or an ISO date and time, local unless it names a zone.

    Raises ValueError for anything else.
    """
    if ago := re.fullmatch(r"(\d+)([smhd])", text.strip()):
        return now - dt.timedelta(**{UNITS[ago[2]]: int(ago[1])})
    return dt.datetime.fromisoformat(text.strip()).astimezone()


def unknown_service(service: str | None, known: Iterable[str]) -> LettaOpsError:
    names = ", ".join(sorted(set(known)))
    return LettaOpsError(
        "unknown-service",
        f"the stack has no service '{service}'" if service else "the stack has no logs",
        f"name one of: {names}" if names else "bring the stack up with `letta-ops up`",
    )
