"""`letta-ops backup schedule`: what is scheduled, what came of it, and the service that runs it."""

from __future__ import annotations

import datetime as dt
import enum
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.invocation import Invocation, current
from ops_cli.output import Part, Table, note, present, print_json

if TYPE_CHECKING:
    from backups.schedule import Job, Run

EXAMPLE = "30 2 * * *"


class Form(enum.StrEnum):
    """Whose files `--print` writes."""

    SYSTEMD = "systemd"
    CRON = "cron"


def schedule(
    context: typer.Context,
    form: Annotated[
        Form | None,
        typer.Option(
            "--print",
            help="Print a unit for systemd, or lines for cron, where nothing else runs it.",
        ),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", hidden=True, help="Run what is due, until it is ended.")
    ] = False,
) -> None:
    """Show what is scheduled, what came of it the last time, and whether its service runs."""
    invocation = current(context)
    if form is not None:
        text = _printed(invocation, form)
        if invocation.json:
            print_json({"form": form.value, "text": text})
        else:
            print(text, end="")
    elif run:
        _run(invocation)
    else:
        present(invocation, _described(invocation), _render)


def _run(invocation: Invocation) -> None:
    from backups.scheduler import Scheduler, scheduled

    deployment = invocation.deployment()
    jobs, program = scheduled(deployment), _program(invocation)
    scheduler = Scheduler(invocation.folder, jobs, program, note, deployment.secrets)
    try:
        scheduler.work()
    except KeyboardInterrupt:
        note("the scheduler was ended")  # as it was asked to: that is no failure


def _program(invocation: Invocation) -> tuple[str, ...]:
    # -P: what lies in the folder where it starts hides no module of ours.
    arguments = (sys.executable, "-P", "-m", "ops_cli", "--stack", invocation.stack)
    profile = invocation.profile
    return arguments if profile is None else (*arguments, "--profile", str(profile.absolute()))


def _printed(invocation: Invocation, form: Form) -> str:
    from backups.schedule import BACKUP
    from backups.schedule_files import crontab, systemd_unit
    from backups.scheduler import scheduled
    from infra.accounts import operator
    from infra.errors import LettaOpsError

    jobs = scheduled(invocation.deployment())
    environment = _environment(invocation)
    if form is Form.CRON:
        return crontab(jobs or ((BACKUP, EXAMPLE),), _program(invocation), environment)
    if not jobs:
        raise LettaOpsError(
            "nothing-scheduled",
            f"stack '{invocation.stack}' has no schedule for the unit to run",
            f"set backup.schedule ({EXAMPLE}), in the profile where no `up` keeps it",
        )
    path = {"PATH": os.environ.get("PATH", os.defpath)}
    return systemd_unit(
        invocation.stack, _program(invocation), operator().name, {**environment, **path}
    )


def _environment(invocation: Invocation) -> dict[str, str]:
    """What another environment than this shell's must be told to find the same folders."""
    from infra.stack.locations import cache_folder, state_folder

    bare = {"HOME": os.environ.get("HOME", "/")}
    environment = {}
    if invocation.folder.state != state_folder(bare):
        environment["LETTA_OPS_STATE"] = str(invocation.folder.state)
    if cache_folder() != cache_folder(bare):
        environment["LETTA_OPS_CACHE"] = str(cache_folder())
    if stacks := os.environ.get("LETTA_OPS_STACKS"):
        environment["LETTA_OPS_STACKS"] = str(Path(stacks).absolute())
    return environment


def _described(invocation: Invocation) -> dict[str, Any]:
    from backups.schedule import JOBS
    from backups.scheduler import read_runs, scheduled, service_state

    given = {job.name: text for job, text in scheduled(invocation.deployment())}
    runs = read_runs(invocation.folder.schedule)
    service = service_state(invocation.folder)
    return {
        **{
            job.name: _job(job, given.get(job.name), runs.get(job.name), service=service)
            for job in JOBS
        },
        "service": service,
    }


def _job(job: Job, given: str | None, run: Run | None, *, service: str) -> dict[str, Any]:
    from backups.schedule import due, known, local_zone

    zone, now = local_zone(), dt.datetime.now(dt.UTC)
    found = due(job, known(run, given, now), now, zone) if given else None
    result = run.result if run else None
    if result == "running" and service != "running":
        result = "failed"  # it was killed together with the service, which hasn't come back
    return {
        "schedule": given,
        "last": run.started.astimezone(zone).isoformat() if run and run.started else None,
        "result": result,
        "code": run.code if run else None,
        "error": run.error if run else None,
        "next": (now if found.now else found.next).astimezone(zone).isoformat() if found else None,
    }


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    jobs = {name: job for name, job in answer.items() if name != "service"}
    yield Table(
        ("job", "schedule", "last", "result", "next"),
        [
            (
                name,
                job["schedule"] or "not scheduled",
                _clock(job["last"]),
                job["result"] or "-",
                _clock(job["next"]),
            )
            for name, job in jobs.items()
        ],
    )
    for name, job in jobs.items():
        if job["error"]:
            yield f"{name} failed: {job['error']}"
    yield f"service: {answer['service']}"


def _clock(text: str | None) -> str:
    return "-" if text is None else f"{dt.datetime.fromisoformat(text):%Y-%m-%d %H:%M}"
