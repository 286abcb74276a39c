"""`letta-ops agent import`: agent files (.af) are brought in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import LettaOpsError
from ops_cli.auditing import audited
from ops_cli.commands.agent.losses import Strict, lossy, tell_losses
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, EmbeddingHandle, ModelHandle, by_reference, pairs
from ops_cli.output import Part, UnsuccessfulError, note, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from infra.sensitive import Sensitive
    from infra.stack.deployment import Deployment
    from ops_cli.agents.import_plan import ImportChoices, Plan, PlannedTool
    from ops_cli.agents.importing import Imported
    from ops_cli.agents.loss import Loss


def import_agents(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Agent files, folders of them, or - for stdin."),
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
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            metavar="NAME=REFERENCE",
            help="A secret of the agents, by reference (env:, file:, cmd:). May be repeated.",
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Import a file though it was imported before.")
    ] = False,
    strict: Strict = False,
    dry_run: DryRun = False,
) -> None:
    """Make the agents of agent files (.af) anew, with new ids; each file all or nothing, and once."""
    from ops_cli.agents import importing
    from ops_cli.agents.agent_file import read_agent_file
    from ops_cli.agents.import_plan import ImportChoices
    from ops_cli.agents.judging import Mends

    invocation = current(context)
    choices = ImportChoices(
        name, model, embedding, pairs(map_model or [], "--map-model"), overwrite_tools,
        allow_unknown_model, replace_nul, Mends(last_messages, allow_commands),
        _secrets(secret or []), again,
    )  # fmt: skip
    paths = list(_paths(files))
    if len(paths) > 1:
        _import_many(invocation, paths, choices, strict=strict, dry_run=dry_run)
        return
    agent_file = read_agent_file(paths[0])
    if dry_run:
        plan = importing.plan_import(invocation.deployment(), agent_file, choices)
        _present_plan(invocation, plan)
        return
    deployment = invocation.deployment()
    with audited(invocation, "agent import", str(paths[0])) as operation:
        operation.deployment = deployment
        imported = importing.import_agents(deployment, agent_file, choices)
        operation.detail["agents"] = [agent.id for agent in imported.agents]
    _warn((*imported.warnings, *_followed(deployment, [imported])), imported.tools)
    losses = _import_losses(deployment, imported)
    tell_losses(losses, "not all of the file came in")
    answer = {
        "stack": invocation.stack,
        "agents": [agent.as_json() for agent in imported.agents],
        "imported_before": imported.before,
        "tools": [asdict(tool) for tool in imported.tools],
        "loss": [each.as_json() for each in losses],
        "warnings": list(imported.warnings),
    }
    if strict and any(each.lost for each in losses):
        raise lossy([each.as_json() for each in losses], answer)
    present(invocation, answer, _render_import)


def _import_many(
    invocation: Invocation,
    paths: list[Path],
    choices: ImportChoices,
    *,
    strict: bool,
    dry_run: bool,
) -> None:
    from ops_cli.agents import importing
    from ops_cli.agents.agent_file import read_agent_file
    from ops_cli.agents.loss import compared_with, known

    if choices.name:
        raise typer.BadParameter("is for one agent", param_hint="--name")
    deployment = invocation.deployment()
    read = [_or_error(lambda path=path: read_agent_file(path)) for path in paths]  # type: ignore[misc]
    whole = [each for each in read if not isinstance(each, LettaOpsError)]
    with progress(invocation) as report:
        if dry_run:
            done: list[Any] = [
                _or_error(lambda file=file: importing.plan_import(deployment, file, choices))  # type: ignore[misc]
                for file in whole
            ]
        else:
            with audited(invocation, "agent import", f"{len(paths)} files") as operation:
                operation.deployment = deployment
                done = list(importing.import_files(deployment, whole, choices, report))
                operation.detail["files"] = len(whole)
    results = iter(done)
    rows = []
    made = [each for each in done if isinstance(each, importing.Imported) and not each.before]
    for word in () if dry_run else _followed(deployment, made):
        note(f"note: {word}")
    counts = known(deployment, [agent.id for each in made for agent in each.agents])
    for path, file in zip(paths, read, strict=True):
        outcome = file if isinstance(file, LettaOpsError) else next(results)
        losses: Sequence[Loss] = ()
        if outcome in made:
            losses = compared_with(outcome.content, [each.id for each in outcome.agents], counts)
        rows.append(_row(path, outcome, losses, strict=strict))
    answer = {"stack": invocation.stack, "dry_run": dry_run, "files": rows}
    failed = [row for row in rows if row["error"]]
    if failed:
        listing = "\n".join(f"  - {row['file']}: {row['error']['message']}" for row in failed)
        raise UnsuccessfulError(
            "import-failed",
            f"{len(failed)} of {len(rows)} files were not imported:\n{listing}",
            "correct them and run this again: what was imported is not imported twice",
            answer,
        )
    present(invocation, answer, _render_many)


def _followed(deployment: Deployment, imported: Sequence[Imported]) -> list[str]:
    """Agents that were made for an application's id: it gets them, or they lose the marks of it."""
    from letta_ops.registry.reconcile import key_of
    from ops_cli.agents.judging import entries

    keys = [
        (key, made.id)
        for each in imported
        if not each.before
        for (_, agent), made in zip(entries(each.content, "agents"), each.agents, strict=False)
        if (key := key_of(agent)) is not None
    ]
    if not keys:
        return []
    from ops_cli.registry.following import follow_import

    return follow_import(deployment, keys)


def _row(path: Path, outcome: Any, losses: Sequence[Loss], *, strict: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"file": str(path), "agents": [], "imported_before": False, "error": None}
    if isinstance(outcome, LettaOpsError):
        return {**row, "warnings": [], "error": outcome.as_json()}
    if strict and any(each.lost for each in losses):
        row["error"] = lossy([]).as_json()
    return {
        **row,
        "agents": [
            each.as_json() if hasattr(each, "as_json") else asdict(each) for each in outcome.agents
        ],
        "imported_before": getattr(outcome, "before", False),
        "loss": [each.as_json() for each in losses],
        "warnings": list(outcome.warnings),
    }


def _or_error(do: Callable[[], Any]) -> Any:
    try:
        return do()
    except LettaOpsError as error:
        return error


def _import_losses(deployment: Deployment, imported: Imported) -> Sequence[Loss]:
    from ops_cli.agents.loss import of_import

    if imported.before:
        return ()
    return of_import(deployment, [agent.id for agent in imported.agents], imported.content)


def _paths(words: list[Path]) -> Iterator[Path]:
    """The files; of a folder, those in it, in the order of their names."""
    for word in words:
        path = word.expanduser()
        found = sorted(path.glob("*.af")) if path.is_dir() else [path]
        if not found:
            raise LettaOpsError("no-agent-files", f"{path} holds no *.af", "name another folder")
        yield from found


def _secrets(words: list[str]) -> dict[str, Sensitive]:
    return {
        name: by_reference("--secret", reference, f"the secret {name}")
        for name, reference in pairs(words, "--secret").items()
    }


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


def _render_import(answer: dict[str, Any]) -> Iterator[Part]:
    for agent in answer["agents"]:
        if answer["imported_before"]:
            yield f"{agent['name']} was imported before, as {agent['id']}; --again imports it anyway"
        else:
            yield f"imported {agent['name']} as {agent['id']}"


def _render_many(answer: dict[str, Any]) -> Iterator[Part]:
    verb = "would import" if answer["dry_run"] else "imported"
    for row in answer["files"]:
        names = ", ".join(f"{agent['name']} ({agent.get('id', 'new')})" for agent in row["agents"])
        before = " (before)" if row["imported_before"] else ""
        yield f"{verb}{before} {row['file']}: {names}"


def _render_plan(answer: dict[str, Any]) -> Iterator[Part]:
    for agent in answer["agents"]:
        yield (
            f"would import {agent['name']} with {agent['messages']} message(s),"
            f" model {agent['model'] or '-'}, embedding {agent['embedding'] or '-'}"
        )
    for tool in answer["tools"]:
        yield f"would have the tool {tool['name']} {tool['fate']}"
