"""`letta-ops registry export` and `import`: links as a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.auditing import audited
from ops_cli.commands.registry.links import AnyApp, tell_alike
from ops_cli.invocation import current
from ops_cli.options import DryRun
from ops_cli.output import Part, present

if TYPE_CHECKING:
    from letta_ops.registry.registry import Registry
    from ops_cli.registry.tables import Entry

Format = Annotated[
    str | None,
    typer.Option("--format", metavar="csv|json", help="As the file's name ends, unless told."),
]


def export_links(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where they go; without, to stdout.")
    ] = None,
    app: AnyApp = None,
    form: Format = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write links as CSV or JSON."""
    from backups.registry import opened
    from infra.files import output
    from ops_cli.agents.exporting import check_output
    from ops_cli.registry.tables import format_of, written

    invocation = current(context)
    chosen = format_of(file, form)
    if file is not None:
        file = file.expanduser()
        check_output(file, overwrite=force)
    with opened(invocation.deployment()) as registry:
        links = [row.link.as_json() for row in registry.store.rows(app) if row.link]
    if file is None:
        if invocation.json:
            present(invocation, {"stack": invocation.stack, "links": links}, lambda _: ())
        else:
            sys.stdout.writelines(written(links, chosen))
        return
    with output(file) as out:
        for text in written(links, chosen):
            out.write(text.encode())
    answer = {"stack": invocation.stack, "file": str(file), "links": len(links)}
    present(invocation, answer, lambda a: [f"wrote {a['links']} link(s) to {a['file']}"])


def import_links(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` writes; - is stdin.")],
    app: Annotated[
        str | None,
        typer.Option("--app", metavar="APP", envvar="LETTA_OPS_APP", help="Where a line has none."),
    ] = None,
    form: Format = None,
    move: Annotated[
        bool, typer.Option("--move", help="Also where an id has another agent.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Link what a file says, after all of it was looked at; agents must be there, and nobody else's."""
    from backups.registry import opened
    from ops_cli.agents.agent_file import read_input
    from ops_cli.registry.tables import format_of, read

    invocation = current(context)
    entries = read(read_input(file.expanduser()), str(file), format_of(file, form), app)
    deployment = invocation.deployment()
    with opened(deployment) as registry:
        wanted = list(_wanted(registry, entries, str(file), move=move))
        if not dry_run and wanted:
            with audited(invocation, "registry import", str(file)) as operation:
                operation.deployment = deployment
                for number, entry in enumerate(wanted):
                    operation.detail = {"links": number}
                    reason = entry.reason or f"import of {file}"
                    linked = registry.link(
                        entry.key.id, entry.agent, app=entry.key.app, reason=reason, move=move
                    )
                    tell_alike(linked.alike)
                operation.detail = {"links": len(wanted)}
    answer = {
        "stack": invocation.stack,
        "dry_run": dry_run,
        "linked": len(wanted),
        "there": len(entries) - len(wanted),
    }
    present(invocation, answer, _render)


def _wanted(
    registry: Registry, entries: list[Entry], source: str, *, move: bool
) -> Iterator[Entry]:
    """What is to be linked; raises LettaOpsError (`links-broken`) with every reason against it."""
    from ops_cli.registry.tables import broken

    there = {str(agent["id"]) for agent in registry.server.every()} if registry.server else None
    by_key = {row.key: row for row in registry.store.rows()}
    of_agent = {row.agent: row.key for row in by_key.values() if row.agent}
    problems = []
    for entry in entries:
        row = by_key.get(entry.key)
        holder = of_agent.get(entry.agent)
        if there is not None and entry.agent not in there:
            problems.append(f"{entry.place}: {entry.agent} is not on the server")
        elif holder not in (None, entry.key):
            problems.append(f"{entry.place}: {entry.agent} is that of {holder}")
        elif row and row.agent not in (None, entry.agent) and not move:
            problems.append(
                f"{entry.place}: {entry.key} has {row.agent} (--move takes the new one)"
            )
    if problems:
        raise broken(source, problems)
    yield from (each for each in entries if of_agent.get(each.agent) != each.key)


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    verb = "would link" if answer["dry_run"] else "linked"
    yield f"{verb} {answer['linked']}; {answer['there']} were so already"
