"""`letta-ops backup restore`: the plan first, then the restore, proven on the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, NoSmoke, Yes
from ops_cli.output import Part, facts, note_parts, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.catalog import Backup
    from backups.restoring.generations import Present
    from backups.restoring.plan import DatabaseContents, Options, Plan
    from backups.restoring.undo import Undoing
    from backups.stores.store import Store
    from infra.stack.deployment import Deployment
    from letta_ops.registry.links import Link


SHOWN = 12  # tables that a plan names


def restore_backup(
    context: typer.Context,
    backup: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="A backup's id, its beginning, or `latest`."),
    ] = None,
    *,
    identity: Annotated[
        str | None,
        typer.Option(
            "--identity",
            metavar="REFERENCE",
            help="Where the age identity is: file:PATH, env:NAME or cmd:COMMAND.",
        ),
    ] = None,
    into_other: Annotated[
        bool, typer.Option("--into-other", help="The backup is of another deployment: go on.")
    ] = False,
    accept_lost_secrets: Annotated[
        bool,
        typer.Option(
            "--accept-lost-secrets", help="Go on with another encryption key: secrets are lost."
        ),
    ] = False,
    accept_unsigned: Annotated[
        bool,
        typer.Option("--accept-unsigned", help="Go on though nobody known here has signed it."),
    ] = False,
    drop_previous: Annotated[
        bool, typer.Option("--drop-previous", help="Drop what the last restore has replaced.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Go back to what the last restore has replaced.")
    ] = False,
    stop_first: Annotated[
        bool,
        typer.Option("--stop-first", help="Stop the server before another starts: it needs less."),
    ] = False,
    no_smoke: NoSmoke = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Put a backup in the place of what is there. What was there is kept, until the next restore."""
    from backups.restoring.plan import Options

    invocation = current(context)
    if undo:
        if backup is not None or drop_previous:
            raise typer.BadParameter("goes alone: it needs no backup", param_hint="--undo")
        _undo(invocation, with_models=not no_smoke, yes=yes, dry_run=dry_run)
        return
    if drop_previous and backup is None:
        _drop_previous(invocation, yes=yes, dry_run=dry_run)
        return
    if backup is None:
        raise typer.BadParameter("name a backup, or `latest`", param_hint="ID")
    options = Options(into_other, accept_lost_secrets, accept_unsigned)
    _restore(
        invocation,
        backup,
        identity,
        options,
        drop_previous,
        stop_first=stop_first,
        with_models=not no_smoke,
        yes=yes,
        dry_run=dry_run,
    )


def _restore(
    invocation: Invocation,
    word: str,
    identity: str | None,
    options: Options,
    drop_previous: bool,
    *,
    stop_first: bool,
    with_models: bool,
    yes: bool,
    dry_run: bool,
) -> None:
    from backups.opening import Key
    from backups.restoring.generations import generations_of
    from backups.restoring.plan import make_plan, with_losses
    from backups.restoring.restore import restore
    from backups.scope import scope_of
    from ops_cli.auditing import audited
    from ops_cli.commands.backup.store import changing, opened
    from ops_cli.proving import prover

    deployment, store = opened(invocation)
    found = _found(deployment, store, word, into_other=options.into_other)
    key, scope = Key.of(deployment.backups, identity), scope_of(deployment)
    with generations_of(deployment, scope) as generations:
        plan = make_plan(deployment, generations, store, found, key, options)
        if dry_run or not yes:  # somebody reads it
            with progress(invocation) as report:
                plan = with_losses(deployment, generations, plan, report)
    if dry_run:
        answer = {"dry_run": True, **plan.as_json()}
        present(invocation, answer, lambda _: _render_plan(plan, deployment))
        return
    _agree(invocation, plan, deployment, yes=yes)
    with (
        progress(invocation) as report,
        audited(invocation, "backup restore", found.id) as event,
        changing(deployment, store, "backup restore", report) as lock,
        generations_of(deployment, scope) as generations,
    ):
        # What is there may have changed while somebody was being asked, and the key in the profile
        # when an interrupted restore was put right.
        deployment = invocation.deployment()
        plan = make_plan(deployment, generations, store, found, key, options)
        confirm_server = prover(
            report,
            "everything is as it was before",
            with_models=with_models,
            secrets_lost=options.accept_lost_secrets,
        )
        done = restore(
            deployment, generations, store, plan, key, lock, confirm_server, report, record=event,
            stop_first=stop_first,
        )  # fmt: skip
    dropped = _drop(invocation, deployment, store, clusters=False) if drop_previous else None
    found_out = replace(plan, present=done.replaced or plan.present)
    answer = {
        "backup": done.backup,
        "seconds": done.seconds,
        "previous": None if drop_previous else done.previous,
        "dropped": dropped,
        "proven": done.proven,
        **{name: value for name, value in found_out.as_json().items() if name != "backup"},
    }
    present(invocation, answer, lambda shown: _render_done(invocation, shown))


def _found(deployment: Deployment, store: Store, word: str, *, into_other: bool) -> Backup:
    """The backup; where this deployment has none of that name, another's: the plan refuses it."""
    from backups.catalog import deployment_id, read_catalog
    from infra.errors import LettaOpsError

    if into_other:
        return read_catalog(store, None).find(word)
    try:
        return read_catalog(store, deployment_id(deployment)).find(word)
    except LettaOpsError as missing:
        if missing.code != "no-backup":
            raise
        try:
            return read_catalog(store, None).find(word)
        except LettaOpsError:
            raise missing from None


def _undo(invocation: Invocation, *, with_models: bool, yes: bool, dry_run: bool) -> None:
    from backups.restoring.generations import generations_of
    from backups.restoring.undo import plan_undoing, undo
    from backups.scope import scope_of
    from infra.servers import is_ours
    from ops_cli.asking import confirm
    from ops_cli.auditing import audited
    from ops_cli.commands.backup.store import changing, opened, undo_interrupted
    from ops_cli.proving import prover

    deployment, store = opened(invocation)
    if not dry_run:
        with progress(invocation) as report:
            undo_interrupted(deployment, report)  # also an undoing: what it says comes true first
        deployment = invocation.deployment()
    scope = scope_of(deployment)
    with generations_of(deployment, scope) as generations:
        plan = plan_undoing(deployment, generations)
    if dry_run:
        answer = {"dry_run": True, **plan.as_json()}
        present(invocation, answer, lambda _: _render_undoing(plan, deployment))
        return
    note_parts(_render_undoing(plan, deployment))
    if not yes:
        confirm(
            f"Go back to {plan.previous}?", f"{plan.previous} would take the place of what is there"
        )
    with (
        progress(invocation) as report,
        audited(invocation, "backup restore --undo", plan.previous),
        changing(deployment, store, "backup restore --undo", report) as lock,
        generations_of(deployment, scope) as generations,
    ):
        plan = plan_undoing(deployment, generations, plan.oids)
        confirm_server = prover(
            report, f"what the restore brought is kept as {plan.kept}", with_models=with_models
        )
        seconds = undo(deployment, generations, plan, lock, confirm_server, report)
    answer = {**plan.as_json(), "proven": is_ours(deployment), "seconds": seconds}
    present(invocation, answer, _render_undone)


def _agree(invocation: Invocation, plan: Plan, deployment: Deployment, *, yes: bool) -> None:
    from ops_cli.asking import confirm

    note_parts(_render_plan(plan, deployment))
    if not yes and plan.present is not None:
        confirm(
            f"Replace what stack '{invocation.stack}' holds?",
            "a restore replaces what is there, and nobody can be asked here",
        )


def _drop_previous(invocation: Invocation, *, yes: bool, dry_run: bool) -> None:
    from backups.restoring.generations import generations_of
    from backups.restoring.restore import kept_clusters, kept_generations
    from backups.scope import scope_of
    from ops_cli.asking import confirm
    from ops_cli.commands.backup.store import opened

    deployment, store = opened(invocation)
    with generations_of(deployment, scope_of(deployment)) as generations:
        kept = [*kept_generations(deployment, generations), *kept_clusters(deployment)]
    names = ", ".join(kept)
    if dry_run:
        present(invocation, {"dry_run": True, "would_drop": names or None}, _render_would_drop)
        return
    if not yes and names:
        confirm(
            f"Drop {names}, which restores or migrations have replaced?",
            f"{names} would be dropped",
        )
    dropped = _drop(invocation, deployment, store, clusters=True)
    present(invocation, {"dropped": dropped}, _render_dropped)


def _drop(
    invocation: Invocation, deployment: Deployment, store: Store, *, clusters: bool
) -> str | None:
    """Drop what was replaced or set aside, Postgres `clusters` too; return its names, None where there
    was nothing."""
    from backups.restoring.generations import generations_of
    from backups.restoring.restore import drop_clusters, drop_previous
    from backups.scope import scope_of
    from ops_cli.auditing import audited
    from ops_cli.commands.backup.store import changing

    with (
        progress(invocation) as report,
        audited(invocation, "backup restore --drop-previous", deployment.stack) as event,
        changing(deployment, store, "backup restore --drop-previous", report),
        generations_of(deployment, scope_of(deployment)) as generations,
    ):
        dropped = drop_previous(deployment, generations)
        dropped += drop_clusters(deployment) if clusters else []
        event.detail = {"dropped": dropped}
    return ", ".join(dropped) or None


def _render_would_drop(answer: dict[str, Any]) -> Iterator[Part]:
    names = answer["would_drop"]
    yield f"would drop {names}" if names else "there is nothing to drop"


def _render_dropped(answer: dict[str, Any]) -> Iterator[Part]:
    yield f"dropped {answer['dropped']}" if answer["dropped"] else "there was nothing to drop"


def _render_plan(plan: Plan, deployment: Deployment) -> Iterator[Part]:
    manifest, now = plan.backup.manifest, plan.present
    rows = manifest.database.rows
    brings = f"{rows('agents')} agents, {rows('messages')} messages"
    replaced = "nothing: there is no data" if now is None else _replaced(now)
    last = plan.drill
    drill = "never drilled" if last is None else f"{last.verdict}, after {last.seconds:.0f} s"
    yield f"restoring backup {plan.backup.id} into {deployment.called}"
    yield from facts(
        [
            ("  made", f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC, Letta {manifest.release}"),
            ("  brings", f"{brings}, {manifest.memory.repositories} memory repositories"),
            ("  replaces", replaced),
            *(("  goes back", line) for line in _few(plan.losses)),
            *(("  loses", line) for line in _few(tuple(map(_link, plan.links)))),
            *(("  drops", _database(each)) for each in plan.drops),
            ("  down", _down(plan, deployment)),
            ("  last drill", drill),
            ("  signed", None if plan.signed else "NO, or by nobody who is known here"),
            ("  lacks roles", _roles(plan)),
            ("  slots", _slots(plan)),
            ("  of", f"another deployment, {manifest.deployment}" if plan.foreign else None),
            ("  key", "the server takes over the backup's" if plan.new_key else None),
            (
                "  secrets",
                "LOST: those that no key opens are left out" if plan.secrets_lost else None,
            ),
        ]
    )


def _few(lines: tuple[str, ...]) -> Iterator[str]:
    yield from lines[:SHOWN]
    if len(lines) > SHOWN:
        yield f"and {len(lines) - SHOWN} more: --dry-run --json has all"


def _link(link: Link) -> str:
    return f"the agent of {link.key}, linked {link.linked_at:%Y-%m-%d %H:%M}: {link.letta_agent_id}"


def _down(plan: Plan, deployment: Deployment) -> str:
    from infra.servers import standby_of

    if plan.down_seconds is None:
        if standby_of(deployment) is not None and not plan.provisions:
            return "a moment: a server that works on it takes over before this one is stopped"
        return "as long as the server takes to stop, to start and to be proven"
    return f"about {plan.down_seconds:.0f} s, as the last time"


def _roles(plan: Plan) -> str | None:
    names = ", ".join(plan.missing_roles)
    return (
        f"{names}: what they own goes to Letta's, what they may do is left out" if names else None
    )


def _slots(plan: Plan) -> str | None:
    names = ", ".join(plan.slots)
    return (
        f"{names}: they stay with the database that is replaced; make them anew" if names else None
    )


def _replaced(now: Present) -> str:
    newer = f"{now.newer_agents} agents and {now.newer_messages} messages"
    return f"{_held(now)}; newer than the backup: {newer}"


def _database(database: DatabaseContents) -> str:
    held = database.held
    return (
        f"{database.noun} {database.name}: {'it can not be read' if held is None else _held(held)}"
    )


def _render_undoing(plan: Undoing, deployment: Deployment) -> Iterator[Part]:
    live = plan.replaces
    yield f"undoing the last restore of {deployment.called}"
    yield from facts(
        [
            ("  brings", f"{_held(plan.brings)}, from {plan.noun} {plan.previous}"),
            ("  replaces", "nothing: there is no database" if live is None else _database(live)),
            ("  keeps that", f"as {plan.noun} {plan.kept}" if live else None),
            *(("  drops", _database(each)) for each in plan.drops),
        ]
    )


def _render_undone(answer: dict[str, Any]) -> Iterator[Part]:
    yield f"what the restore had replaced is back, in {answer['seconds']:.1f} s; {_proof(answer)}"
    if answer["kept"]:
        yield f"  what the restore brought is kept as {answer['kept']}"


def _proof(answer: dict[str, Any]) -> str:
    if answer["proven"]:
        return "the smoke test passed"
    return "start the server, then prove it: `letta-ops smoke`"


def _held(held: Present) -> str:
    return f"{held.agents} agents, {held.messages} messages"


def _render_done(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    yield f"restored backup {answer['backup']} in {answer['seconds']:.1f} s; {_proof(answer)}"
    if answer["dropped"]:
        yield f"  what was there is dropped: {answer['dropped']}"
    if answer["previous"]:
        drop = invocation.command("backup restore --drop-previous")
        undo = invocation.command("backup restore --undo")
        yield f"  what was there is kept as {answer['previous']}: `{undo}` goes back to it,"
        yield f"  `{drop}` drops it"
