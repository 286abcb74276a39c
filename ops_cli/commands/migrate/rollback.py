"""`letta-ops migrate rollback`: to the release and the data from before the last migration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, NoSmoke, Yes
from ops_cli.output import Part, facts, note_parts, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from ops_cli.migrations.going_back import Rollback
    from ops_cli.migrations.postgres_course import PostgresRollback

SHOWN = 12


def rollback_migration(
    context: typer.Context, *, no_smoke: NoSmoke = False, dry_run: DryRun = False, yes: Yes = False
) -> None:
    """Go back to what the last migration has replaced. What was written since is set aside, and its
    agents are archived first."""
    from backups.restoring.generations import generations_of
    from backups.scope import scope_of
    from ops_cli.asking import confirm
    from ops_cli.migrations.going_back import Rollback, plan_rollback
    from ops_cli.migrations.postgres_course import plan_postgres_rollback

    invocation = current(context)
    deployment = invocation.deployment()
    plan: Rollback | PostgresRollback | None = plan_postgres_rollback(deployment)
    if plan is None:
        with generations_of(deployment, scope_of(deployment)) as generations:
            plan = plan_rollback(deployment, generations)
    if dry_run:
        answer = {"dry_run": True, **plan.as_json()}
        present(invocation, answer, lambda _: _render_plan(plan))
        return
    note_parts(_render_plan(plan))
    if not yes:
        confirm(
            f"Go back to {plan.as_json()['of']} {plan.upgrade.before}?",
            "what was written since would be set aside, and nobody can be asked here",
        )
    if isinstance(plan, Rollback):
        answer = _rolled_back(invocation, plan, with_models=not no_smoke)
    else:
        answer = _postgres_rolled_back(invocation, plan, with_models=not no_smoke)
    present(invocation, answer, lambda shown: _render_done(invocation, shown))


def _rolled_back(invocation: Invocation, agreed: Rollback, *, with_models: bool) -> dict[str, Any]:
    from backups.restoring.generations import generations_of
    from backups.restoring.undo import undo
    from backups.scope import scope_of
    from ops_cli.auditing import audited
    from ops_cli.commands.backup.store import changing, opened
    from ops_cli.migrations.going_back import archive_agents, plan_rollback
    from ops_cli.proving import prover

    deployment, store = opened(invocation)
    with (
        progress(invocation) as report,
        audited(invocation, "migrate rollback", agreed.upgrade.before) as event,
        changing(deployment, store, "migrate rollback", report) as lock,
        generations_of(deployment, scope_of(deployment)) as generations,
    ):
        plan = plan_rollback(deployment, generations, agreed.undoing.oids)
        archived = archive_agents(deployment, plan.agents, report)
        event.detail |= {"from": plan.upgrade.after, "archived": archived and str(archived)}
        confirm_server = prover(
            report, f"what was there is kept as {plan.undoing.kept}", with_models=with_models
        )
        seconds = undo(deployment, generations, plan.undoing, lock, confirm_server, report)
    return {**plan.as_json(), "archived": archived and str(archived), "seconds": seconds}


def _postgres_rolled_back(
    invocation: Invocation, agreed: PostgresRollback, *, with_models: bool
) -> dict[str, Any]:
    from infra.errors import LettaOpsError
    from ops_cli.auditing import audited
    from ops_cli.commands.backup.store import changing, opened
    from ops_cli.migrations.postgres_course import plan_postgres_rollback, roll_postgres_back
    from ops_cli.proving import prover

    deployment, store = opened(invocation)
    with (
        progress(invocation) as report,
        audited(invocation, "migrate rollback", f"PostgreSQL {agreed.upgrade.before}") as event,
        changing(deployment, store, "migrate rollback", report) as lock,
    ):
        plan = plan_postgres_rollback(deployment)
        if plan is None or plan.upgrade != agreed.upgrade:
            raise LettaOpsError(
                "plan-changed",
                "it is not what was planned any more: somebody else was at work",
                "run the same command again, and read its plan",
            )
        prove = prover(report, f"what was there is kept as {plan.kept}", with_models=with_models)
        archived, seconds = roll_postgres_back(deployment, plan, lock, prove, report, record=event)
        event.detail |= {"from": plan.upgrade.after, "archived": archived and str(archived)}
    return {**plan.as_json(), "archived": archived and str(archived), "seconds": seconds}


def _render_plan(plan: Rollback | PostgresRollback) -> Iterator[Part]:
    from ops_cli.migrations.going_back import Rollback

    what = plan.as_json()
    yield f"from {what['of']} {what['from']} back to {what['to']}"
    lost = [f"{each.id} ({each.name}): {each.messages} messages" for each in plan.agents]
    more = f"and {len(lost) - SHOWN} more agents" if len(lost) > SHOWN else None
    brings = plan.undoing.brings if isinstance(plan, Rollback) else None
    yield from facts(
        [
            ("  migrated", plan.upgrade.at),
            ("  brings", brings and f"{brings.agents} agents, {brings.messages} messages"),
            *(("  written since", each) for each in lost[:SHOWN]),
            ("  written since", more),
            (
                "  keeps that",
                f"as {plan.undoing.kept if isinstance(plan, Rollback) else plan.kept}"
                + (", and these agents in an archive" if plan.agents else ""),
            ),
        ]
    )


def _render_done(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    yield (
        f"the stack runs {answer['of']} {answer['to']} again, with what it had, after"
        f" {answer['seconds']:.1f} s; it was proven"
    )
    if answer["archived"]:
        yield f"  agents that were written to since are archived: {answer['archived']}"
    if answer["kept"]:
        yield f"  what was there is kept as {answer['kept']}"
    if answer["of"] == "PostgreSQL":
        command = invocation.command("backup create")
        yield f"  backups since then are of a newer Postgres, and can't be restored here: `{command}`"
