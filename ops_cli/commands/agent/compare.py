"""`letta-ops agent diff`: are two agents the same, wherever they are?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.commands.agent.in_store import place_of
from ops_cli.invocation import Invocation, current
from ops_cli.options import Identity
from ops_cli.output import Part, Table, UnsuccessfulError, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.archives.compare import Side
    from infra.process import Report
    from infra.stack.deployment import Deployment

FROM_BACKUP = "backup:"
Place = Annotated[
    str,
    typer.Argument(
        help="An agent's id or name, an archive (a file, or store:NAME), an agent file, or"
        " backup:ID:AGENT.",
    ),
]


def diff_agents(
    context: typer.Context, left: Place, right: Place, identity: Identity = None
) -> None:
    """Compare two agents, field by field; exits 1 where they differ.

    Agents with other ids are compared under a map of them.
    """
    invocation = current(context)
    deployment = invocation.deployment()
    answer = _compared(invocation, deployment, left, right, identity)
    if not answer["equal"]:
        raise UnsuccessfulError(
            "agents-differ",
            "\n".join([f"{left} and {right} differ", *_lines(answer)]),
            "what stands before the arrow is of the first one",
            answer,
        )
    present(invocation, answer, _render_equal)


def _compared(
    invocation: Invocation, deployment: Deployment, left: str, right: str, identity: str | None
) -> dict[str, Any]:
    if any(_is_agent_file(word) for word in (left, right)):
        from ops_cli.agents.file_compare import compare_files

        return compare_files(deployment, left, right)
    from backups.archives.compare import compare

    with progress(invocation) as report:
        sides = [_side(invocation, deployment, word, identity, report) for word in (left, right)]
        return compare(deployment, *sides).as_json()


def _is_agent_file(word: str) -> bool:
    """Whether it is a file, and none that `agent archive` wrote."""
    from backups.archives.file import is_archive

    path = Path(word).expanduser()
    return path.is_file() and not is_archive(path)


def _side(
    invocation: Invocation, deployment: Deployment, word: str, identity: str | None, report: Report
) -> Side:
    from backups.archives.compare import of_archive, of_backup, of_live
    from backups.archives.place import IN_STORE
    from backups.opening import Key

    path = Path(word).expanduser()
    if word.startswith(FROM_BACKUP):
        from backups.catalog import deployment_id, read_catalog
        from ops_cli.commands.backup.store import opened

        name, _, agent = word.removeprefix(FROM_BACKUP).partition(":")
        if not agent:
            raise typer.BadParameter("write it as backup:ID:AGENT", param_hint=word)
        _, store = opened(invocation)
        backup = read_catalog(store, deployment_id(deployment)).find(name)
        key = Key.of(deployment.backups, identity)
        return of_backup(store, backup, key, [agent], report)
    if path.is_file() or word.startswith(IN_STORE):
        return of_archive(place_of(invocation, word), Key.of(deployment.backups, identity), report)
    return of_live([word])


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    for each in answer["differences"][:20]:
        if each["only"]:
            side = "first" if each["only"] == "left" else "second"
            yield f"  - {each['table']} {each['key']}: only the {side} has it"
        for name, (before, after) in each["fields"].items():
            yield f"  - {each['table']} {each['key']} {name}: {before} -> {after}"
    if answer["count"] > 20:
        yield f"  and {answer['count'] - 20} more"


def _render_equal(answer: dict[str, Any]) -> Iterator[Part]:
    under = ", under a map of their ids" if answer["mapped"] else ""
    yield f"they are equal{under}: {sum(answer['rows'].values())} rows"
    yield Table(("what", "rows"), sorted(answer["rows"].items()))
