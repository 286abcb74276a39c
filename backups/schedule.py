"""When scheduled work is due, what came of it the last time, and when it is tried again. Pure."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

# After a failure, minutes until the next try; the last goes on until the next regular time.
RETRY_MINUTES = (5, 15, 60)
LOCAL_TIME = Path("/etc/localtime")


@dataclass(frozen=True)
class Job:
    """Work that has a schedule: `commands` of letta-ops, one after the other.

    `answers` are exit codes that need no other try: the work was done, whatever it found.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    at_once: bool = False  # without any run known, it begins with one
    answers: frozenset[int] = frozenset({0})


WAIT_SECONDS = "900"  # for an `up` that is at work, above all the one that began the schedule
BACKUP = Job(
    "backup",
    (
        ("backup", "create", "--label", "scheduled", "--wait", WAIT_SECONDS),
        ("backup", "prune", "--yes"),
    ),
    at_once=True,
)
UNVERIFIED = 3  # the exit code of a drill that could not check everything
DRILL = Job("drill", (("backup", "drill"),), answers=frozenset({0, UNVERIFIED}))
JOBS = (BACKUP, DRILL)


@dataclass(frozen=True)
class Run:
    """What is known of a job's schedule and its last run. Times are in UTC.

    `since`: when this schedule began. `result`: `running`, `passed`, `unverified`, `failed`; None: it
    has never run. `step` is which of the job's commands it is at, or that failed; `attempt` counts
    from the regular time on.
    """

    schedule: str
    since: dt.datetime
    started: dt.datetime | None = None
    ended: dt.datetime | None = None
    result: str | None = None
    code: int | None = None
    error: str | None = None
    step: int = 0
    attempt: int = 0

    def as_json(self) -> dict[str, Any]:
        times = {name: getattr(self, name) for name in TIMES}
        written = {name: time.isoformat() if time else None for name, time in times.items()}
        return {**{name: getattr(self, name) for name in PLAIN}, **written}


def run_of(document: Mapping[str, Any]) -> Run:
    """The `Run` that `as_json` described. Raises ValueError, KeyError or TypeError."""
    times: dict[str, Any] = {
        name: dt.datetime.fromisoformat(document[name]) if document[name] else None
        for name in TIMES
    }
    if times["since"] is None or any(time and time.tzinfo is None for time in times.values()):
        raise ValueError("a time without a zone")
    return Run(**{name: document[name] for name in PLAIN}, **times)


TIMES = ("since", "started", "ended")
PLAIN = ("schedule", "result", "code", "error", "step", "attempt")


@dataclass(frozen=True)
class Due:
    """Whether a run is due `now`, why, and when the next one is (in UTC)."""

    now: bool
    reason: str
    next: dt.datetime
    again: bool = False  # the last one failed, and this is another try at it


def known(run: Run | None, schedule: str, now: dt.datetime) -> Run:
    """What to go on with: a schedule that is new, or another one, begins now.

    So does one whose last run is in the future: the clock was put back.
    """
    if run is None:
        return Run(schedule, now)
    if run.schedule != schedule:
        return replace(run, schedule=schedule, since=now)
    if max(run.since, run.started or run.since) > now:
        started = min(run.started, now) if run.started else None
        return replace(run, since=min(run.since, now), started=started)
    return run


def due(job: Job, run: Run, now: dt.datetime, zone: dt.tzinfo) -> Due:
    """Whether `job` is to run now. However many runs were missed, they are caught up with by one."""
    following = next_time(run.schedule, now, zone)
    if run.started is None and job.at_once:
        return Due(True, "there has been none yet", following)
    last = max(run.since, run.started or run.since)
    regular = next_time(run.schedule, last, zone)
    if regular <= now:
        late = next_time(run.schedule, regular, zone) <= now
        return Due(True, "at least one was missed" if late else "it is time", following)
    if run.result == "failed" and run.ended is not None:
        minutes = RETRY_MINUTES[min(run.attempt, len(RETRY_MINUTES)) - 1]
        retry = run.ended + dt.timedelta(minutes=minutes)
        if retry <= now:
            return Due(True, f"the last one failed {minutes} minutes ago", following, again=True)
        return Due(False, "the last one failed", min(retry, following))
    return Due(False, "it is not yet time", following)


def next_time(schedule: str, after: dt.datetime, zone: dt.tzinfo) -> dt.datetime:
    """The first time of `schedule` behind `after`, by the clocks of `zone`; in UTC."""
    from cronsim import CronSim

    return next(CronSim(schedule, after.astimezone(zone))).astimezone(dt.UTC)


def begun(run: Run, now: dt.datetime, *, again: bool) -> Run:
    """The run that begins now; `again` for another try, which begins with what failed."""
    return replace(
        run,
        started=now,
        ended=None,
        result="running",
        code=None,
        error=None,
        step=run.step if again else 0,
        attempt=run.attempt + 1 if again else 1,
    )


def passed(run: Run, now: dt.datetime, code: int = 0) -> Run:
    return replace(run, ended=now, result="passed" if code == 0 else "unverified", code=code)


def failed(run: Run, now: dt.datetime, error: str, code: int | None = None) -> Run:
    """The run that ended at its `step`; `code` is None where no program said one."""
    return replace(run, ended=now, result="failed", code=code, error=error)


def local_zone(environment: Mapping[str, str] = os.environ) -> dt.tzinfo:
    """The time zone of this machine, with its changes of summer and winter."""
    with suppress(OSError, ValueError, KeyError):
        if name := environment.get("TZ", "").removeprefix(":"):
            return ZoneInfo(name)
        with LOCAL_TIME.open("rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    # Without a data base of zones: what the C library makes of it, as of today.
    return dt.datetime.now().astimezone().tzinfo or dt.UTC
