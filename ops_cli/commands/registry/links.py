"""`letta-ops registry get`, `link`, `unlink`, `list` and `history`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.auditing import audited
from ops_cli.invocation import current
from ops_cli.options import DryRun, moment
from ops_cli.output import Part, Table, facts, note, present, printable

if TYPE_CHECKING:
    import datetime as dt

    from letta_ops.registry.links import Row
    from letta_ops.registry.registry import Registry

AppAgent = Annotated[
    str, typer.Argument(metavar="APP_AGENT_ID", help="The application's own id; -- before a -.")
]
App = Annotated[
    str, typer.Option("--app", metavar="APP", envvar="LETTA_OPS_APP", help="The application.")
]
AnyApp = Annotated[
    str | None,
    typer.Option("--app", metavar="APP", envvar="LETTA_OPS_APP", help="Only of this application."),
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.")]
LINKED, GONE, UNKNOWN, MAKING = "linked", "gone", "unknown", "making"
STATES = (LINKED, GONE, UNKNOWN, MAKING)


def get_link(context: typer.Context, app_agent_id: AppAgent, app: App) -> None:
    """Which agent an id has. Exits 1 with `no-link` where it has none, `agent-gone` where it is gone."""
    from backups.registry import opened

    invocation = current(context)
    with opened(invocation.deployment()) as registry:
        link = registry.get(app_agent_id, app=app, check=True)
    present(invocation, {"stack": invocation.stack, **link.as_json()}, _render_link)


def link_agent(
    context: typer.Context,
    app_agent_id: AppAgent,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.")],
    app: App,
    reason: Reason = "",
    move: Annotated[
        bool, typer.Option("--move", help="Also where the id has another agent.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Say which agent an id has. The agent must be there, and nobody else's."""
    from backups.registry import opened

    invocation = current(context)
    deployment = invocation.deployment()
    asked: Any = {"app": app, "reason": reason, "move": move}
    with opened(deployment) as registry:
        if dry_run:
            linked = registry.link(app_agent_id, agent, **asked, dry_run=True)
        else:
            with audited(invocation, "registry link", app) as operation:
                operation.deployment, operation.detail = deployment, {"agent": agent}
                linked = registry.link(app_agent_id, agent, **asked)
    tell_alike(linked.alike)
    answer = {
        "stack": invocation.stack,
        "dry_run": dry_run,
        **linked.link.as_json(),
        "alike": list(linked.alike),
    }
    present(invocation, answer, _render_link)


def unlink_agent(
    context: typer.Context,
    app_agent_id: AppAgent,
    app: App,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Forget which agent an id has. The agent stays, and so does the history."""
    from backups.registry import opened

    invocation = current(context)
    deployment = invocation.deployment()
    with opened(deployment) as registry:
        if dry_run:
            link = registry.linked(app_agent_id, app=app)
        else:
            with audited(invocation, "registry unlink", app) as operation:
                operation.deployment = deployment
                link = registry.unlink(app_agent_id, app=app, reason=reason)
                operation.detail = {"agent": link.letta_agent_id}
    answer = {"stack": invocation.stack, "dry_run": dry_run, **link.as_json()}
    present(invocation, answer, _render_unlinked)


def list_links(
    context: typer.Context,
    app: AnyApp = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="|".join(STATES), help="Only links in this state."),
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="ID", help="Only that of this agent.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Linked after this (ISO 8601), or 2h, 3d ago."
        ),
    ] = None,
    before: Annotated[
        str | None, typer.Option("--before", metavar="TIME", help="Linked before this.")
    ] = None,
) -> None:
    """List links, by application and id. `gone`: the agent is not on the server any more."""
    from backups.registry import opened

    invocation = current(context)
    if state is not None and state not in STATES:
        raise typer.BadParameter(f"is one of {', '.join(STATES)}", param_hint="--state")
    after, until = moment(since), moment(before, "--before")
    with opened(invocation.deployment()) as registry:
        rows = list(registry.store.rows(app, agent=agent))
        there = _agents(registry, rows) if state in (LINKED, GONE, UNKNOWN) else None
    links = [
        {**_listed(row), "state": found}
        for row in rows
        if state in (None, found := _state(row, there)) and _is_of_time(row, after, until)
    ]
    present(invocation, {"stack": invocation.stack, "links": links}, _render_list)


def show_history(
    context: typer.Context,
    app_agent_id: Annotated[
        str | None, typer.Argument(metavar="[APP_AGENT_ID]", help="Only of this id.")
    ] = None,
    app: AnyApp = None,
) -> None:
    """What became of links: who changed which, when and why, the newest first."""
    from backups.registry import opened

    invocation = current(context)
    if app_agent_id is not None and app is None:
        raise typer.BadParameter("say whose id it is", param_hint="--app")
    with opened(invocation.deployment()) as registry:
        events = [event.as_json() for event in registry.store.events(app, app_agent_id)]
    present(invocation, {"stack": invocation.stack, "events": events}, _render_history)


def tell_alike(alike: tuple[str, ...]) -> None:
    """Warn of ids that a person takes for the same."""
    for other in alike:
        note(
            f"warning: {printable(other, single_line=True)!r} is another id of this application, which"
            " differs in case or Unicode form only"
        )


def _agents(registry: Registry, rows: list[Row]) -> set[str] | None:
    """The server's agents, where the database doesn't tell which are there."""
    if registry.server is None or all(
        row.link is None or row.link.there is not None for row in rows
    ):
        return None
    return {str(agent["id"]) for agent in registry.server.every()}


def _state(row: Row, there: set[str] | None) -> str:
    if row.link is None:
        return MAKING
    known = row.link.there
    if there is not None and not row.link.moved_out:
        known = row.link.letta_agent_id in there
    return UNKNOWN if known is None else LINKED if known else GONE


def _is_of_time(row: Row, after: dt.datetime | None, until: dt.datetime | None) -> bool:
    if row.link is None:
        return after is None and until is None
    at = row.link.linked_at
    return (after is None or at >= after) and (until is None or at <= until)


def _listed(row: Row) -> dict[str, Any]:
    if row.link is not None:
        return row.link.as_json()
    return {
        "app": row.key.app,
        "app_agent_id": row.key.id,
        "letta_agent_id": None,
        "server": None,
        "linked_at": None,
        "linked_by": None,
        "reason": f"somebody has been making it for {row.lease_seconds:.0f} s",
        "there": None,
    }


def _render_link(answer: dict[str, Any]) -> Iterator[Part]:
    yield answer["letta_agent_id"]
    yield from facts(
        [
            ("  app", answer["app"]),
            ("  id", answer["app_agent_id"]),
            (
                "  linked",
                f"{answer['linked_at'][:19]} by {answer['linked_by']}: {answer['reason']}",
            ),
        ]
    )


def _render_unlinked(answer: dict[str, Any]) -> Iterator[Part]:
    verb = "would unlink" if answer["dry_run"] else "unlinked"
    yield f"{verb} {answer['letta_agent_id']}, which stays"


def _render_list(answer: dict[str, Any]) -> Iterator[Part]:
    if not answer["links"]:
        yield "no links"
        return
    rows = [
        (each["app_agent_id"], each["app"], each["letta_agent_id"] or "-", each["state"],
         (each["linked_at"] or "-")[:19])
        for each in answer["links"]
    ]  # fmt: skip
    yield Table(("id", "app", "agent", "state", "linked"), rows)


def _render_history(answer: dict[str, Any]) -> Iterator[Part]:
    if not answer["events"]:
        yield "no history"
        return
    rows = [
        (each["at"][:19], each["app"], each["app_agent_id"] or "-", each["what"],
         each["letta_agent_id"] or "-", each["before"] or "-", each["who"], each["reason"])
        for each in answer["events"]
    ]  # fmt: skip
    yield Table(("time", "app", "id", "what", "agent", "before", "who", "reason"), rows)
