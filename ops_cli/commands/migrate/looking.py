"""`letta-ops migrate status` and `plan`: where the database stands, and what going elsewhere means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.invocation import Invocation, current
from ops_cli.output import Part, Table, facts, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from ops_cli.migrations.plan import MigrationPlan

To = Annotated[str, typer.Option("--to", metavar="RELEASE", help="The release of Letta to go to.")]
SHOWN = 4  # operations of a revision that a plan names


def show_status(context: typer.Context) -> None:
    """Say at which revision the database is, what its release lacks, and who migrated it last."""
    from ops_cli.migrations.status import find_standing, last_migrations

    invocation = current(context)
    deployment = invocation.deployment()
    with progress(invocation) as report:
        answer = find_standing(deployment, report).as_json()
    answer["migrations"] = last_migrations(deployment)
    present(invocation, answer, _render_status)


def plan_migration(context: typer.Context, to: To) -> None:
    """Say what going to a release would run and break, and what is in its way; change nothing."""
    invocation = current(context)
    plan = planned(invocation, to)
    present(invocation, plan.as_json(), lambda _: render_plan(invocation, plan))


def planned(invocation: Invocation, to: str) -> MigrationPlan:
    """The plan, as things stand now."""
    from ops_cli.commands.backup.store import opened
    from ops_cli.migrations.plan import make_plan

    deployment, store = opened(invocation)
    with progress(invocation) as report:
        return make_plan(deployment, store, to, report)


def render_plan(invocation: Invocation, plan: MigrationPlan) -> Iterator[Part]:
    """What a person has to read before going there."""
    here, there = plan.standing, plan.release
    yield f"from Letta {here.release} ({here.revision}) to {there.version} ({there.alembic_head})"
    rows = []
    for each in plan.pending:
        what = "; ".join(str(operation) for operation in each.operations[:SHOWN])
        more = f"; and {len(each.operations) - SHOWN} more" if len(each.operations) > SHOWN else ""
        kinds = ", ".join(each.kinds) or "read it"
        rows.append((each.id, kinds, each.title, what + more))
    if rows:
        yield Table(("revision", "does", "title", "what"), rows)
    else:
        yield "no revision is pending: the schema stays as it is"
    yield Table(
        ("preflight", "verdict", "seen"),
        [(each.name, each.verdict, each.detail) for each in plan.findings],
    )
    yield from facts(
        [
            *(("breaks", each) for each in plan.breaks),
            *(("changes", f"{_name(each)} ({each.revision}): {each.why}") for each in plan.known),
            ("rehearsal", _rehearsal(invocation, plan)),
        ]
    )


def render_differences(comparison: dict[str, Any]) -> Iterator[Part]:
    """What revisions were known to change, and did."""
    for each in comparison.get("differences", []):
        name = each["table"] + (f".{each['column']}" if each["column"] else "")
        yield f"  {name} {each['what']}: {each['why']} ({each['revision']})"


def _name(change: Any) -> str:
    return str(change.table if change.column is None else f"{change.table}.{change.column}")


def _rehearsal(invocation: Invocation, plan: MigrationPlan) -> str:
    from backups.humanize import size_in_words, time_in_words

    found = plan.rehearsal
    if found is None:
        command = invocation.command(f"migrate rehearse --to {plan.release.version}")
        return f"none yet: `{command}`"
    verdict = "passed" if found.passed else "FAILED"
    return (
        f"{verdict} {time_in_words(found.age_seconds)} ago: the migrations took {found.seconds:.0f} s,"
        f" {size_in_words(found.growth)} more, {len(found.locks)} tables locked"
    )


def _render_status(answer: dict[str, Any]) -> Iterator[Part]:
    yield from facts(
        [
            ("release", answer["release"]),
            ("revision", answer["revision"] or ", ".join(answer["revisions"]) or "none"),
            ("head", answer["head"]),
            ("state", f"{answer['state']}: {answer['detail']}"),
            ("newest release", answer["newest_release"]),
            *(("pending", f"{each['id']} {each['title']}") for each in answer["pending"]),
            *(
                ("migrated", f"{each['at']} by {each['who']}: {each['command']}: {each['result']}")
                for each in answer["migrations"][:5]
            ),
        ]
    )
