"""`letta-ops agent export`, `import` and `convert`: agent files (.af)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import LettaOpsError
from ops_cli.auditing import audited
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, EmbeddingHandle, ModelHandle, by_reference, pairs
from ops_cli.output import Part, UnsuccessfulError, note, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from infra.sensitive import Sensitive
    from infra.stack.deployment import Deployment
    from ops_cli.agents.exporting import Shape
    from ops_cli.agents.import_plan import ImportChoices, Plan, PlannedTool
    from ops_cli.agents.importing import Imported
    from ops_cli.agents.loss import Loss

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write to FILE instead of stdout."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")]


Strict = Annotated[bool, typer.Option("--strict", help="Fail when anything is lost.")]


def export_agent(
    context: typer.Context,
    agents: Annotated[
        list[str] | None,
        typer.Argument(metavar="AGENT...", help="Ids, or names if no other agent has them."),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All agents.")] = False,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="All agents with this tag.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="PATTERN", help="All with such a name: bot-*")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="A file; of several agents, a folder."),
    ] = None,
    scrub_messages: Annotated[
        bool, typer.Option("--scrub-messages", help="Without any message.")
    ] = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="Blacken what looks like a secret or an address.")
    ] = False,
    strict: Strict = False,
    force: Force = False,
) -> None:
    """Write agent files (.af): of one agent to stdout or a file, of several into a folder."""
    from ops_cli.agents.exporting import Shape

    invocation = current(context)
    shape = Shape(scrub_messages, redact)
    target = _target(output)
    if not (every or tag or name) and len(agents or ()) == 1:
        _export_one(invocation, (agents or [""])[0], target, shape, strict=strict, force=force)
        return
    if bool(agents) + every + bool(tag) + bool(name) != 1:
        raise typer.BadParameter("name agents, or say --all, --tag or --name", param_hint="AGENT")
    if target is None:
        raise typer.BadParameter("name a folder for several agents", param_hint="--output")
    _export_many(invocation, agents, tag, name, target, shape, strict=strict, force=force)


def _export_one(
    invocation: Invocation,
    agent: str,
    target: Path | None,
    shape: Shape,
    *,
    strict: bool,
    force: bool,
) -> None:
    from ops_cli.agents import exporting

    if target is not None:
        exporting.check_output(target, overwrite=force)
    exported = exporting.export_agent(invocation.deployment(), agent, shape)
    _tell_losses(exported.losses, "the agent file does not carry all that the agent has")
    if strict and any(each.lost for each in exported.losses):
        raise _lossy([each.as_json() for each in exported.losses])
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
        "left_out": [each.what for each in exported.losses if each.lost],
        "loss": [each.as_json() for each in exported.losses],
        "redacted": exported.redacted,
    }
    present(invocation, answer, _render_export)


def _export_many(
    invocation: Invocation,
    wanted: list[str] | None,
    tag: str | None,
    pattern: str | None,
    folder: Path,
    shape: Shape,
    *,
    strict: bool,
    force: bool,
) -> None:
    from fnmatch import fnmatchcase

    from infra.api import api
    from ops_cli.agents.exporting import export_agents
    from ops_cli.agents.listing import every_agent, find_agent

    deployment = invocation.deployment()
    with api(deployment) as client:
        if wanted:
            agents = [find_agent(client, each) for each in wanted]
        else:
            filters = {"tags": [tag]} if tag else {}
            agents = [
                each
                for each in every_agent(client, **filters)
                if pattern is None or fnmatchcase(each.name, pattern)
            ]
    with progress(invocation) as report:
        entries = export_agents(deployment, agents, folder, shape, report, again=force)
    lossy = [entry for entry in entries if entry["lost"]]
    if lossy:
        note(
            f"warning: {len(lossy)} of the files do not carry all that their agents have (index.json)"
        )
    answer = {"folder": str(folder), "agents": entries}
    if strict and lossy:
        raise _lossy([{"id": entry["id"], "lost": entry["lost"]} for entry in lossy])
    present(
        invocation,
        answer,
        lambda shown: [f"exported {len(shown['agents'])} agent(s) into {shown['folder']}"],
    )


def _tell_losses(losses: Sequence[Loss], words: str) -> None:
    from ops_cli.agents.loss import in_words

    lost = in_words(losses)
    if lost:
        note(f"warning: {words}: {'; '.join(lost)}")


def _lossy(losses: list[dict[str, Any]], answer: dict[str, Any] | None = None) -> UnsuccessfulError:
    """`answer` is of what was done all the same."""
    return UnsuccessfulError(
        "loss",
        "not all is carried, and --strict was said",
        "`letta-ops agent archive` carries everything; without --strict the rest is told only",
        {**(answer or {}), "loss": losses},
    )


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
    _warn(imported.warnings, imported.tools)
    losses = _import_losses(deployment, imported)
    _tell_losses(losses, "not all of the file came in")
    answer = {
        "stack": invocation.stack,
        "agents": [agent.as_json() for agent in imported.agents],
        "imported_before": imported.before,
        "tools": [asdict(tool) for tool in imported.tools],
        "loss": [each.as_json() for each in losses],
        "warnings": list(imported.warnings),
    }
    if strict and any(each.lost for each in losses):
        raise _lossy([each.as_json() for each in losses], answer)
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


def _row(path: Path, outcome: Any, losses: Sequence[Loss], *, strict: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"file": str(path), "agents": [], "imported_before": False, "error": None}
    if isinstance(outcome, LettaOpsError):
        return {**row, "warnings": [], "error": outcome.as_json()}
    if strict and any(each.lost for each in losses):
        row["error"] = _lossy([]).as_json()
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
