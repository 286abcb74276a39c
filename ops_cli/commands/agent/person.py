"""`letta-ops agent person`: what belongs to one person, shown, exported or erased."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.asking import confirm
from ops_cli.auditing import audited
from ops_cli.commands.backup.store import changing, opened
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, Yes
from ops_cli.output import Part, Table, facts, note, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.archives.person import Marked, Person
    from backups.stores.store import Store
    from infra.stack.deployment import Deployment

REMAINS = (
    "agents that others use, too, keep what they made of it: their answers, summaries and (git) memory",
    "files that were exported elsewhere, and copies of the store, are not known here",
)


def show_person(
    context: typer.Context,
    person: Annotated[
        str, typer.Argument(metavar="PERSON", help="An identity: its id, or its key.")
    ],
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write all of it into a file, as JSON."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    erase: Annotated[
        bool, typer.Option("--erase", help="Delete all of it, without an archive.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """What belongs to one person, in all agents, and which backups still hold it until when."""
    from backups.archives.live import live
    from backups.archives.person import Marked
    from ops_cli.agents.exporting import check_output

    invocation = current(context)
    deployment, store = opened(invocation)
    target = export and export.expanduser()
    if target is not None:
        check_output(target, overwrite=force)
    with live(deployment) as (link, model, _):
        marks = Marked(link, model, person)
        found, notes = marks.person, list[str]()
        if target is not None and not dry_run:
            _export(invocation, deployment, marks, target)
    if erase and not dry_run:
        if not yes:
            whole = sum(agent.whole for agent in found.agents)
            confirm(
                f"Erase all of {found.name} ({found.id}), with {whole} agent(s)? This can't be undone.",
                "this erases a person's data, and there is no terminal to ask on",
            )
        found, notes = _erase(invocation, deployment, store, found.id)
    answer = _answer(invocation, deployment, store, found)
    answer |= {
        "dry_run": dry_run and erase,
        "erased": erase and not dry_run,
        "file": None if target is None or dry_run else str(target),
    }
    for word in (*notes, *_remains(found, erase=erase, export=target is not None)):
        note(f"note: {word}")
    present(invocation, answer, _render)


def _remains(person: Person, *, erase: bool, export: bool) -> Iterator[str]:
    """What can't be told to be hers, or goes or stays with it."""
    shared = [agent for agent in person.agents if not agent.whole]
    if unsigned := sum(agent.unsigned for agent in shared):
        yield (
            f"{unsigned} message(s) of users to agents that others use, too, have no sender: they are not"
            " taken for this person's"
        )
    if of_others := sum(agent.of_others for agent in person.agents if agent.whole):
        yield f"{of_others} message(s) in this person's agents were sent by other identities"
    if export:
        yield "the export has no git memory: `letta-ops agent archive` takes it along"
    if erase:
        yield from REMAINS


def _export(invocation: Invocation, deployment: Deployment, marks: Marked, target: Path) -> None:
    from ops_cli.agents.person_file import write_person

    with audited(invocation, "agent person export", marks.person.id) as operation:
        operation.deployment = deployment
        write_person(marks, target)


def _erase(
    invocation: Invocation, deployment: Deployment, store: Store, person: str
) -> tuple[Person, list[str]]:
    from backups.archives.person import erase

    with (
        progress(invocation) as report,
        audited(invocation, "agent person erase", person) as operation,
        changing(deployment, store, "agent person", report),
    ):
        operation.deployment = deployment
        erased, notes = erase(deployment, person)
        operation.detail = {"rows": erased.rows}
    return erased, notes


def _answer(
    invocation: Invocation, deployment: Deployment, store: Store, person: Person
) -> dict[str, Any]:
    from backups.archives.held import holders

    archives = invocation.folder.agent_archives
    held = [each.as_json() for each in holders(deployment, store, archives, person.since)]
    return {**person.as_json(), "held_by": held}


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    verb = "erased" if answer["erased"] else "would erase" if answer["dry_run"] else "has"
    yield f"{answer['name']}  {answer['id']}  ({answer['key']})"
    rows = ", ".join(f"{count} {table}" for table, count in answer["rows"].items())
    yield from facts([(f"  {verb}", rows), ("  written to", answer["file"])])
    if answer["agents"]:
        yield Table(
            ("agent", "name", "belongs to", "messages sent"),
            [(each["id"], each["name"], _whose(each), each["sent"]) for each in answer["agents"]],
        )
    if answer["blocks"]:
        blocks = [(each["id"], each["label"], _whose(each)) for each in answer["blocks"]]
        yield Table(("block", "label", "belongs to"), blocks)
    if answer["held_by"]:
        held = [(each["name"], each["kind"], each["until"]) for each in answer["held_by"]]
        yield Table(("may be held by", "what", "until"), held)


def _whose(each: dict[str, Any]) -> str:
    return "this person" if each["whole"] else "others, too"
