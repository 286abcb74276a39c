"""Provisioning: `pulumi up`, `preview` and `destroy` of one stack, with everything they need found."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infra.accounts import remove_accounts
from infra.embedded.throwaway import remove_leftovers
from infra.errors import LettaOpsError
from infra.files import held, make_folder, write_file
from infra.process import Report, command, follow
from infra.pulumi_cli import last_error
from infra.pulumi_cli.backend import exists, forget, has_pending, is_ours, locks, mend
from infra.pulumi_cli.cli import chosen_by_user, find_pulumi, pulumi_environment
from infra.pulumi_cli.cli_cache import PulumiCli
from infra.pulumi_cli.events import Events, ResourceChange
from infra.pulumi_cli.passphrase import ensure_passphrase, has_own_passphrase
from infra.pulumi_cli.project import SCHEMA, configuration_file, configured, write_project
from infra.pulumi_cli.recovery import clear_pending, complete_profile, exported_state
from infra.stack.locations import StackFolder, ensure_writable, stack_folder
from infra.stack.profile import remembered
from infra.stack.releases import NEWEST, OTHER_SCHEMA, RELEASES, needs_migration
from infra.stack.schema import as_text, stack_schema
from infra.targets import DEFAULT, all_settings, chosen, settings

if TYPE_CHECKING:
    from infra.targets.target import Target

WAIT_SECONDS = 600.0  # for an earlier run that is still working
REMOVED = ".removed"  # in the state folder: profiles of stacks that were deleted
Schema = Literal["refuse", "migrate", "leave"]
FLAGS = "PULUMI_OPTION_"
HINT = "mend the cause and run the same command again: what was made is kept and used"


@dataclass(frozen=True)
class Request:
    """Which stack, and settings (flat keys) to keep in its configuration before it runs.

    `held`: the caller holds the stack's lock already. `data_lost`: begin with an empty database, where
    the data is gone. `schema`: what becomes of a database of another release's: it is refused, brought
    to this one, or left alone.
    """

    stack: str
    config: Mapping[str, str] = field(default_factory=dict)
    held: bool = False
    data_lost: bool = False
    schema: Schema = "refuse"


@dataclass(frozen=True)
class Outcome:
    """What a run changed (or would change). `changes` counts resources by Pulumi's words."""

    stack: str
    changes: Mapping[str, int]
    resources: tuple[ResourceChange, ...]
    seconds: float
    kept: Path | None = None  # where the profile of a stack is, whose data is deleted


@dataclass(frozen=True)
class _Pulumi:
    """The CLI that was found, the project of the stack, and the environment of every call."""

    cli: PulumiCli
    folder: StackFolder
    environment: Mapping[str, str]

    def call(self, *arguments: str, events: Events | None = None) -> None:
        """Run `pulumi ARGUMENTS...`; raises LettaOpsError with the best words for a failure."""
        events = events or Events(lambda _: None)
        job = command(
            self.cli.executable, "--cwd", self.folder.project, "--non-interactive", *arguments,
            environment=self.environment,
        )  # fmt: skip
        notice = "interrupted: the step at hand is finished first (again: stop at once)"
        try:
            follow(
                job,
                events.read,
                code="pulumi",
                hint=HINT,
                what=f"pulumi {arguments[0]}",
                apart=True,
                on_interrupt=lambda: events.report(notice),
            )
        except LettaOpsError as error:
            raise _explain(self.folder, events, error) from None


def up(request: Request, report: Report) -> Outcome:
    """Make the stack what its configuration says.

    Raises LettaOpsError; what was made before the failure is kept, and the next run goes on there.
    """
    return _run(request, report, "up", "--yes", "--skip-preview")


def preview(request: Request, report: Report) -> Outcome:
    """Say what `up` would change, with the request's settings, which are not kept.

    Of a stack that was never brought up, this makes Pulumi's (empty) entry.
    """
    return _run(request, report, "preview", keep=False)


def data_of(stack: str) -> tuple[str, ...]:
    """Where the stack's data is, besides its folder."""
    folder = stack_folder(stack)
    configuration = configured(folder)
    return tuple(_target(folder, configuration, "destroy").data(folder, configuration))


def destroy(request: Request, report: Report, delete_data: bool = False) -> Outcome:
    """Stop and remove the stack's services; its data, profile and logs stay unless `delete_data`, and
    then its profile is moved aside: nothing deletes the last copy of a key that backups need."""
    folder = stack_folder(request.stack)
    if not folder.root.is_dir():
        raise LettaOpsError(
            "no-stack",
            f"there is no stack '{request.stack}' in {folder.state}",
            "see `ls` of that folder, and name the stack with --stack",
        )
    outcome = _run(request, report, "destroy", "--yes", "--skip-preview")
    with held(folder.lock, "letta-ops destroy"):
        configuration = configured(folder)
        _target(folder, configuration, "destroy").remove(
            folder, configuration, delete_data=delete_data
        )
        if delete_data:
            pulumi = _prepare(folder, request, report, keep=True)
            pulumi.call("stack", "rm", request.stack, "--yes", "--force")
            forget(folder)
            remove_leftovers(folder.root, report)  # of drills that were killed
            outcome = replace(outcome, kept=_keep_profile(folder))
            shutil.rmtree(folder.root)
            remove_accounts(folder)
            report(f"deleted {folder.root}")
    return outcome


def _keep_profile(folder: StackFolder) -> Path | None:
    """Move the profile to where nothing of the stack is removed; None where there is none."""
    if not folder.profile.is_file():
        return None
    kept = folder.state / REMOVED / f"{folder.stack}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.toml"
    make_folder(kept.parent)
    folder.profile.rename(kept)
    return kept


def _run(request: Request, report: Report, verb: str, *flags: str, keep: bool = True) -> Outcome:
    started = time.monotonic()
    folder = stack_folder(request.stack)
    ensure_writable(folder.root)
    with nullcontext() if request.held else held(folder.lock, f"letta-ops {verb}"):
        if verb != "destroy" and request.schema == "refuse" and not request.data_lost:
            _ensure_same_schema(folder, request)
        pulumi = _prepare(folder, request, report, keep=keep)
        events = Events(report, preview=verb == "preview")
        configuration = configured(folder)
        target = _target(folder, configuration, verb)
        pulumi = replace(pulumi, environment={**pulumi.environment, **target.environment()})
        if target.refreshes and verb != "destroy":
            flags = (*flags, "--refresh")
            _recover(pulumi, target, configuration, report, remove=verb == "up")
        if request.data_lost:
            target.forget_lost_data(folder, configuration)
            # What ran on it goes, so that all is made from the beginning; the keys stay.
            pulumi.call("destroy", "--yes", "--skip-preview", "--stack", request.stack)
        pulumi.call(verb, "--stack", request.stack, "--json", *flags, events=events)
        if verb == "up" and has_pending(folder):
            clear_pending(pulumi.cli, folder, pulumi.environment)
    seconds = round(time.monotonic() - started, 1)
    return Outcome(request.stack, events.changes, tuple(events.resources), seconds)


def _ensure_same_schema(folder: StackFolder, request: Request) -> None:
    """Raise LettaOpsError (`migration-needed`) where the release asked for has another schema than the
    one that runs: before that is kept in the configuration. What Pulumi itself runs, the step that
    migrates refuses."""
    there = RELEASES.get(remembered(folder.profile, "release") or "")
    asked = request.config.get("release") or configured(folder).get("release")
    wanted = RELEASES.get(str(asked or NEWEST))
    if there and wanted and there.alembic_head != wanted.alembic_head and folder.profile.is_file():
        raise needs_migration(there.version, there.alembic_head, wanted.version)


def _target(folder: StackFolder, configuration: Mapping[str, Any], verb: str) -> Target:
    """The stack's target. Raises LettaOpsError (`unknown-target`), but not where it is to be ended:
    then that of its profile is meant."""
    try:
        return chosen(folder.stack, configuration)
    except LettaOpsError:
        if verb != "destroy":
            raise
    return chosen(folder.stack, {"target": remembered(folder.profile, "target") or DEFAULT})


def _recover(
    pulumi: _Pulumi,
    target: Target,
    configuration: Mapping[str, Any],
    report: Report,
    *,
    remove: bool,
) -> None:
    """Bring back what the profile lacks; with `remove`, remove what a run that was killed has left."""
    folder = pulumi.folder
    state = exported_state(pulumi.cli, folder, pulumi.environment, "--show-secrets")
    if state is None:
        return
    complete_profile(folder, state, report)
    if remove:
        for name in target.remove_unfinished(folder, configuration, state):
            report(f"{name} was left by a run that was killed: removed")


def _prepare(folder: StackFolder, request: Request, report: Report, *, keep: bool) -> _Pulumi:
    """Find the CLI and the passphrase, write the project, and wait for our turn."""
    cli = find_pulumi(report)
    if not has_own_passphrase(os.environ):
        ensure_passphrase(folder.state)
    # Flags that Pulumi would take from it are another project's: we have said which ones we want.
    ours = {key: value for key, value in os.environ.items() if not key.startswith(FLAGS)}
    environment = pulumi_environment(folder.state, cli, ours)
    environment["PULUMI_ENABLE_STREAMING_JSON_PREVIEW"] = "true"
    environment["LETTA_OPS_STATE"] = str(folder.state)
    environment[OTHER_SCHEMA] = request.schema
    write_project(folder, request.config, settings, keep=keep)
    if request.config and keep:
        schema = as_text(stack_schema(all_settings().values()))
        write_file(configuration_file(folder).with_name(SCHEMA), schema, 0o644)
    _wait_for_other_run(folder, report)
    mend(folder, report)
    last_error.take(folder)
    pulumi = _Pulumi(cli, folder, environment)
    if not is_ours(folder, environment):
        _select_elsewhere(pulumi, request.stack)
    elif not exists(folder):
        pulumi.call("stack", "init", "--no-select", request.stack)
    return pulumi


def _select_elsewhere(pulumi: _Pulumi, stack: str) -> None:
    """Choose the stack in the user's own backend. One whose state is in ours is not made anew there."""
    if not exists(pulumi.folder):
        pulumi.call("stack", "select", "--create", stack)
        return
    try:
        pulumi.call("stack", "select", stack)
    except LettaOpsError as error:
        if "no stack named" not in error.message:
            raise
        raise LettaOpsError(
            "other-backend",
            f"the stack's state is in {pulumi.folder.backend}, and there is none where"
            " PULUMI_BACKEND_URL says",
            "PULUMI_BACKEND_URL came from this shell: `unset` it if another project needs it; or move"
            " the state there (`pulumi stack export` and `import`)",
        ) from None


def _wait_for_other_run(folder: StackFolder, report: Report) -> None:
    """Wait for a Pulumi run that outlived the command that started it; clear up after dead ones.

    Pulumi never removes the lock of a run that was killed.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    reported = False
    while found := list(locks(folder)):
        living = [lock for lock in found if lock.is_held]
        if not living:
            for lock in found:
                lock.path.unlink(missing_ok=True)
                report(f"an earlier run (pid {lock.pid or '?'}) was killed; its lock is removed")
            continue
        if not reported:
            report(f"an earlier run (pulumi, pid {living[0].pid}) is still at work: waiting for it")
            reported = True
        if time.monotonic() > deadline:
            raise LettaOpsError(
                "locked",
                f"pulumi (pid {living[0].pid}) has held this stack for {WAIT_SECONDS:.0f} s",
                f"look at it with `ps -fp {living[0].pid}`; end it if it hangs, and run this again",
            )
        time.sleep(0.5)


def _explain(folder: StackFolder, events: Events, error: LettaOpsError) -> LettaOpsError:
    """Turn a failed run into the error that our program or a provider kept, else Pulumi's words."""
    if kept := last_error.take(folder):
        return kept
    message = "\n".join([*events.errors, *events.other]).strip() or error.message
    told = _targets_error(folder, message) or LettaOpsError("pulumi", message, HINT)
    if "incorrect passphrase" in message:  # the CLI has no exit code of its own for it
        told = LettaOpsError(
            "wrong-passphrase",
            "Pulumi's state can't be read: the passphrase is not the one it was encrypted with",
            f"put your copy of {folder.state / 'passphrase'} back, or set"
            " PULUMI_CONFIG_PASSPHRASE_FILE to the right one",
        )
    if told.code in ("pulumi", "wrong-passphrase") and (names := chosen_by_user(os.environ)):
        told.hint += (
            f"; {' and '.join(names)} came from this shell: `unset` what another project needs"
        )
    return told


def _targets_error(folder: StackFolder, message: str) -> LettaOpsError | None:
    """What the target knows of a failure; None for nothing."""
    try:
        configuration = configured(folder)
        settings(folder.stack, configuration)  # what is wrong there, the run itself has told
        return chosen(folder.stack, configuration).explain(folder, configuration, message)
    except LettaOpsError:
        return None  # what failed first is what is told
