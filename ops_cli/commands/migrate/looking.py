"""`letta-ops migrate status` and `plan`: where the database stands, and what going elsewhere means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.invocation import Invocation, current
from ops_cli.output import Part, Table, facts, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.stores.store import Store
    from infra.process import Report
    from infra.stack.deployment import Deployment
    from ops_cli.migrations.plan import MigrationPlan
    from ops_cli.migrations.postgres_plan import PostgresPlan

To = Annotated[
    str | None, typer.Option("--to", metavar="RELEASE", help="The release of Letta to go to.")
]
Postgres = Annotated[
    str | None,
    typer.Option("--postgres", metavar="MAJOR", help="Or the major version of Postgres, as 18."),
]
SHOWN = 4  # operations of a revision that a plan names


def show_status(context: typer.Context) -> None:
    """Say at which revision the database is, what its release lacks, and who migrated it last."""
    from ops_cli.migrations.status import find_standing, last_migrations

    invocation = current(context)
    deployment = invocation.deployment()
    with progress(invocation) as report:
        answer = find_standing(deployment, report).as_json()
    answer["postgres"] = _postgres(deployment)
    answer["migrations"] = last_migrations(deployment)
    present(invocation, answer, _render_status)


def _postgres(deployment: Deployment) -> dict[str, Any]:
    """The version of Postgres that serves, and those that `--postgres` takes."""
    from infra.targets import host

    with host(deployment).session() as link:
        version = link.info.parameter_status("server_version")
    cluster = host(deployment).cluster() if deployment.folder is not None else None
    newer = [each for each in cluster.majors if int(each) > int(cluster.major)] if cluster else []
    return {"version": version, "newer": newer}


def plan_migration(context: typer.Context, to: To = None, postgres: Postgres = None) -> None:
    """Say what going to a release, or to another Postgres, would run and break, and what is in its way;
    change nothing."""
    invocation = current(context)
    plan = planned(invocation, to, postgres)
    present(invocation, plan.as_json(), lambda _: render_plan(invocation, plan))


def planned(
    invocation: Invocation, to: str | None, postgres: str | None
) -> MigrationPlan | PostgresPlan:
    """The plan, as things stand now. Raises typer.BadParameter unless one of both is named."""
    from ops_cli.commands.backup.store import opened

    ensure_one(to, postgres)
    deployment, store = opened(invocation)
    with progress(invocation) as report:
        return plan_of(deployment, store, to, postgres, report)


def plan_of(
    deployment: Deployment, store: Store, to: str | None, postgres: str | None, report: Report
) -> MigrationPlan | PostgresPlan:
    """The plan of the one that is named. Raises LettaOpsError where nothing leads there."""
    from ops_cli.migrations.plan import make_plan
    from ops_cli.migrations.postgres_plan import make_postgres_plan

    if postgres is not None:
        return make_postgres_plan(deployment, store, postgres, report)
    return make_plan(deployment, store, str(to), report)


def ensure_one(to: str | None, postgres: str | None) -> None:
    """Raise typer.BadParameter unless exactly one is named: one thing is changed at a time."""
    if (to is None) == (postgres is None):
        raise typer.BadParameter(
            "name a release, or a version of Postgres with --postgres, and not both",
            param_hint="--to",
        )


def render_plan(invocation: Invocation, plan: MigrationPlan | PostgresPlan) -> Iterator[Part]:
    """What a person has to read before going there."""
    from ops_cli.migrations.plan import MigrationPlan

    if isinstance(plan, MigrationPlan):
        yield from _render_revisions(plan)
    else:
        yield f"from PostgreSQL {plan.version} to {plan.after}; Letta stays {plan.release.version}"
    yield Table(
        ("preflight", "verdict", "seen"),
        [(each.name, each.verdict, each.detail) for each in plan.findings],
    )
    told: list[tuple[str, str]] = []
    if isinstance(plan, MigrationPlan):
        told += (("breaks", each) for each in plan.breaks)
        told += (("changes", f"{_name(each)} ({each.revision}): {each.why}") for each in plan.known)
    yield from facts([*told, ("rehearsal", _rehearsal(invocation, plan))])


def _render_revisions(plan: MigrationPlan) -> Iterator[Part]:
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


def render_differences(comparison: dict[str, Any]) -> Iterator[Part]:
    """What revisions were known to change, and did."""
    for each in comparison.get("differences", []):
        name = each["table"] + (f".{each['column']}" if each["column"] else "")
        yield f"  {name} {each['what']}: {each['why']} ({each['revision']})"


def _name(change: Any) -> str:
    return str(change.table if change.column is None else f"{change.table}.{change.column}")


def _rehearsal(invocation: Invocation, plan: MigrationPlan | PostgresPlan) -> str:
    from backups.humanize import size_in_words, time_in_words

    found = plan.rehearsal
    if found is None:
        command = invocation.command(f"migrate rehearse {plan.option}")
        return f"none yet: `{command}`"
    verdict = "passed" if found.passed else "FAILED"
    return (
        f"{verdict} {time_in_words(found.age_seconds)} ago: the migrations took {found.seconds:.0f} s,"
        f" {size_in_words(found.growth)} more, {len(found.locks)} tables locked"
    )


def _versions(postgres: dict[str, Any]) -> str:
    newer = ", ".join(postgres["newer"])
    return str(postgres["version"]) + (f"; `--postgres` brings it to {newer}" if newer else "")


def _render_status(answer: dict[str, Any]) -> Iterator[Part]:
    yield from facts(
        [
            ("release", answer["release"]),
            ("revision", answer["revision"] or ", ".join(answer["revisions"]) or "none"),
            ("head", answer["head"]),
            ("state", f"{answer['state']}: {answer['detail']}"),
            ("newest release", answer["newest_release"]),
            ("postgres", _versions(answer["postgres"])),
            *(("pending", f"{each['id']} {each['title']}") for each in answer["pending"]),
            *(
                ("migrated", f"{each['at']} by {each['who']}: {each['command']}: {each['result']}")
                for each in answer["migrations"][:5]
            ),
        ]
    )
