"""What the services of a stack have logged, wherever they run: one kind of line, merged by time."""

from __future__ import annotations

import datetime as dt
import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from infra.errors import LettaOpsError

BEFORE_ALL = dt.datetime.min.replace(tzinfo=dt.UTC)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class LogLine:
    """One line, redacted. `source` is the one of the service's containers or files that said it.

    `time` is None where nothing tells it.
    """

    service: str
    source: str
    time: dt.datetime | None
    text: str

    def as_json(self) -> dict[str, Any]:
        return {
            "service": self.service,
            "source": self.source,
            "time": None if self.time is None else self.time.isoformat(),
            "text": self.text,
        }


@dataclass(frozen=True)
class Wanted:
    """Which lines: of one service or all, not older than `since`, the last `tail` of each source."""

    service: str | None = None
    since: dt.datetime | None = None
    tail: int | None = None
    follow: bool = False


def merged(sources: Iterable[Iterable[LogLine]]) -> Iterator[LogLine]:
    """Merge sources, each in its own order, by time; a line without one stays behind its forerunner."""
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
