"""`letta-ops up`, `preview` and `destroy`: make a stack, say what would change, end it."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.profile import NEXT_KEY, load, remembered
from ops_cli.auditing import audited, known_deployment
from ops_cli.invocation import Invocation, current
from ops_cli.options import Config, DryRun, NoSmoke, Yes, new_app, pairs
from ops_cli.output import Part, Table, UnsuccessfulError, facts, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from healthchecks.smoke import Smoke
    from infra.provision import Request, Schema
    from infra.pulumi_cli.events import ResourceChange
    from infra.stack.deployment import Deployment

DONE = {
    "create": "created",
    "update": "updated",
    "replace": "replaced",
    "delete": "deleted",
    "same": "unchanged",
}


class Gate(enum.StrEnum):
    """What of a plan makes `preview` exit 1."""

    NEVER = "never"
    CHANGES = "changes"
    LOSSES = "losses"
    DATA = "data"

    def stops(self, change: ResourceChange) -> bool:
        if self is Gate.DATA:
            return change.loses and change.holds_data
        return self is Gate.CHANGES or (self is Gate.LOSSES and change.loses)


app = new_app("Make a stack, say what would change, end it.")


@app.command("up")
def up(
    context: typer.Context,
    config: Config = None,
    no_smoke: NoSmoke = False,
    data_lost: Annotated[
        bool,
        typer.Option(
            "--data-lost", help="The data is gone: begin with an empty database, to restore into."
        ),
    ] = False,
    migrate: Annotated[
        bool,
        typer.Option(
            "--migrate",
            help="Migrate the database of an older release, without rehearsal and way back.",
        ),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Bring the stack up, or up to date, and let the smoke test prove it."""
    from infra import provision
    from ops_cli.commands.backup.store import undo_interrupted
    from ops_cli.commands.smoke import failure

    invocation = current(context)
    schema: Schema = "migrate" if migrate else "refuse"
    request = replace(_request(invocation, config), data_lost=data_lost, schema=schema)
    if dry_run:
        _preview(invocation, request)
        return
    smoke: Smoke | None = None
    with audited(invocation, "up") as operation:
        operation.detail["settings"] = sorted(request.config)  # values may be anything
        with progress(invocation) as report:
            put_right(invocation, report)
            outcome = provision.up(request, report)
            operation.detail["changes"] = dict(outcome.changes)
            deployment = operation.deployment = load(invocation.folder, environment={})
            undo_interrupted(deployment, report)
            if finish_interrupted_rotation(invocation, deployment, report):
                deployment = operation.deployment = load(invocation.folder, environment={})
            if not no_smoke:
                smoke = _smoke(deployment, report)
        answer = {
            "stack": outcome.stack,
            "changes": dict(outcome.changes),
            "seconds": round(outcome.seconds, 1),
            "url": deployment.server.url,
            "profile": str(deployment.profile) if deployment.profile else None,
            "smoke": smoke and smoke.as_json(),
        }
        if smoke is not None and not smoke.passed:
            raise failure(invocation, smoke, answer)
    present(invocation, answer, lambda shown: _render_up(invocation, shown))


@app.command("preview")
def preview(
    context: typer.Context,
    config: Config = None,
    fail_on: Annotated[
        Gate,
        typer.Option(
            "--fail-on",
            help="Exit 1 when `up` would change anything (changes), replace or delete anything"
            " (losses), or replace or delete what holds data (data).",
        ),
    ] = Gate.NEVER,
) -> None:
    """Say what `up` would change, and change nothing."""
    invocation = current(context)
    _preview(invocation, _request(invocation, config), fail_on)


@app.command("destroy")
def destroy(
    context: typer.Context,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete the data too: agents, messages, secrets.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Stop every process of the stack. Its data stays, for the next `up`, unless told otherwise."""
    from infra import provision

    invocation = current(context)
    request = _request(invocation, None)
    _must_exist(invocation)
    fate = _fate(invocation, delete_data)
    if dry_run:
        answer = {"stack": invocation.stack, "dry_run": True, **fate}
        present(invocation, answer, _render_fate)
        return
    if not yes:
        _ask(invocation, delete_data)
    with audited(invocation, "destroy") as operation, progress(invocation) as report:
        operation.detail["delete_data"] = delete_data
        operation.deployment = known_deployment(invocation)
        outcome = provision.destroy(request, report, delete_data=delete_data)
        operation.ends_database = True
    answer = {
        "stack": outcome.stack,
        "changes": dict(outcome.changes),
        "seconds": round(outcome.seconds, 1),
        **fate,
        "profile": str(outcome.kept) if outcome.kept else None,
    }
    present(invocation, answer, lambda shown: _render_destroy(invocation, shown))


def put_right(invocation: Invocation, report: Report) -> None:
    """Go back from a restore or a migration that died with its machine: what runs then is what its
    configuration says at that moment, whichever database is there, and only as far as it comes."""
    from backups.restoring.journal import read_journal
    from infra import provision
    from ops_cli.commands.backup.store import undo_interrupted

    deployment = known_deployment(invocation)
    journal = None if deployment is None else read_journal(deployment)
    if deployment is None or journal is None:
        return
    report("an interrupted restore or migration is put right first")
    try:
        if (
            journal.cluster is None
        ):  # else Postgres is what is put right, and nobody is to write there
            provision.up(provision.Request(invocation.stack, schema="leave"), report)
    except LettaOpsError as error:
        if error.code == "locked":
            raise  # it is not interrupted: somebody is at work on it
        report(f"not all came up before that: {error.message}")
    undo_interrupted(deployment, report)


def finish_interrupted_rotation(
    invocation: Invocation, deployment: Deployment, report: Report
) -> bool:
    """Finish a rotation of the encryption key that was killed; whether there was one."""
    if remembered(invocation.folder.profile, NEXT_KEY) is None:
        return False
    from backups.lock import locked
    from ops_cli.rotating import finish_rotation

    with locked(deployment, None, "up", report):
        return finish_rotation(deployment, report)


def _request(invocation: Invocation, config: list[str] | None) -> Request:
    from infra.provision import Request

    if invocation.profile is not None:
        raise typer.BadParameter(
            "a profile names a server that is there already; name a stack with --stack",
            param_hint="--profile",
        )
    return Request(stack=invocation.stack, config=pairs(config or []))


def _preview(invocation: Invocation, request: Request, gate: Gate = Gate.NEVER) -> None:
    from infra import provision

    with progress(invocation) as report:
        outcome = provision.preview(request, report)
    answer = {
        "stack": outcome.stack,
        "changes": dict(outcome.changes),
        "resources": [
            {
                "name": change.name,
                "type": change.type,
                "action": change.action,
                "data": change.holds_data,
            }
            for change in outcome.resources
        ],
    }
    stopped = [change for change in outcome.resources if gate.stops(change)]
    answer["gate"] = {"fail_on": gate.value, "passed": not stopped}
    if not stopped or not invocation.json:
        present(invocation, answer, _render_preview)
    if stopped:
        names = ", ".join(f"{change.action} {change.name}" for change in stopped)
        raise UnsuccessfulError(
            "gate",
            f"--fail-on {gate.value} stops this: {names}",
            "look at the plan; run `up` on purpose when it is what you want",
            answer,
        )


def _smoke(deployment: Deployment, report: Report) -> Smoke:
    from healthchecks.smoke import run
    from ops_cli.commands.smoke import step_reporter

    return run(deployment, on_step=step_reporter(report))


def _must_exist(invocation: Invocation) -> None:
    if not invocation.folder.root.is_dir():
        raise LettaOpsError(
            "no-stack",
            f"there is no stack '{invocation.stack}' in {invocation.folder.state}",
            "look at the spelling, and at LETTA_OPS_STATE",
        )


def _ask(invocation: Invocation, delete_data: bool) -> None:
    from ops_cli.asking import confirm, confirm_name

    name = invocation.stack
    if delete_data:
        confirm_name(
            f"This deletes stack '{name}' with all its data in {_places(invocation)}. There is no way"
            " back but a backup; the profile with its keys is moved aside.",
            name,
            f"deleting the data of stack '{name}' needs its name typed on a terminal",
        )
    else:
        confirm(
            f"Stop every process of stack '{name}'? Its data stays in {_places(invocation)}.",
            f"stopping stack '{name}' needs a yes on a terminal",
        )


def _places(invocation: Invocation) -> str:
    return _all_places(_fate(invocation, False)["data"])


def _all_places(data: dict[str, Any]) -> str:
    return ", ".join([*data["also"], data["folder"]])


def _fate(invocation: Invocation, delete_data: bool) -> dict[str, Any]:
    from infra.provision import data_of

    places = list(data_of(invocation.stack))
    return {"data": {"folder": str(invocation.folder.root), "also": places, "deleted": delete_data}}


def _counts(changes: Mapping[str, int]) -> str:
    changed = {name: count for name, count in changes.items() if name != "same" and count}
    if not changed:
        return "nothing to change"
    return ", ".join(f"{count} {DONE.get(name, name)}" for name, count in changed.items())


def _render_up(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    smoke = answer["smoke"]
    counts, seconds = _counts(answer["changes"]), answer["seconds"]
    yield f"stack '{answer['stack']}' is up: {counts} ({seconds:.0f} s)"
    status, agents = invocation.command("status"), invocation.command("agent import FILE")
    yield from facts([
        ("  server", answer["url"]),
        ("  password", f"`{invocation.command('secret show server-password')}` prints it"),
        ("  profile", answer["profile"]),
        ("  smoke test", smoke and f"passed in {smoke['seconds']:.1f} s"),
        ("  next", f"`{status}`, `{agents}`"),
    ])  # fmt: skip


def _render_preview(answer: dict[str, Any]) -> Iterator[Part]:
    rows = [
        (change["action"], change["name"], change["type"], "yes" if change["data"] else "")
        for change in answer["resources"]
        if change["action"] != "same"
    ]
    if rows:
        yield Table(("action", "name", "type", "holds data"), rows)
    planned = [
        f"{action} {count}"
        for action, count in answer["changes"].items()
        if action != "same" and count
    ]
    yield f"would {', '.join(planned)}" if planned else "nothing to change"


def _render_fate(answer: dict[str, Any]) -> Iterator[Part]:
    data = answer["data"]
    yield f"every process of stack '{answer['stack']}' would be stopped"
    yield f"its data in {_all_places(data)} would {'be DELETED' if data['deleted'] else 'stay'}"


def _render_destroy(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    data = answer["data"]
    if data["deleted"]:
        yield f"stack '{answer['stack']}' and its data are deleted"
        if answer["profile"]:
            yield f"its profile, with the keys that its backups need, is kept: {answer['profile']}"
        return
    yield f"stack '{answer['stack']}' is stopped ({answer['seconds']:.0f} s)"
    yield f"its data stays in {_all_places(data)}; `{invocation.command('up')}` brings it back"
