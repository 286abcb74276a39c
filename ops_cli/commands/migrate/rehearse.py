"""`letta-ops migrate rehearse`: a backup is migrated, compared and served, away from all that lives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.commands.migrate.looking import Postgres, To, ensure_one, render_differences
from ops_cli.invocation import Invocation, current
from ops_cli.options import Identity
from ops_cli.output import Part, Table, UnsuccessfulError, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from ops_cli.migrations.records import Rehearsal


def rehearse_migration(
    context: typer.Context,
    to: To = None,
    postgres: Postgres = None,
    backup: Annotated[
        str | None,
        typer.Option("--backup", metavar="ID", help="Which backup; else the newest one."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Make a backup first, and rehearse with that one.")
    ] = False,
    identity: Identity = None,
) -> None:
    """Go to a release, or another version of Postgres, in a throw-away one, with the data of a backup,
    and compare what is there afterwards with what was there. The live stack notices nothing; nothing is
    left running."""
    from ops_cli.auditing import audited

    invocation = current(context)
    if fresh and backup is not None:
        raise typer.BadParameter("is for when no backup is named", param_hint="--fresh")
    ensure_one(to, postgres)
    destination = to or f"PostgreSQL {postgres}"
    with audited(invocation, "migrate rehearse", destination) as operation:
        found = _rehearsed(invocation, to, postgres, backup, identity, fresh=fresh)
        operation.detail |= {"passed": found.passed, "backup": found.backup}
        answer = found.as_json()
        if not found.passed:
            bad = [each for each in found.checks if each["verdict"] != "passed"]
            lines = [f"  - {each['name']}: {each['verdict']}: {each['summary']}" for each in bad]
            raise UnsuccessfulError(
                "rehearsal-failed",
                "\n".join([f"the rehearsal of going to {destination} failed:", *lines]),
                next(
                    (each["hint"] for each in bad if each["hint"]), "the live stack was not touched"
                ),
                answer,
            )
    present(invocation, answer, lambda shown: _render(invocation, shown))


def _rehearsed(
    invocation: Invocation,
    to: str | None,
    postgres: str | None,
    word: str | None,
    identity: str | None,
    *,
    fresh: bool,
) -> Rehearsal:
    from backups.catalog import deployment_id, read_catalog
    from backups.create import create
    from backups.opening import Key
    from backups.programs import Version
    from backups.restoring.clusters import cluster_of
    from infra.errors import LettaOpsError
    from ops_cli.commands.backup.store import changing, opened
    from ops_cli.migrations.plan import release_named
    from ops_cli.migrations.postgres_plan import ensure_way
    from ops_cli.migrations.rehearse import rehearse

    deployment, store = opened(invocation)
    majors = None
    if postgres is not None:
        cluster = cluster_of(deployment)
        ensure_way(cluster, postgres)
        majors = (cluster.major, postgres)
    release = release_named(str(to or deployment.release))
    with progress(invocation) as report:
        catalog = read_catalog(store, deployment_id(deployment))
        if fresh or (word is None and not catalog.backups):
            with changing(deployment, store, "migrate rehearse", report):
                word = create(deployment, store, f"before {to or postgres}", report).id
            catalog = read_catalog(store, deployment_id(deployment))
        backup = catalog.find(word or "latest")
        if backup.manifest.database.revision is None:
            raise LettaOpsError(
                "revision-unknown",
                f"backup {backup.id} is of a database that was never migrated",
                "name another one with --backup",
            )
        made_with = Version.parse(backup.manifest.database.postgres).major
        if majors is not None and made_with > int(majors[0]):
            raise LettaOpsError(
                "backup-newer-postgres",
                f"backup {backup.id} is of PostgreSQL {made_with}, and the stack runs {majors[0]}",
                "rehearse with one that is made now: --fresh",
            )
        key = Key.of(deployment.backups, identity)
        return rehearse(deployment, store, backup, key, release, report, majors)


def _render(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    from backups.humanize import size_in_words

    rows = [(each["name"], each["verdict"], each["summary"]) for each in answer["checks"]]
    yield Table(("check", "verdict", "seen"), rows)
    yield from render_differences(answer["comparison"])
    locked = [name for name, mode in answer["locks"].items() if mode == "AccessExclusiveLock"]
    yield (
        f"the rehearsal passed: the migrations took {answer['seconds']:.1f} s, all of it"
        f" {answer['total_seconds']:.1f} s; {size_in_words(answer['growth'])} more;"
        f" {len(locked)} tables were closed to everybody meanwhile"
    )
    major = answer["postgres"]
    option = f"--postgres {major}" if major else f"--to {answer['release']}"
    command = invocation.command(f"migrate apply {option}")
    yield f"next: `{command}`"
