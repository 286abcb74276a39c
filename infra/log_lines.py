"""What the services of a stack have logged, wherever they run: one kind of line, merged by time."""

from __future__ import annotations

import datetime as dt
import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_SCHEDULER, Deployment

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


def read(deployment: Deployment, wanted: Wanted) -> Iterator[LogLine]:
    """Yield the lines by time; with `follow`, then go on as they come, without an end.

    Raises LettaOpsError: `no-logs` for a server that we did not provision here, `unknown-service`
    with the names that there are, and those of `infra.targets.docker.engine.client`.
    """
    # What is no container's comes from its file, on every target.
    if deployment.containers is not None and wanted.service != SERVICE_SCHEDULER:
        from infra.targets.docker import logs

        return logs.lines(deployment.containers.prefix, wanted, deployment.secrets)
    if deployment.target in ("local", "docker") and deployment.folder is not None:
        from infra.embedded import logs as files

        return files.lines(deployment.folder, wanted, deployment.secrets)
    raise LettaOpsError(
        "no-logs",
        f"the logs of stack '{deployment.stack}' are not within reach",
        "letta-ops reads the logs of stacks that it runs; look on the server's own machine",
    )


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
