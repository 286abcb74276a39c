"""Provisioning: `pulumi up`, `preview` and `destroy` of one stack, with everything they need found."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from infra.deployment import Deployment
from infra.embedded import supervisor
from infra.engine import Events, ResourceChange
from infra.errors import LettaOpsError
from infra.files import held
from infra.locations import StackFolder, ensure_writable, stack_folder
from infra.passphrase import ensure_passphrase, has_own_passphrase
from infra.process import command, follow, run
from infra.profiles import load
from infra.project import break_dead_lock, exists, live_lock, write_project
from infra.pulumi_cli import PulumiCli, find_pulumi, pulumi_environment

Report = Callable[[str], None]

WAIT_SECONDS = 600.0  # for an earlier run that is still working
HINT = "mend the cause and run the same command again: what was made is kept and used"


@dataclass(frozen=True)
class Request:
    """Which stack, and settings (flat keys) to keep in its configuration before it runs."""

    stack: str
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a run changed (or would change). `changes` counts resources by Pulumi's words."""

    stack: str
    changes: Mapping[str, int]
    resources: tuple[ResourceChange, ...]
    seconds: float
    deployment: Deployment | None = None

    @property
    def changed(self) -> bool:
        return any(count for action, count in self.changes.items() if action != "same")


@dataclass(frozen=True)
class _Run:
    """A found CLI and the environment and arguments that every call of it has."""

    cli: PulumiCli
    folder: StackFolder
    environment: Mapping[str, str]

    def pulumi(
        self, *arguments: str, report: Report | None = None, preview: bool = False
    ) -> Events:
        events = Events(report or (lambda _: None), preview)
        job = command(
            self.cli.executable, "--cwd", self.folder.project, "--non-interactive", *arguments,
            environment=self.environment,
        )  # fmt: skip
        try:
            follow(
                job,
                events.read,
                code="pulumi",
                hint=HINT,
                what=f"pulumi {arguments[0]}",
                on_interrupt=lambda: events.report(
                    "interrupted: the step at hand is finished first (again: stop at once)"
                ),
            )
        except LettaOpsError as error:
            raise _explain(self.folder, events, error) from None
        return events


def up(request: Request, report: Report) -> Outcome:
    """Make the stack what its configuration says; return what changed, and the deployment.

    Raises LettaOpsError; what was made before the failure is kept, and the next run goes on there.
    """
    started = time.monotonic()
    folder = stack_folder(request.stack)
    ensure_writable(folder.root)
    with held(folder.lock, "letta-ops up", wait=False):
        job = _prepare(folder, request, report)
        events = job.pulumi(
            "up", "--stack", request.stack, "--yes", "--skip-preview", "--json", report=report
        )
    return _outcome(request, events, started, load(folder))


def preview(request: Request, report: Report) -> Outcome:
    """Say what `up` would change, with the request's settings, which are not kept."""
    started = time.monotonic()
    folder = stack_folder(request.stack)
    ensure_writable(folder.root)
    with held(folder.lock, "letta-ops preview", wait=False):
        job = _prepare(folder, request, report, keep=False)
        events = job.pulumi(
            "preview", "--stack", request.stack, "--json", report=report, preview=True
        )
    return _outcome(request, events, started, None)


def destroy(request: Request, report: Report, delete_data: bool = False) -> Outcome:
    """Stop and remove the stack's services; its data, profile and logs stay unless `delete_data`."""
    started = time.monotonic()
    folder = stack_folder(request.stack)
    if not folder.root.is_dir():
        raise LettaOpsError(
            "no-stack",
            f"there is no stack '{request.stack}' in {folder.state}",
            "see `ls` of that folder, and name the stack with --stack",
        )
    with held(folder.lock, "letta-ops destroy", wait=False):
        job = _prepare(folder, request, report)
        events = job.pulumi(
            "destroy", "--stack", request.stack, "--yes", "--skip-preview", "--json", report=report
        )
        if delete_data:
            job.pulumi("stack", "rm", request.stack, "--yes", "--force")
            supervisor.stop(folder)  # also what Pulumi's state knew nothing of
            shutil.rmtree(folder.root)
            report(f"deleted {folder.root}")
    return _outcome(request, events, started, None)


def _prepare(folder: StackFolder, request: Request, report: Report, *, keep: bool = True) -> _Run:
    cli = find_pulumi(report)
    if not has_own_passphrase(os.environ):
        ensure_passphrase(folder.state)
    environment = pulumi_environment(folder.state, cli, os.environ)
    environment["PULUMI_ENABLE_STREAMING_JSON_PREVIEW"] = "true"
    environment["LETTA_OPS_STATE"] = str(folder.state)
    # Providers start programs; grpc would print a line for each fork.
    environment["GRPC_ENABLE_FORK_SUPPORT"] = "false"
    environment["GRPC_VERBOSITY"] = "NONE"
    project = write_project(folder, request.config, keep=keep)
    _wait_for_other_run(folder, report)
    folder.last_error.unlink(missing_ok=True)
    job = _Run(cli, folder, environment)
    known = exists(folder, environment)
    if known is None:
        run(command(cli.executable, "--cwd", project, "--non-interactive", "stack", "select",
                    "--create", request.stack, environment=environment),
            code="pulumi", hint=HINT, what="choosing the stack")  # fmt: skip
    elif not known:
        job.pulumi("stack", "init", "--no-select", request.stack)
    return job


def _wait_for_other_run(folder: StackFolder, report: Report) -> None:
    """Wait for a Pulumi run that outlived the command that started it; clear up after dead ones."""
    deadline = time.monotonic() + WAIT_SECONDS
    told = False
    while (pid := live_lock(folder)) is not None:
        if not told:
            report(f"an earlier run (pulumi, pid {pid}) is still working on this stack: waiting")
            told = True
        if time.monotonic() > deadline:
            raise LettaOpsError(
                "locked",
                f"pulumi (pid {pid}) has held this stack's lock for {WAIT_SECONDS:.0f} s",
                f"look at it with `ps -fp {pid}`; end it when it hangs, then run this again",
            )
        time.sleep(0.5)
    if message := break_dead_lock(folder):
        report(message)


def _outcome(
    request: Request, events: Events, started: float, deployment: Deployment | None
) -> Outcome:
    return Outcome(
        request.stack,
        events.changes,
        tuple(events.resources),
        round(time.monotonic() - started, 1),
        deployment,
    )


def _explain(folder: StackFolder, events: Events, error: LettaOpsError) -> LettaOpsError:
    """Turn a failed run into the error that our program or a provider kept, else Pulumi's words."""
    try:
        kept = json.loads(folder.last_error.read_text())
        return LettaOpsError(kept["code"], kept["message"], kept["hint"])
    except (OSError, ValueError, KeyError):
        pass
    words = "\n".join([*events.errors, *events.other]).strip() or error.message
    if "incorrect passphrase" in words:  # the CLI has no exit code of its own for it
        return LettaOpsError(
            "wrong-passphrase",
            "Pulumi's state can't be read: the passphrase is not the one it was encrypted with",
            f"put your copy of {folder.state / 'passphrase'} back, or set"
            " PULUMI_CONFIG_PASSPHRASE_FILE to the right one",
        )
    return LettaOpsError("pulumi", words, HINT)
