"""The loop that runs scheduled work when it is due: one run at a time, one loop for each stack."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from backups.schedule import (
    BACKUP,
    DRILL,
    Job,
    Run,
    begun,
    due,
    failed,
    known,
    local_zone,
    passed,
    run_of,
)
from infra.errors import LettaOpsError
from infra.files import held, is_held, write_file
from infra.process import Finished, Report, command, watch
from infra.sensitive import Sensitive
from infra.stack.deployment import SERVICE_SCHEDULER, Deployment
from infra.stack.locations import StackFolder

SLICE_SECONDS = 30.0  # so that a clock that was put forward, or a sleep of the machine, is noticed
LAST_LINES = 5
PATIENCE_SECONDS = 60.0
MARK = "LETTA_OPS_SCHEDULED"  # in the environment of what we run, with the stack's folder


def scheduled(deployment: Deployment) -> tuple[tuple[Job, str], ...]:
    """The jobs that have a schedule."""
    backups = deployment.backups
    pairs = ((BACKUP, backups.backup.schedule), (DRILL, backups.drill.schedule))
    return tuple((job, schedule) for job, schedule in pairs if schedule is not None)


def service_state(folder: StackFolder) -> str:
    """`running`, wherever it was started; `stopped`: the stack has one, and it doesn't; `none`."""
    if is_held(folder.schedule_lock):
        return "running"
    return "stopped" if folder.program(SERVICE_SCHEDULER).exists() else "none"


def read_runs(path: Path) -> dict[str, Run]:
    """What is known of each job by its name. Raises LettaOpsError (`schedule-unreadable`)."""
    try:
        document = json.loads(path.read_text())
        return {name: run_of(run) for name, run in document.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not as we write it"
        raise LettaOpsError(
            "schedule-unreadable",
            f"{path} can't be read: {reason}",
            "remove it: the next backup is then made at once, and the times begin anew",
        ) from None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class Scheduler:
    """`program` is letta-ops with the words that name the stack; `tell` gets a line at a time."""

    folder: StackFolder
    jobs: tuple[tuple[Job, str], ...]
    program: tuple[str, ...]
    tell: Report
    secrets: tuple[Sensitive, ...] = ()
    zone: dt.tzinfo = field(default_factory=local_zone)
    now: Callable[[], dt.datetime] = _now
    sleep: Callable[[float], None] = time.sleep

    def work(self) -> None:
        """Run what is due, for ever. SIGTERM and Ctrl-C end it, and the command at hand with it.

        Raises LettaOpsError: `nothing-scheduled`, `scheduler-runs` (there is one already), and
        `schedule-unreadable`.
        """
        if not self.jobs:
            raise LettaOpsError(
                "nothing-scheduled",
                f"stack '{self.folder.stack}' has no schedule",
                f"`letta-ops --stack {self.folder.stack} up --config 'backup.schedule=30 2 * * *'`,"
                " or write it into the profile",
            )
        # Where we were started in the background it may be ignored, and would be below us.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with held(self.folder.schedule_lock, "the scheduler"):
                self._clear_up()
                while True:
                    self.sleep(min(SLICE_SECONDS, max(0.0, self.turn())))
        except LettaOpsError as error:
            raise _runs_already(self.folder) if error.code == "locked" else error from None

    def turn(self) -> float:
        """Run what is due; return in how many seconds the next time is."""
        following = []
        for job, schedule in self.jobs:
            before = read_runs(self.folder.schedule).get(job.name)
            run = known(before, schedule, self.now())
            found = due(job, run, self.now(), self.zone)
            if found.now:
                self._say(job, f"begins: {found.reason}")
                run = self._run(job, begun(run, self.now(), again=found.again))
                found = due(job, run, self.now(), self.zone)
                when = found.next.astimezone(self.zone)
                self._say(job, f"{run.result}; the next is at {when:%Y-%m-%d %H:%M}")
            elif run != before:
                self._keep(job, run)
            following.append(self.now() if found.now else found.next)
        return (min(following) - self.now()).total_seconds()

    def _run(self, job: Job, run: Run) -> Run:
        code = 0
        for step in range(run.step, len(job.commands)):
            run = self._keep(job, replace(run, step=step))
            called = " ".join(job.commands[step][:2])
            try:
                finished = self._finished(job, step)
            except LettaOpsError as error:
                return self._keep(job, failed(run, self.now(), error.message))
            except KeyboardInterrupt:
                self._keep(job, failed(run, self.now(), f"`{called}` was ended with the scheduler"))
                raise
            code = finished.returncode
            if code not in job.answers:
                said = "\n".join(finished.stderr.splitlines()[-LAST_LINES:])
                return self._keep(job, failed(run, self.now(), f"`{called}`: {said}", code))
        return self._keep(job, passed(run, self.now(), code))

    def _finished(self, job: Job, step: int) -> Finished:
        arguments = job.commands[step]
        return watch(
            command(
                *self.program, *arguments,
                environment={**os.environ, MARK: str(self.folder.root)},
                secrets=self.secrets,
            ),
            lambda line: self._say(job, f"{arguments[1]}: {line}"),
            code="scheduled", hint="", what=" ".join(arguments),
            # supervisord signals our group: the command hears of its end once, from us.
            apart=True,
        )  # fmt: skip

    def _clear_up(self) -> None:
        """End what a killed scheduler has left running, and note that it came to no end."""
        end_leftovers(self.folder)
        for name, run in read_runs(self.folder.schedule).items():
            if run.result == "running":
                self._write(name, failed(run, self.now(), "its scheduler was killed"))

    def _keep(self, job: Job, run: Run) -> Run:
        self._write(job.name, run)
        return run

    def _write(self, name: str, run: Run) -> None:
        runs = {**read_runs(self.folder.schedule), name: run}
        text = json.dumps({each: runs[each].as_json() for each in sorted(runs)}, indent=2)
        write_file(self.folder.schedule, text + "\n", 0o600)

    def _say(self, job: Job, text: str) -> None:
        self.tell(f"{self.now().astimezone(self.zone):%Y-%m-%d %H:%M:%S} {job.name}: {text}")


def end_leftovers(folder: StackFolder) -> None:
    """End the commands of a scheduler that was killed: nobody hears them, and ours would wait."""
    import psutil

    found = []
    for candidate in psutil.process_iter():
        with suppress(psutil.Error):
            if _is_left(candidate.environ(), folder) and candidate.pid != os.getpid():
                candidate.send_signal(signal.SIGINT)
                found.append(candidate)
    for survivor in psutil.wait_procs(found, timeout=PATIENCE_SECONDS)[1]:
        with suppress(psutil.Error):
            survivor.kill()


def _is_left(environment: Mapping[str, str], folder: StackFolder) -> bool:
    return environment.get(MARK) == str(folder.root)


def _runs_already(folder: StackFolder) -> LettaOpsError:
    holder = folder.schedule_lock.read_text().strip()
    return LettaOpsError(
        "scheduler-runs",
        f"stack '{folder.stack}' has its scheduler already: {holder}",
        f"see `letta-ops --stack {folder.stack} backup schedule`; there is nothing to start",
    )
