"""`letta-ops migrate apply`: to another release, with a backup, a comparison and a way back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.commands.migrate.looking import (
    Postgres,
    To,
    plan_of,
    planned,
    render_differences,
    render_plan,
)
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, NoSmoke, Yes
from ops_cli.output import Part, note_parts, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.stores.store import Store
    from infra.process import Report
    from infra.stack.deployment import Deployment
    from ops_cli.migrations.plan import MigrationPlan
    from ops_cli.migrations.postgres_plan import PostgresPlan

DRAIN_SECONDS = 60.0


def apply_migration(
    context: typer.Context,
    to: To = None,
    postgres: Postgres = None,
    *,
    without_rehearsal: Annotated[
        bool, typer.Option("--without-rehearsal", help="Go on though none has passed.")
    ] = False,
    drain: Annotated[
        float,
        typer.Option("--drain", metavar="SECONDS", help="How long agents at work are waited for."),
    ] = DRAIN_SECONDS,
    no_smoke: NoSmoke = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Bring the stack to a release, or its Postgres to another major version. A copy of the data is
    migrated and compared, and takes its place; on any failure what was there serves again, and that is
    proven."""
    from ops_cli.asking import confirm

    invocation = current(context)
    plan = planned(invocation, to, postgres)
    _ensure(plan, invocation, without_rehearsal=without_rehearsal or dry_run)
    if dry_run:
        answer = {"dry_run": True, **plan.as_json()}
        present(invocation, answer, lambda _: render_plan(invocation, plan))
        return
    note_parts(render_plan(invocation, plan))
    if not yes:
        confirm(
            f"Bring stack '{invocation.stack}' to {plan.destination}?",
            "the server is stopped and another version takes over, and nobody can be asked here",
        )
    answer = _applied(
        invocation, to, postgres, drain, with_models=not no_smoke, bold=without_rehearsal
    )
    present(invocation, answer, lambda shown: _render(invocation, shown))


def _applied(
    invocation: Invocation,
    to: str | None,
    postgres: str | None,
    drain: float,
    *,
    with_models: bool,
    bold: bool,
) -> dict[str, Any]:
    from backups.create import create
    from ops_cli.auditing import audited
    from ops_cli.commands.backup.store import changing, opened
    from ops_cli.migrations.course import apply, prepare
    from ops_cli.migrations.plan import MigrationPlan
    from ops_cli.migrations.plan import ensure_room as ensure_room_for_database
    from ops_cli.migrations.postgres_course import apply_postgres
    from ops_cli.migrations.postgres_plan import ensure_room as ensure_room_for_cluster
    from ops_cli.proving import prover

    deployment, store = opened(invocation)
    with (
        progress(invocation) as report,
        audited(invocation, "migrate apply", to or f"PostgreSQL {postgres}") as event,
        changing(deployment, store, "migrate apply", report) as lock,
    ):
        deployment = invocation.deployment()  # an interrupted one may have been put right
        plan = plan_of(deployment, store, to, postgres, report)
        _ensure(plan, invocation, without_rehearsal=bold)
        event.detail |= plan.course
        # What can't be had is known before a backup is made.
        if isinstance(plan, MigrationPlan):
            migrations = prepare(deployment, plan.release, report)
            run = partial(apply, deployment, plan.release, migrations, plan.revisions)
            ensure_room = ensure_room_for_database
        else:
            run = partial(apply_postgres, deployment, plan.after)
            ensure_room = ensure_room_for_cluster
        report("a backup is made")
        backup = create(deployment, store, f"before {plan.destination}", report)
        _verify(deployment, store, backup.id, report)
        event.detail["backup"] = backup.id
        ensure_room(deployment)
        prove = prover(report, "what was there serves again", with_models=with_models)
        done = run(backup.id, lock, prove, report, record=event, drain_seconds=drain)
    return {"backup": backup.id, **done.as_json()}


def _verify(deployment: Deployment, store: Store, identifier: str, report: Report) -> None:
    """Read the backup back. Raises LettaOpsError (`backup-failed`); what can't be opened here is told."""
    from backups.catalog import deployment_id, read_catalog
    from backups.opening import Key
    from backups.verdicts import FAILED, PASSED
    from backups.verify import verify
    from infra.errors import LettaOpsError

    found = read_catalog(store, deployment_id(deployment)).find(identifier)
    for check in verify(store, found, Key.of(deployment.backups, None), report):
        if check.verdict == FAILED:
            raise LettaOpsError(
                "backup-failed", f"backup {identifier}: {check.name}: {check.summary}",
                "nothing was changed; see why the store doesn't keep what it is given",
            )  # fmt: skip
        if check.verdict != PASSED:
            report(f"backup {identifier}: {check.name} can't be opened here: {check.summary}")


def _ensure(
    plan: MigrationPlan | PostgresPlan, invocation: Invocation, *, without_rehearsal: bool
) -> None:
    """Raise LettaOpsError for every reason not to begin."""
    from infra.errors import LettaOpsError

    if plan.refusals:
        lines = "\n".join(f"  - {each.name}: {each.detail}" for each in plan.refusals)
        raise LettaOpsError(
            "preflight-failed",
            f"going to {plan.destination} is not possible now:\n{lines}",
            "; ".join(each.hint for each in plan.refusals if each.hint) or "mend that first",
        )
    rehearsal = plan.rehearsal
    if without_rehearsal or (rehearsal is not None and rehearsal.passed):
        return
    command = invocation.command(f"migrate rehearse {plan.option}")
    what = "failed" if rehearsal is not None else "none has been made"
    raise LettaOpsError(
        "not-rehearsed",
        f"no rehearsal has passed from revision {plan.standing.revision} to {plan.destination}: {what}",
        f"run `{command}`; or go on with --without-rehearsal",
    )


def _render(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    comparison = answer["comparison"]
    counts = ", ".join(f"{number} {name}" for name, number in comparison["counts"].items())
    yield (
        f"the stack runs {answer['of']} {answer['to']}, after {answer['seconds']:.1f} s, of which"
        f" nobody served for {answer['down_seconds']:.1f} s"
    )
    yield f"  all {comparison['rows']} rows of {comparison['tables']} tables are there: {counts}"
    yield from render_differences(comparison)
    yield f"  what was there is kept as {answer['previous']}, and in backup {answer['backup']}:"
    yield f"  `{invocation.command('migrate rollback')}` goes back to {answer['of']} {answer['from']},"
    yield f"  `{invocation.command('backup restore --drop-previous')}` drops it"
