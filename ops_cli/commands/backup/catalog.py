"""`letta-ops backup list`, `show`, `keep`, `prune`: what there is, and what stays of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.commands.backup.store import opened
from ops_cli.invocation import Invocation, current
from ops_cli.options import Yes
from ops_cli.output import Part, note, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.catalog import Catalog
    from backups.prune import Plan

EveryDeployment = Annotated[
    bool, typer.Option("--all", help="Also backups of other deployments in the same store.")
]
BackupId = Annotated[
    str,
    typer.Argument(metavar="ID", help="A backup's id, or its beginning, or `latest`."),
]


def list_backups(context: typer.Context, every_deployment: EveryDeployment = False) -> None:
    """List the backups, newest first, and what their last drill said."""
    from backups.catalog import deployment_id, read_catalog
    from ops_cli.commands.backup.shown import listed, render_list

    invocation = current(context)
    deployment, store = opened(invocation)
    owner = deployment_id(deployment)
    catalog = read_catalog(store, None if every_deployment else owner)
    present(
        invocation,
        listed(catalog, _now()),
        lambda answer: render_list(answer, every_deployment=every_deployment),
    )
    _mention_unfinished(invocation, catalog)


def show_backup(
    context: typer.Context, backup: BackupId = "latest", every_deployment: EveryDeployment = False
) -> None:
    """Show everything that is known about one backup; nothing of its content is read."""
    from backups.catalog import deployment_id, read_catalog
    from ops_cli.commands.backup.shown import details, render_details

    invocation = current(context)
    deployment, store = opened(invocation)
    owner = deployment_id(deployment)
    catalog = read_catalog(store, None if every_deployment else owner, every_drill=True)
    now = _now()
    answer = details(catalog.find(backup), now)
    present(invocation, answer, lambda shown: render_details(shown, now))


def keep_backup(
    context: typer.Context,
    backup: BackupId,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why: `list` shows it.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the mark away.")] = False,
) -> None:
    """Mark a backup, so that `prune` never removes it."""
    from backups.catalog import deployment_id, read_catalog
    from backups.keep import keep, release
    from backups.lock import locked
    from ops_cli.auditing import audited

    invocation = current(context)
    deployment, store = opened(invocation)
    owner = deployment_id(deployment)
    found = read_catalog(store, owner).find(backup)
    kept: str | None = None
    with (
        audited(invocation, "backup keep", found.id) as operation,
        progress(invocation) as report,
        locked(deployment, store, "backup keep", report),
    ):
        operation.deployment = deployment
        if remove:
            release(store, found)
        else:
            kept = keep(store, found, reason, _now())
        operation.detail["kept"] = kept
    present(invocation, {"id": found.id, "kept": kept}, _render_keep)


def prune_backups(context: typer.Context, yes: Yes = False) -> None:
    """Remove the backups that no rule keeps, and leftovers; without --yes, say what would go."""
    from backups.catalog import deployment_id
    from backups.lock import locked
    from backups.prune import execute, plan
    from ops_cli.auditing import audited

    invocation = current(context)
    deployment, store = opened(invocation)
    owner = deployment_id(deployment)
    retention = deployment.backups.retention
    if not yes:
        answer = _planned(plan(store, owner, retention, _now()))
        present(invocation, answer, lambda shown: _render_prune(shown, str(retention)))
        return
    with (
        audited(invocation, "backup prune", store.url) as operation,
        progress(invocation) as report,
        locked(deployment, store, "backup prune", report) as lock,
    ):
        operation.deployment = deployment
        planned = plan(store, owner, retention, _now())
        done = execute(store, planned, report, lock.ensure_held)
        operation.detail |= {"removed": done.removed, "freed": done.freed}
    answer = _planned(planned)
    answer["removed"] = [each for each in answer["removed"] if each["id"] in done.removed]
    answer["leftovers"] = [each for each in answer["leftovers"] if each["name"] in done.leftovers]
    answer["locked"] = [{"name": name, "why": why} for name, why in done.locked.items()]
    answer |= {"freed": done.freed, "dry_run": False}
    present(invocation, answer, lambda shown: _render_prune(shown, str(retention)))


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _mention_unfinished(invocation: Invocation, catalog: Catalog) -> None:
    if catalog.incomplete:
        command = invocation.command("backup prune --yes")
        note(f"{len(catalog.incomplete)} unfinished; `{command}` removes it after a day")


def _planned(planned: Plan) -> dict[str, Any]:
    """The answer of a dry run. `freed` is in bytes."""
    decided = [
        {
            "id": decision.backup.id,
            "created_at": decision.backup.manifest.created_at.isoformat(),
            "label": decision.backup.manifest.label,
            "keep": decision.keep,
            "reasons": list(decision.reasons),
        }
        for decision in reversed(planned.decisions)
    ]
    return {
        "removed": [each for each in decided if not each["keep"]],
        "kept": [each for each in decided if each["keep"]],
        "leftovers": [
            {"name": each.name, "size": each.size, "why": each.why} for each in planned.leftovers
        ],
        "damaged": [{"id": each.id, **each.error.as_json()} for each in planned.damaged],
        "locked": [],
        "younger": planned.younger,
        "dry_run": True,
        "freed": planned.size,
    }


def _render_keep(answer: dict[str, Any]) -> Iterator[Part]:
    kept = answer["kept"]
    yield f"{answer['id']} is not kept any more" if kept is None else f"{answer['id']}: {kept}"


def _render_prune(answer: dict[str, Any], retention: str) -> Iterator[Part]:
    from backups.humanize import size_in_words

    yield f"retention: {retention}"
    for each in sorted(answer["kept"] + answer["removed"], key=lambda each: each["created_at"]):
        verb = "keep" if each["keep"] else "remove"
        label = f" [{each['label']}]" if each["label"] else ""
        yield f"{verb:<8}  {each['id']}{label}: {', '.join(each['reasons'])}"
    for each in answer["leftovers"]:
        yield f"leftover  {each['name']}: {each['why']}, {size_in_words(each['size'])}"
    for each in answer["damaged"]:
        yield f"damaged   {each['id']}: {each['message']}; it stays, look at it"
    for each in answer["locked"]:
        yield f"locked    {each['name']}: {each['why']}"
    if answer["younger"]:
        yield f"{answer['younger']} unfinished, younger than a day: left alone"
    if answer["dry_run"]:
        yield f"nothing was removed; with --yes: {size_in_words(answer['freed'])} less"
    else:
        yield f"{len(answer['removed'])} removed: {size_in_words(answer['freed'])} less"
