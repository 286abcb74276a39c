"""`letta-ops agent export`, `import` and `convert`: agent files (.af)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.auditing import audited
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, EmbeddingHandle, ModelHandle, pairs
from ops_cli.output import Part, note, present

if TYPE_CHECKING:
    from ops_cli.agents.import_plan import Plan, PlannedTool

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write to FILE instead of stdout."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")]


def export_agent(
    context: typer.Context,
    agent: Annotated[
        str,
        typer.Argument(metavar="AGENT", help="The agent's id, or its name if no other has it."),
    ],
    output: Output = None,
    force: Force = False,
) -> None:
    """Write an agent file (.af) to stdout, or to FILE."""
    from ops_cli.agents import exporting

    invocation = current(context)
    target = _target(output)
    if target is not None:
        exporting.check_output(target, overwrite=force)
    exported = exporting.export_agent(invocation.deployment(), agent)
    note(f"the agent file carries {exported.messages} message(s); no agent file carries:")
    note(f"  {', '.join(exporting.LEFT_OUT)}")
    if target is None:
        sys.stdout.write(exported.text + ("" if exported.text.endswith("\n") else "\n"))
        return
    exporting.save(exported.text, target)
    answer = {
        "id": exported.agent.id,
        "name": exported.agent.name,
        "file": str(target),
        "bytes": target.stat().st_size,
        "messages": exported.messages,
        "left_out": list(exporting.LEFT_OUT),
    }
    present(invocation, answer, _render_export)


def import_agents(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An agent file of format 2, or - for stdin.")
    ],
    *,
    name: Annotated[str | None, typer.Option("--name", help="Another name for the agent.")] = None,
    model: ModelHandle = None,
    embedding: EmbeddingHandle = None,
    map_model: Annotated[
        list[str] | None,
        typer.Option(
            "--map-model",
            metavar="OLD=NEW",
            help="Use NEW where the file has OLD. May be repeated.",
        ),
    ] = None,
    overwrite_tools: Annotated[
        bool,
        typer.Option(
            "--overwrite-tools",
            "--override-tools",
            help="Replace the server's tools and MCP servers of the same name.",
        ),
    ] = False,
    allow_unknown_model: Annotated[
        bool,
        typer.Option("--allow-unknown-model", help="Import although the server lacks the model."),
    ] = False,
    allow_commands: Annotated[
        bool,
        typer.Option(
            "--allow-commands", help="Take MCP servers that run a command on the Letta server."
        ),
    ] = False,
    last_messages: Annotated[
        int,
        typer.Option(
            "--last-messages",
            metavar="N",
            min=0,
            help="Where an agent's context is empty, put its last N messages there.",
        ),
    ] = 0,
    replace_nul: Annotated[
        bool,
        typer.Option("--replace-nul", help="Put U+FFFD for characters that no Postgres holds."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Make the agents of an agent file (.af) anew, with new ids."""
    from ops_cli.agents import importing
    from ops_cli.agents.agent_file import read_agent_file
    from ops_cli.agents.import_plan import ImportChoices
    from ops_cli.agents.judging import Mends

    invocation = current(context)
    choices = ImportChoices(
        name, model, embedding, pairs(map_model or [], "--map-model"), overwrite_tools,
        allow_unknown_model, replace_nul, Mends(last_messages, allow_commands),
    )  # fmt: skip
    agent_file = read_agent_file(file.expanduser())
    if dry_run:
        plan = importing.plan_import(invocation.deployment(), agent_file, choices)
        _present_plan(invocation, plan)
        return
    deployment = invocation.deployment()
    with audited(invocation, "agent import", str(file)) as operation:
        operation.deployment = deployment
        imported = importing.import_agents(deployment, agent_file, choices)
        operation.detail["agents"] = [agent.id for agent in imported.agents]
    _warn(imported.warnings, imported.tools)
    answer = {
        "stack": invocation.stack,
        "agents": [agent.as_json() for agent in imported.agents],
        "tools": [asdict(tool) for tool in imported.tools],
        "warnings": list(imported.warnings),
    }
    present(invocation, answer, _render_import)


def convert_file(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An agent file, or - for stdin.")],
    output: Output = None,
    force: Force = False,
) -> None:
    """Write an agent file of format 1 (Letta up to 0.11) in format 2, which servers take."""
    import json

    from ops_cli.agents import exporting
    from ops_cli.agents.agent_file import read_agent_file

    invocation = current(context)
    target = _target(output)
    if target is not None:
        exporting.check_output(target, overwrite=force)
    converted = read_agent_file(file.expanduser())
    for word in converted.notes or ("it is of format 2 already",):
        note(word)
    text = json.dumps(converted.content, indent=2, ensure_ascii=False)
    if target is None:
        sys.stdout.write(text + "\n")
        return
    exporting.save(text, target)
    answer = {"file": str(target), "converted": bool(converted.notes), "notes": converted.notes}
    present(invocation, answer, lambda shown: [f"wrote {shown['file']}"])


def _target(output: Path | None) -> Path | None:
    return None if output is None or str(output) == "-" else output.expanduser()


def _present_plan(invocation: Invocation, plan: Plan) -> None:
    _warn(plan.warnings, plan.tools)
    answer = {
        "stack": invocation.stack,
        "dry_run": True,
        "agents": [asdict(agent) for agent in plan.agents],
        "tools": [asdict(tool) for tool in plan.tools],
        "warnings": list(plan.warnings),
    }
    present(invocation, answer, _render_plan)


def _warn(warnings: tuple[str, ...], tools: tuple[PlannedTool, ...]) -> None:
    for warning in warnings:
        note(f"warning: {warning}")
    for tool in tools:
        if tool.difference:
            fate = "is replaced" if tool.fate == "replaced" else "stays (see --overwrite-tools)"
            note(
                f"warning: the server's tool '{tool.name}' is another than the file's, and {fate}:"
            )
            note(tool.difference)


def _render_export(answer: dict[str, Any]) -> Iterator[Part]:
    yield f"exported {answer['name']} ({answer['id']}) to {answer['file']}, {answer['bytes']} bytes"


def _render_import(answer: dict[str, Any]) -> Iterator[Part]:
    for agent in answer["agents"]:
        yield f"imported {agent['name']} as {agent['id']}"


def _render_plan(answer: dict[str, Any]) -> Iterator[Part]:
    for agent in answer["agents"]:
        yield (
            f"would import {agent['name']} with {agent['messages']} message(s),"
            f" model {agent['model'] or '-'}, embedding {agent['embedding'] or '-'}"
        )
    for tool in answer["tools"]:
        yield f"would have the tool {tool['name']} {tool['fate']}"
