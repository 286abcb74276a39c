"""`letta-ops agent archives`: those in the store; and which archive a word on the command line means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.asking import confirm
from ops_cli.auditing import audited
from ops_cli.commands.backup.store import opened
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, Yes
from ops_cli.output import Part, Table, present

if TYPE_CHECKING:
    from backups.archives.place import Place


def list_archives(
    context: typer.Context,
    delete: Annotated[
        list[str] | None,
        typer.Option("--delete", metavar="NAME", help="Delete this one. May be repeated."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """List the agent archives in the store, the oldest first, or delete some; nothing prunes them."""
    from backups.archives.place import archives_in, find_archive
    from backups.catalog import deployment_id

    invocation = current(context)
    deployment, store = opened(invocation)
    owner = deployment_id(deployment)
    going = [find_archive(store, owner, word, exact=True) for word in delete or ()]
    if going and not dry_run:
        if not yes:
            confirm(
                f"Delete {len(going)} agent archive(s)?",
                "this deletes archives, and there is no terminal to ask on",
            )
        names = [place.name for place in going]
        with audited(invocation, "agent archives delete", ", ".join(names)) as operation:
            operation.deployment = deployment
            for place in going:
                place.delete()
    held = [
        {"name": place.name, "bytes": entry.size, "written": entry.modified.isoformat()}
        for place, entry in archives_in(store, owner)
    ]
    answer = {
        "store": store.url,
        "archives": held,
        "deleted": [place.name for place in going],
        "dry_run": dry_run,
    }
    present(invocation, answer, _render)


def place_of(invocation: Invocation, word: str) -> Place:
    """The archive that `word` names: `store:NAME`, or a file."""
    from backups.archives.place import IN_STORE, InFile, find_archive
    from backups.catalog import deployment_id

    if not word.startswith(IN_STORE):
        return InFile(Path(word).expanduser())
    deployment, store = opened(invocation)
    return find_archive(store, deployment_id(deployment), word.removeprefix(IN_STORE))


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    from backups.humanize import size_in_words

    verb = "would delete" if answer["dry_run"] else "deleted"
    yield from (f"{verb} {name}" for name in answer["deleted"])
    if not answer["archives"]:
        yield f"no agent archives in {answer['store']}"
        return
    rows = [
        (each["name"], each["written"][:19], size_in_words(each["bytes"]))
        for each in answer["archives"]
    ]
    yield Table(("archive", "written", "size"), rows)
