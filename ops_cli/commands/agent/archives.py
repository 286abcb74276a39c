"""`letta-ops agent archive`, `restore` and `delete`: agents with everything that is theirs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.asking import confirm
from ops_cli.auditing import audited
from ops_cli.commands.agent.in_store import place_of
from ops_cli.commands.backup.store import changing, opened
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, Identity, Yes, by_reference
from ops_cli.output import Part, facts, note, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.archives.restore import Choices, Outcome
    from backups.archives.write import Archived
    from infra.process import Report
    from infra.stack.deployment import Deployment

Agents = Annotated[
    list[str] | None,
    typer.Argument(metavar="AGENT...", help="Ids, or names if no other agent has them."),
]


def archive_agents(
    context: typer.Context,
    agents: Agents = None,
    every: Annotated[bool, typer.Option("--all", help="All agents.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where the archive goes.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    to_store: Annotated[
        bool, typer.Option("--store", help="Into the store of the backups, not into a file.")
    ] = False,
    with_files: Annotated[
        bool,
        typer.Option("--agent-files", help="Take along the agent file (.af) of each, for others."),
    ] = False,
) -> None:
    """Write agents with everything that is theirs into one archive, out of one snapshot."""
    from backups.archives.place import ENDING, InFile, InStore, Place
    from backups.archives.write import archive
    from backups.catalog import deployment_id
    from ops_cli.agents.exporting import agent_files, check_output, ensure_answers, plain_name

    invocation = current(context)
    if every == bool(agents):
        raise typer.BadParameter("name agents, or say --all", param_hint="AGENT")
    if to_store and output is not None:
        raise typer.BadParameter("goes without --store", param_hint="--output")
    name = plain_name("agents" if every or len(agents or ()) > 1 else (agents or ["agents"])[0])
    deployment = invocation.deployment()
    place: Place
    if to_store:
        place = InStore(opened(invocation)[1], deployment_id(deployment), f"{_now()}-{name}")
    else:
        path = (output or Path(name + ENDING)).expanduser()
        check_output(path, overwrite=force)
        place = InFile(path)
    with (
        progress(invocation) as report,
        audited(invocation, "agent archive", str(place)) as operation,
    ):
        operation.deployment = deployment
        files = None
        if with_files:
            ensure_answers(deployment)  # before anything is written
            files = partial(agent_files, deployment)
        made = archive(deployment, None if every else agents, place, report, files)
        operation.detail = {"agents": [agent["id"] for agent in made.header.agents]}
    for what, count in made.header.left_out.items():
        note(f"warning: not in the archive: {count} of {what}")
    present(invocation, _archived(made), _render_archived)


def restore_agents(
    context: typer.Context,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="An agent archive: a file, or store:NAME (`latest`); or use --backup.",
        ),
    ] = None,
    *,
    backup: Annotated[
        str | None,
        typer.Option("--backup", metavar="ID", help="Out of a backup: its id, or `latest`."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", metavar="AGENT", help="Which one of the backup. May be repeated."),
    ] = None,
    on_conflict: Annotated[
        str,
        typer.Option(
            "--on-conflict",
            metavar="fail|skip|replace",
            help="Where an agent with this id is there: replaced ones are archived first.",
        ),
    ] = "fail",
    new_ids: Annotated[
        bool, typer.Option("--new-ids", help="Under new ids, beside what is there.")
    ] = False,
    without_secrets: Annotated[
        bool, typer.Option("--without-secrets", help="Leave secrets out, to be set anew.")
    ] = False,
    secrets_key: Annotated[
        str | None,
        typer.Option(
            "--secrets-key",
            metavar="REFERENCE",
            help="The LETTA_ENCRYPTION_KEY that the secrets are encrypted with, where this server has"
            " another: file:PATH, env:NAME or cmd:COMMAND.",
        ),
    ] = None,
    identity: Identity = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Bring agents back into the live server, all or nothing; no other agent is touched."""
    from backups.archives.restore import CONFLICTS, Choices

    invocation = current(context)
    if (file is None) == (backup is None) or (backup is None) != (not agent):
        raise typer.BadParameter("name an archive, or --backup ID --agent AGENT", param_hint="FILE")
    if on_conflict not in CONFLICTS:
        raise typer.BadParameter(f"is one of {', '.join(CONFLICTS)}", param_hint="--on-conflict")
    old_key = (
        by_reference("--secrets-key", secrets_key, "the key of the secrets")
        if secrets_key
        else None
    )
    choices = Choices(on_conflict, new_ids, without_secrets, old_key, dry_run)
    if on_conflict == "replace" and not (yes or dry_run):
        confirm("Replace agents that are there (they are archived first)?", REFUSAL)
    job = (
        _from_archive(invocation, str(file), identity)
        if backup is None
        else _from_backup(invocation, backup, agent or [], identity)
    )
    present(invocation, _restored(invocation, str(backup or file), choices, job), _render_restored)


REFUSAL = "this replaces agents, and there is no terminal to ask on"
# Restores, when the deployment is locked.
Job = Callable[["Deployment", "Choices", "Report"], "Outcome"]


def _from_archive(invocation: Invocation, word: str, identity: str | None) -> Job:
    def job(deployment: Deployment, choices: Choices, report: Report) -> Outcome:
        from backups.archives.restore import restore
        from backups.opening import Key

        key = Key.of(deployment.backups, identity)
        aside = _set_aside(invocation, deployment, report)
        return restore(deployment, place_of(invocation, word), key, choices, aside, report)

    return job


def _from_backup(invocation: Invocation, word: str, agents: list[str], identity: str | None) -> Job:
    def job(deployment: Deployment, choices: Choices, report: Report) -> Outcome:
        from backups.archives.restore import restore_from_backup
        from backups.catalog import deployment_id, read_catalog
        from backups.opening import Key

        _, store = opened(invocation)
        backup = read_catalog(store, deployment_id(deployment)).find(word)
        key = Key.of(deployment.backups, identity)
        aside = _set_aside(invocation, deployment, report)
        return restore_from_backup(deployment, store, backup, key, agents, choices, aside, report)

    return job


def _restored(invocation: Invocation, source: str, choices: Choices, job: Job) -> dict[str, Any]:
    deployment, store = opened(invocation)
    with progress(invocation) as report:
        if choices.dry_run:
            outcome = job(deployment, choices, report)
        else:
            with audited(invocation, "agent restore", source) as operation:
                operation.deployment = deployment
                with changing(deployment, store, "agent restore", report):
                    outcome = job(deployment, choices, report)
                operation.detail = {"agents": [each["id"] for each in outcome.agents]}
    for word in [*outcome.notes, *_followed(deployment, outcome, choices)]:
        note(f"note: {word}")
    aside = outcome.set_aside
    return {"dry_run": choices.dry_run, **asdict(outcome), "set_aside": aside and str(aside)}


def _followed(deployment: Deployment, outcome: Outcome, choices: Choices) -> list[str]:
    """Where the registry is not in the database, it learns of new ids afterwards."""
    moved = {
        each["archived_id"]: each["id"]
        for each in outcome.agents
        if each["id"] != each["archived_id"]
    }
    if deployment.registry is None or choices.dry_run or not moved:
        return []
    from ops_cli.registry.following import follow_restore

    return follow_restore(deployment, moved)


def delete_agents(
    context: typer.Context,
    agents: Annotated[
        list[str], typer.Argument(metavar="AGENT...", help="Ids, or names that one has.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where they are archived first."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Archive agents, then delete them with all that is theirs and nobody else's."""
    from backups.archives.agents import agents_in, find_agents
    from backups.archives.closure import with_members
    from backups.archives.restore import delete
    from ops_cli.agents.exporting import check_output

    invocation = current(context)
    deployment, store = opened(invocation)
    if output is not None:
        check_output(output.expanduser(), overwrite=False)
    with agents_in(deployment) as (link, model):
        wanted = find_agents(link, model, agents)
        found = list(with_members(link, model, wanted, helpers=True))
    if dry_run:
        answer: dict[str, Any] = {"dry_run": True, "agents": found}
        present(invocation, answer, partial(_render_deleted, invocation))
        return
    if not yes:
        confirm(
            f"Delete {len(found)} agent(s)? They are archived first.",
            "this deletes agents, and there is no terminal to ask on",
        )
    with (
        progress(invocation) as report,
        audited(invocation, "agent delete", ", ".join(found)) as operation,
        changing(deployment, store, "agent delete", report),
    ):
        operation.deployment = deployment
        aside = _set_aside(invocation, deployment, report, output and output.expanduser())
        path, rows, notes = delete(deployment, found, aside)
        operation.detail = {"archive": str(path)}
    for word in notes:
        note(f"note: {word}")
    answer = {"dry_run": False, "agents": found, "archive": str(path), "rows": rows, "notes": notes}
    present(invocation, answer, partial(_render_deleted, invocation))


def _set_aside(
    invocation: Invocation, deployment: Deployment, report: Report, path: Path | None = None
) -> Callable[[list[str]], Path]:
    def archived(agents: list[str]) -> Path:
        from backups.archives.place import ENDING, InFile
        from backups.archives.write import archive
        from infra.files import make_folder

        folder = invocation.folder.agent_archives
        if path is None:
            make_folder(folder)
            folder.chmod(0o700)
        target = path or folder / f"{_now()}-{agents[0]}{ENDING}"
        archive(deployment, agents, InFile(target), report)
        return target

    return archived


def _now() -> str:
    return f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S%fZ}"


def _archived(made: Archived) -> dict[str, Any]:
    return {
        "file": str(made.place),
        "bytes": made.size,
        "encrypted": made.encrypted,
        "agents": list(made.header.agents),
        "rows": {table: count for table, count in made.rows.items() if count},
        "agent_files": len(made.header.agent_files),
        "left_out": dict(made.header.left_out),
        "revision": made.header.revision,
        "release": made.header.release,
    }


def _render_archived(answer: dict[str, Any]) -> Iterator[Part]:
    from backups.humanize import size_in_words

    yield f"archived {len(answer['agents'])} agent(s) in {answer['file']}"
    rows = answer["rows"]
    yield from facts(
        [
            ("  holds", f"{rows.get('messages', 0)} messages, {sum(rows.values())} rows in all"),
            ("  size", size_in_words(answer["bytes"])),
            ("  encrypted", "yes" if answer["encrypted"] else "no"),
        ]
    )


def _render_restored(answer: dict[str, Any]) -> Iterator[Part]:
    verb = "would restore" if answer["dry_run"] else "restored"
    for agent in answer["agents"]:
        under = "" if agent["id"] == agent["archived_id"] else f" (was {agent['archived_id']})"
        yield f"{verb} {agent['name']} as {agent['id']}{under}"
    for identifier in answer["skipped"]:
        yield f"{identifier} is there, and stays as it is"
    if answer["rows"]:
        made = ", ".join(f"{count} {table}" for table, count in sorted(answer["rows"].items()))
        yield f"  {made}"
    if answer["set_aside"]:
        yield f"  what was replaced is in {answer['set_aside']}"


def _render_deleted(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    verb = "would delete" if answer["dry_run"] else "deleted"
    for identifier in answer["agents"]:
        yield f"{verb} {identifier}"
    if not answer["dry_run"]:
        command = invocation.command(f"agent restore {answer['archive']}")
        yield f"  `{command}` brings back what was deleted"
