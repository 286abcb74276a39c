"""`letta-ops audit`: who changed what, when, and with which result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import LettaOpsError
from ops_cli.invocation import Invocation, current
from ops_cli.options import new_app
from ops_cli.output import Part, Table, note, present

if TYPE_CHECKING:
    from infra.audit.log import Event

LIMIT = 50

app = new_app("Who changed what, when, and with which result.")


@app.command("list")
def list_events(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="The last N changes.")
    ] = LIMIT,
) -> None:
    """List what was done to the deployment, the newest first."""
    invocation = current(context)
    answer = [event.as_json() for event in _events(invocation, limit)]
    present(invocation, answer, _render)


def _events(invocation: Invocation, limit: int) -> list[Event]:
    """From the database; from the log of the stack's folder where that can't be asked."""
    from infra.audit.log import log_folder, logged
    from infra.audit.trail import entries

    deployment = invocation.deployment()
    folder = log_folder(deployment)
    try:
        return entries(deployment, limit)
    except LettaOpsError as error:
        found = logged(folder, limit) if folder is not None else []
        if error.code != "no-database" and not found:
            raise
        if error.code != "no-database":
            note(f"from the log of this machine alone: {error.message}")
        return found


def _render(events: list[dict[str, Any]]) -> Iterator[Part]:
    if not events:
        yield "no changes yet"
        return
    yield Table(("when", "who", "command", "target", "result"), [_row(event) for event in events])


def _row(event: dict[str, Any]) -> tuple[str, ...]:
    code = event["detail"].get("error")
    return (
        event["at"][:16].replace("T", " ") + " UTC",
        f"{event['who']}@{event['host']}",
        event["command"],
        event["target"],
        event["result"] + (f" ({code})" if code else ""),
    )
