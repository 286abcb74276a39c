"""`letta-ops agent export` and `convert`: agent files (.af) are written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.commands.agent.losses import Strict, lossy, tell_losses
from ops_cli.invocation import Invocation, current
from ops_cli.options import Identity
from ops_cli.output import Part, note, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from ops_cli.agents.exporting import Shape

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write to FILE instead of stdout."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")]


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
    archive: Annotated[
        str | None,
        typer.Option(
            "--archive",
            metavar="ARCHIVE",
            help="Not from the server: those that an agent archive holds (a file, or store:NAME).",
        ),
    ] = None,
    identity: Identity = None,
    strict: Strict = False,
    force: Force = False,
) -> None:
    """Write agent files (.af): of one agent to stdout or a file, of several into a folder."""
    from ops_cli.agents.exporting import Shape

    invocation = current(context)
    shape = Shape(scrub_messages, redact)
    target = _target(output)
    if archive is not None:
        if every or tag or name or scrub_messages or redact or strict:
            raise typer.BadParameter(
                "goes with AGENT, --output and --force", param_hint="--archive"
            )
        if target is None:
            raise typer.BadParameter("name a folder for its agent files", param_hint="--output")
        _export_archived(invocation, archive, agents or [], target, identity, force=force)
        return
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
    tell_losses(exported.losses, "the agent file does not carry all that the agent has")
    if strict and any(each.lost for each in exported.losses):
        raise lossy([each.as_json() for each in exported.losses])
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
    lacking = [entry for entry in entries if entry["lost"]]
    if lacking:
        note(
            f"warning: {len(lacking)} of the files do not carry all that their agents have (index.json)"
        )
    answer = {"folder": str(folder), "agents": entries}
    if strict and lacking:
        raise lossy([{"id": entry["id"], "lost": entry["lost"]} for entry in lacking])
    present(
        invocation,
        answer,
        lambda shown: [f"exported {len(shown['agents'])} agent(s) into {shown['folder']}"],
    )


def _export_archived(
    invocation: Invocation,
    word: str,
    wanted: list[str],
    folder: Path,
    identity: str | None,
    *,
    force: bool,
) -> None:
    from backups.archives.file import open_archive
    from backups.opening import Key
    from ops_cli.agents.exporting import take_agent_files
    from ops_cli.commands.agent.in_store import place_of

    key = Key.of(invocation.deployment().backups, identity)
    with open_archive(place_of(invocation, word), key) as archive:
        taken = take_agent_files(archive, wanted, folder, overwrite=force)
    answer = {"folder": str(folder), "agents": taken}
    present(invocation, answer, lambda shown: [f"wrote {each['file']}" for each in shown["agents"]])


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


def _render_export(answer: dict[str, Any]) -> Iterator[Part]:
    yield f"exported {answer['name']} ({answer['id']}) to {answer['file']}, {answer['bytes']} bytes"
