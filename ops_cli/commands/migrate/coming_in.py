"""What `migrate from-sqlite` and `migrate adopt` share: the end, where a backup of it is restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.invocation import Invocation
from ops_cli.output import Part
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.catalog import Backup
    from infra.sensitive import Sensitive
    from ops_cli.migrations.coming_in import CameIn

Replace = Annotated[
    bool,
    typer.Option("--replace", help="Go on though the stack holds agents: they are kept beside."),
]


def agree(invocation: Invocation, *, yes: bool, asks: bool) -> None:
    """Ask before anything is begun, where a person has to decide (`asks`) and has not said --yes."""
    from ops_cli.asking import confirm

    if asks and not yes:
        confirm(
            f"Bring that into stack '{invocation.stack}'?",
            "it would take the place of what the stack holds, and nobody can be asked here",
        )


def restored(
    invocation: Invocation,
    backup: Backup,
    identity: str | None,
    command: tuple[str, str],
    secret: Sensitive | None,
    *,
    replace: bool,
    with_models: bool,
    accept_lost_secrets: bool = False,
) -> CameIn:
    """Rehearse the backup of what comes in, and restore it; `command` and what it is of are recorded."""
    from backups.opening import Key
    from backups.restoring.generations import generations_of
    from backups.scope import scope_of
    from ops_cli.auditing import audited
    from ops_cli.commands.backup.store import changing, opened
    from ops_cli.migrations.coming_in import bring_in, ensure_room_for
    from ops_cli.proving import prover

    name, what = command
    deployment, store = opened(invocation)
    with (
        progress(invocation) as report,
        audited(invocation, name, what) as event,
        changing(deployment, store, name, report) as lock,
        generations_of(deployment, scope_of(deployment)) as generations,
    ):
        deployment = invocation.deployment()
        ensure_room_for(deployment, replaces=replace)  # somebody may have made an agent meanwhile
        return bring_in(
            deployment, generations, store, backup, Key.of(deployment.backups, identity), lock,
            prover(report, "the stack is as it was", with_models=with_models), report,
            secret=secret, record=event, replaces=replace, accept_lost_secrets=accept_lost_secrets,
        )  # fmt: skip


def render_restored(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    """What a person has to know of it afterwards."""
    for old, new in answer["endpoints"].items():
        yield f"  models that were asked at {old} are asked at {new}, as this stack does"
    yield f"  as it came, it is kept as backup {answer['backup']}"
    if answer["previous"]:
        undo = invocation.command("backup restore --undo")
        yield f"  what was there is kept as {answer['previous']}: `{undo}` goes back to it"
