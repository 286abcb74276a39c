"""`letta-ops registry ensure`: the agent of an id, made once where there never was one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import LettaOpsError
from ops_cli.auditing import audited
from ops_cli.commands.registry.links import App, AppAgent, tell_alike
from ops_cli.invocation import current
from ops_cli.options import DryRun, pairs
from ops_cli.output import Part, facts, note, present

if TYPE_CHECKING:
    from infra.stack.deployment import Deployment
    from letta_ops.registry.making import Make
    from letta_ops.registry.registry import Ensured


def ensure_agent(
    context: typer.Context,
    app_agent_id: AppAgent,
    app: App,
    *,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE.af", help="Make it of an agent file.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option("--template", metavar="FILE.yaml", help="Make it of a template.")
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="For {NAME} in the template."),
    ] = None,
    recreate: Annotated[
        bool,
        typer.Option("--recreate", help="Make an empty one also where the server has lost it."),
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Change what the template says otherwise now.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Which agent an id has; it is made where there never was one, once, however many ask at a time."""
    from backups.registry import opened
    from letta_ops.registry.errors import NoLink
    from letta_ops.registry.template import Template

    invocation = current(context)
    if source is not None and template is not None:
        raise typer.BadParameter("goes without --from", param_hint="--template")
    if values and template is None:
        raise typer.BadParameter("is for a --template", param_hint="--set")
    deployment = invocation.deployment()
    plan = Template.read(template) if template else None
    given = pairs(values or [], "--set")
    make = _import_of(deployment, source) if source else None

    asked: Any = {"app": app, "template": plan, "values": given}
    with opened(deployment) as registry:
        try:
            done = registry.ensure(app_agent_id, **asked, dry_run=True)
            made_anew = update and bool(done.differences)
        except NoLink:
            if dry_run:
                present(invocation, {"stack": invocation.stack, **_NOTHING}, _render_plan)
                return
            made_anew = True
        except LettaOpsError as error:
            if dry_run or not recreate or error.code != "agent-gone":
                raise
            made_anew = True
        if made_anew and not dry_run:
            with audited(invocation, "registry ensure", app) as operation:
                operation.deployment = deployment
                done = registry.ensure(
                    app_agent_id, **asked, make=make, recreate=recreate, update=update
                )
                operation.detail = {"agent": done.letta_agent_id, "outcome": done.outcome}
    _tell(done)
    present(invocation, {"stack": invocation.stack, **_answer(done)}, _render)


_NOTHING: dict[str, Any] = {"letta_agent_id": None, "outcome": "would be created"}


def _import_of(deployment: Deployment, source: Path) -> Make:
    """What makes an agent of an agent file: the same import as that of `agent import`."""
    from letta_ops.registry.links import Key
    from ops_cli.agents.agent_file import read_agent_file
    from ops_cli.agents.judging import entries

    file = read_agent_file(source)
    if (count := len(list(entries(file.content, "agents")))) != 1:
        raise LettaOpsError(
            "several-agents",
            f"{source} holds {count} agents",
            "an id has one agent: give a file with one, or `letta-ops agent import` it and link each",
        )

    def make(key: Key) -> str:
        from letta_ops.registry.errors import ServerUnavailable
        from ops_cli.agents.import_plan import ImportChoices
        from ops_cli.agents.importing import import_agents
        from ops_cli.registry.marking import marked_for

        try:
            imported = import_agents(
                deployment, marked_for(file, key), ImportChoices(name=key.agent_name, again=True)
            )
        except LettaOpsError as error:
            if error.code in ("import-unfinished", "server-timeout"):
                raise ServerUnavailable(error.message, error.hint) from None
            raise
        for warning in imported.warnings:
            note(f"warning: {warning}")
        return imported.agents[0].id

    return make


def _tell(done: Ensured) -> None:
    tell_alike(done.alike)
    for each in done.differences:
        note(f"{'changed' if done.updated and not each.kept else 'differs'}: {each}")
    if done.differences and not done.updated:
        note("note: nothing was changed; --update does it")


def _answer(done: Ensured) -> dict[str, Any]:
    return {
        **done.link.as_json(),
        "outcome": done.outcome,
        "alike": list(done.alike),
        "updated": done.updated,
        "differences": [
            {
                "path": each.path,
                "before": each.before,
                "after": each.after,
                "kept": each.kept or None,
            }
            for each in done.differences
        ],
    }


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    yield answer["letta_agent_id"]
    said = {
        "there": "was there",
        "created": "created now",
        "found": "made earlier, found and linked now",
    }
    yield from facts([("  app", answer["app"]), ("  id", answer["app_agent_id"]),
                      ("  outcome", said[answer["outcome"]])])  # fmt: skip


def _render_plan(_answer: dict[str, Any]) -> Iterator[Part]:
    yield "would create an agent"
