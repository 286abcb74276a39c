"""`letta-ops agent list`, `show` and `messages`: agents, looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ops_cli.invocation import current
from ops_cli.options import moment
from ops_cli.output import Part, Table, facts, present

SHOWN = 300  # characters of a text that a person is shown
Agent = Annotated[
    str, typer.Argument(metavar="AGENT", help="Its id, or its name if no other has it.")
]


def list_agents(
    context: typer.Context,
    tag: Annotated[str | None, typer.Option("--tag", help="Only agents with this tag.")] = None,
) -> None:
    """List all agents, the oldest first."""
    from infra.api import api
    from ops_cli.agents.listing import every_agent

    invocation = current(context)
    filters = {"tags": [tag]} if tag else {}
    with api(invocation.deployment()) as client:
        answer = [agent.as_json() for agent in every_agent(client, **filters)]
    present(invocation, answer, _render_list)


def show_agent(
    context: typer.Context,
    agent: Agent,
) -> None:
    """What there is to know of an agent. Asked of the database: the server may be down."""
    from ops_cli.agents import served, stored

    invocation = current(context)
    deployment = invocation.deployment()
    if deployment.database is None:
        answer = served.with_tokens(deployment, served.show(deployment, agent))
    else:
        answer = stored.show(deployment, agent)
    present(invocation, answer, _render_agent)


def show_messages(
    context: typer.Context,
    agent: Agent,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Not older than this (ISO 8601), or 2h, 3d."),
    ] = None,
    conversation: Annotated[
        str | None, typer.Option("--conversation", metavar="ID", help="Only of this one.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--last", metavar="N", min=1, help="Only the last N.")
    ] = None,
) -> None:
    """An agent's messages, of all conversations, the oldest first. The server may be down."""
    from collections import deque

    from ops_cli.agents import served, stored

    invocation = current(context)
    deployment = invocation.deployment()
    source = served if deployment.database is None else stored
    found = source.messages(deployment, agent, moment(since), conversation)
    kept = deque(found, maxlen=limit)
    present(invocation, [message.as_json() for message in kept], _render_messages)


def _render_list(agents: list[dict[str, Any]]) -> Iterator[Part]:
    if not agents:
        yield "no agents"
        return
    rows = [
        (agent["id"], agent["name"], agent["model"] or "-", (agent["created"] or "-")[:10])
        for agent in agents
    ]
    yield Table(("id", "name", "model", "created"), rows)


def _render_agent(answer: dict[str, Any]) -> Iterator[Part]:
    yield f"{answer['name']}  {answer['id']}"
    context = answer["context"]
    limit = context["limit_tokens"]
    tokens = context["tokens"]
    about = "about " if context["tokens_estimated"] else ""
    used = f"{about}{sum(tokens.values())}" + (f" of {limit}" if limit else "")
    parts = ", ".join(f"{part} {count}" for part, count in tokens.items() if count)
    link = answer.get("link")
    window = f"{context['messages']} message(s); {used} tokens: {parts}"
    yield from facts(
        [
            ("  agent of", link and f"{link['app_agent_id']!r} of {link['app']!r}"),
            ("  type", answer["type"]),
            ("  description", _short(answer["description"])),
            ("  model", answer["model"]),
            ("  embedding", answer["embedding"]),
            ("  created", answer["created"]),
            ("  last message", answer["last_message"]),
            ("  context", window),
            ("  tags", ", ".join(answer["tags"]) or None),
            ("  tools", ", ".join(answer["tools"]) or None),
            ("  counts", ", ".join(f"{count} {name}" for name, count in answer["counts"].items())),
            ("  system", _short(answer["system"])),
        ]
    )
    if context["by_role"]:
        rows = [
            (role, each["messages"], each["characters"])
            for role, each in context["by_role"].items()
        ]
        yield Table(("in context", "messages", "characters"), rows)
    if answer["blocks"]:
        blocks = [
            (block["label"], f"{block['characters']} of {block['limit']}", _short(block["value"]))
            for block in answer["blocks"]
        ]
        yield Table(("block", "characters", "value"), blocks)


def _render_messages(answer: list[dict[str, Any]]) -> Iterator[Part]:
    if not answer:
        yield "no messages"
        return
    rows = [
        (
            message["created"][:19],
            message["role"],
            message["conversation"] or "-",
            _short(message["text"] or ", ".join(f"{name}()" for name in message["calls"])) or "-",
        )
        for message in answer
    ]
    yield Table(("time", "role", "conversation", "text"), rows)


def _short(text: str | None) -> str | None:
    if not text:
        return None
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."
