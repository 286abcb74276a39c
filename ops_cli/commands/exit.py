"""`letta-ops exit`: agents of V1 into the successor's store."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import LettaOpsError
from ops_cli.auditing import audited, known_deployment
from ops_cli.commands.agent.compare import FROM_BACKUP
from ops_cli.exit import layout
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, Identity, by_reference, new_app, pairs
from ops_cli.output import Part, Table, UnsuccessfulError, note, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from infra.process import Report
    from ops_cli.exit.export import Open, Result
    from ops_cli.exit.secrets import Secrets
    from ops_cli.exit.v1 import Source
    from ops_cli.exit.verify import Verified

app = new_app("Take agents out of V1, into the store of its successor.")

SHOWN = 20
From = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="SOURCE",
        help="Where the agents are: backup:ID (`latest`), an agent archive (a file, or store:NAME), or an"
        " agent file (.af); without it, the stack. May be repeated.",
    ),
]
Agents = Annotated[
    list[str] | None,
    typer.Option(
        "--agent", metavar="AGENT", help="Its id, or a name that one has. May be repeated."
    ),
]
MapModel = Annotated[
    list[str] | None,
    typer.Option(
        "--map-model",
        metavar="OLD=NEW",
        help="A model of V1, and the successor's handle for it. May be repeated.",
    ),
]


@app.command("plan")
def plan_exit(
    context: typer.Context,
    sources: From = None,
    agents: Agents = None,
    map_model: MapModel = None,
    identity: Identity = None,
) -> None:
    """Say of every agent what comes along, what changes its form, and what has no place there. All is
    read, and nothing is written."""
    from ops_cli.exit.export import plan

    invocation = current(context)
    models = _models(map_model)
    found: list[dict[str, Any]] = []
    with progress(invocation) as report:
        for agent, made in plan(
            _opened(invocation, sources, identity, report), agents, models, report
        ):
            found.append({
                **made.as_json(),
                "model_mapped": agent.model in models,
                "v1_model": agent.model,
            })  # fmt: skip
    totals = {
        key: sum(each[key] for each in found)
        for key in ("conversations", "messages", "rows", "blocks", "passages", "files")
    }
    notes: Counter[str] = Counter()
    unmapped: Counter[str] = Counter()
    for each in found:
        notes.update(each["notes"])
        if not each["model_mapped"]:
            unmapped[each["v1_model"]] += 1
    answer = {
        "agents": found,
        "totals": {"agents": len(found), **totals},
        "notes": dict(sorted(notes.items())),
        "unmapped_models": dict(sorted(unmapped.items())),
    }
    present(invocation, answer, _render_plan)


@app.command("export")
def export_agents(
    context: typer.Context,
    to: Annotated[
        Path,
        typer.Option(
            "--to", metavar="FOLDER", help="A new folder, or a store that agents are added to."
        ),
    ],
    sources: From = None,
    agents: Agents = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All agents.")] = False,
    map_model: MapModel = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Set aside agents that are there, and take these instead."),
    ] = False,
    registry: Annotated[
        bool,
        typer.Option(
            "--registry", help="Then give the registry the new ids; its history keeps both."
        ),
    ] = False,
    with_secrets: Annotated[
        bool,
        typer.Option(
            "--with-secrets", help="Take the secrets of tools along, in a file of mode 0600."
        ),
    ] = False,
    secrets_key: Annotated[
        str | None,
        typer.Option(
            "--secrets-key",
            metavar="REFERENCE",
            help="The LETTA_ENCRYPTION_KEY that they are encrypted with, if the source has it not:"
            " file:PATH, env:NAME or cmd:COMMAND.",
        ),
    ] = None,
    identity: Identity = None,
    dry_run: DryRun = False,
) -> None:
    """Write agents with everything that is theirs into a store of the successor.

    Killed or failed, it goes on where it was. Nothing takes its place before all is written.
    """
    invocation = current(context)
    if every == bool(agents):
        raise typer.BadParameter("name agents, or say --all, not both", param_hint="--agent")
    if str(to) in ("", "."):
        raise typer.BadParameter("name a folder", param_hint="--to")
    if dry_run:
        plan_exit(context, sources, agents, map_model, identity)
        return
    answer = _exported(
        invocation, to.expanduser(), sources, None if every else agents,
        _models(map_model), identity, replace=replace, registry=registry,
        secrets=_secrets(secrets_key, wanted=with_secrets),
    )  # fmt: skip
    present(invocation, answer, lambda shown: _render_export(invocation, shown, sources, agents))


def _exported(
    invocation: Invocation, to: Path, sources: list[str] | None, agents: list[str] | None,
    models: dict[str, str], identity: str | None, *, replace: bool, registry: bool,
    secrets: Secrets | None,
) -> dict[str, Any]:  # fmt: skip
    from ops_cli.exit.export import export
    from ops_cli.exit.memory import MemoryNote

    deployment = (
        invocation.deployment() if registry or not sources else known_deployment(invocation)
    )
    with (
        progress(invocation) as report,
        audited(invocation, "exit export", str(to)) as operation,
    ):
        operation.deployment = deployment
        opened = _opened(invocation, sources, identity, report)
        result = export(
            opened, agents, to.absolute(), models, report, replace=replace, secrets=secrets
        )
        operation.detail = {"agents": len(result.agents), "unchanged": len(result.unchanged)}
        said = _followed(invocation, result) if registry else []
    for word in [*result.notes, *said, *_unused(models, result)]:
        note(f"note: {word}")
    if not result.agents and not result.unchanged:
        raise LettaOpsError(
            "no-agents", "there are no agents in what was named", "see `letta-ops agent list`"
        )
    notes: Counter[str] = Counter()
    for each in result.agents:
        notes.update(each.notes)
    if secrets is not None:
        notes.pop(MemoryNote.SECRETS, None)
    return {
        "store": str(result.store),
        "agents": [each.as_json() for each in result.agents],
        "unchanged": result.unchanged,
        "replaced": result.replaced and str(result.replaced),
        "notes": dict(sorted(notes.items())),
        "secrets": result.secrets,
        "registry": said,
    }


def _models(words: list[str] | None) -> dict[str, str]:
    found = pairs(words or [], "--map-model")
    if len(found) < len(words or ()):
        raise typer.BadParameter("a model is mapped twice", param_hint="--map-model")
    for old, new in found.items():
        if not all(new.partition("/")):
            raise typer.BadParameter(
                f"{old}={new}: write it as PROVIDER/MODEL", param_hint="--map-model"
            )
    return found


def _unused(models: dict[str, str], result: Result) -> Iterator[str]:
    made = {each.model for each in result.agents}
    if result.agents:
        yield from (
            f"no agent has the model {old}" for old, new in models.items() if new not in made
        )


def _secrets(reference: str | None, *, wanted: bool) -> Secrets | None:
    from ops_cli.exit.secrets import Secrets

    if not wanted:
        if reference is not None:
            raise typer.BadParameter("goes with --with-secrets", param_hint="--secrets-key")
        return None
    what = "the key of the secrets"
    return Secrets(by_reference("--secrets-key", reference, what) if reference else None)


def _followed(invocation: Invocation, result: Result) -> list[str]:
    from ops_cli.exit.export import new_ids
    from ops_cli.registry.following import follow_exit

    return follow_exit(invocation.deployment(), new_ids(result))


@app.command("verify")
def verify_store(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", readable=False, help="The store.")],
    sources: From = None,
    agents: Agents = None,
    identity: Identity = None,
) -> None:
    """Compare a store with where its agents came from: every message, block, passage and file; exits 1
    where anything differs but by the map. What the successor has added since is counted."""
    from dataclasses import asdict

    from ops_cli.exit.export import verify

    invocation = current(context)
    with progress(invocation) as report:
        opened = _opened(invocation, sources, identity, report)
        found = list(verify(opened, agents, folder.expanduser().absolute(), report))
    answer = {
        "store": str(folder),
        "equal": not any(each.count for each in found),
        "agents": [asdict(each) for each in found],
        "totals": {
            "agents": len(found),
            **{
                key: sum(getattr(each, key) for each in found)
                for key in ("messages", "blocks", "passages", "files")
            },
            "differences": sum(each.count for each in found),
        },
    }
    if not answer["equal"]:
        raise UnsuccessfulError(
            "exit-differs",
            "\n".join([f"{folder} is not what its source says:", *_differing(found)]),
            "export what differs anew with --replace; where V1 went on since, freeze it first"
            " (docs/exit.md)",
            answer,
        )
    present(invocation, answer, _render_verified)


def _opened(
    invocation: Invocation, words: Sequence[str] | None, identity: str | None, report: Report
) -> list[Open]:
    """How each source is opened, when its turn comes."""
    if not words:
        deployment = invocation.deployment()

        def live() -> AbstractContextManager[Source]:
            from ops_cli.exit.opening import of_live

            return of_live(deployment, report)

        return [live]
    return [_source(invocation, word, identity, report) for word in words]


def _source(invocation: Invocation, word: str, identity: str | None, report: Report) -> Open:
    from backups.archives.place import IN_STORE

    if word.startswith(FROM_BACKUP):
        if word == FROM_BACKUP:
            raise typer.BadParameter("write it as backup:ID", param_hint="--from")
        return lambda: _of_backup(invocation, word.removeprefix(FROM_BACKUP), identity, report)
    path = Path(word).expanduser()
    if word.startswith(IN_STORE) or (path.is_file() and _is_archive(path)):
        return lambda: _of_archive(invocation, word, identity, report)

    if not path.is_file():
        raise LettaOpsError(
            "source-unknown",
            f"there is no file {word!r}",
            "--from takes backup:ID (`latest`), store:NAME, an agent archive or an agent file (.af)",
        )

    def file() -> AbstractContextManager[Source]:
        from ops_cli.exit.from_files import FileSource

        return nullcontext(FileSource(path))

    return file


def _is_archive(path: Path) -> bool:
    from backups.archives.file import is_archive

    return is_archive(path)


def _of_backup(
    invocation: Invocation, name: str, identity: str | None, report: Report
) -> AbstractContextManager[Source]:
    from backups.catalog import deployment_id, read_catalog
    from backups.opening import Key
    from ops_cli.commands.backup.store import opened
    from ops_cli.exit.opening import of_backup

    deployment, store = opened(invocation)
    backup = read_catalog(store, deployment_id(deployment)).find(name)
    return of_backup(deployment, store, backup, Key.of(deployment.backups, identity), report)


def _of_archive(
    invocation: Invocation, word: str, identity: str | None, report: Report
) -> AbstractContextManager[Source]:
    from backups.opening import Key
    from infra.stack.backup_settings import BackupSettings
    from ops_cli.commands.agent.in_store import place_of
    from ops_cli.exit.opening import of_archive

    deployment = known_deployment(invocation)
    settings = deployment.backups if deployment else BackupSettings()
    return of_archive(deployment, place_of(invocation, word), Key.of(settings, identity), report)


def _render_plan(answer: dict[str, Any]) -> Iterator[Part]:
    totals = answer["totals"]
    rows = [
        (each["name"], each["v1_id"], each["messages"], each["conversations"], each["blocks"],
         each["passages"], each["files"], each["model"])
        for each in answer["agents"]
    ]  # fmt: skip
    names = ("agent", "id", "messages", "conversations", "blocks", "passages", "files", "model")
    yield Table(names, rows)
    yield (
        f"{totals['agents']} agent(s) come along with {totals['messages']} messages in"
        f" {totals['conversations']} conversations, {totals['blocks']} blocks, {totals['passages']}"
        f" passages and {totals['files']} file(s)"
    )
    yield from _render_notes(answer["notes"])
    for model, count in answer["unmapped_models"].items():
        yield (
            f"  - {count} agent(s) keep the model {model or '(none)'}: if the successor calls it"
            f" otherwise, give --map-model {model}=PROVIDER/MODEL"
        )


def _render_notes(notes: dict[str, int]) -> Iterator[Part]:
    if notes:
        yield "what changes its form, or has no place there:"
        yield from (f"  - {said}: {count}" for said, count in notes.items())


def _render_export(
    invocation: Invocation,
    answer: dict[str, Any],
    sources: list[str] | None,
    agents: list[str] | None,
) -> Iterator[Part]:
    made = answer["agents"]
    if made:
        messages = sum(each["messages"] for each in made)
        yield f"{len(made)} agent(s) with {messages} messages are in {answer['store']}"
    if answer["unchanged"]:
        yield (
            f"{len(answer['unchanged'])} agent(s) were there already, of this state of V1; --replace"
            " writes them anew"
        )
    if answer["secrets"]:
        yield f"{answer['secrets']} secret(s) of tools are in {answer['store']}/{layout.SECRETS}"
    if answer["replaced"]:
        yield f"what they replaced is in {answer['replaced']}"
    yield from _render_notes(answer["notes"])
    words = ["exit", "verify", answer["store"]]
    words += [word for source in sources or () for word in ("--from", source)]
    words += [word for agent in agents or () for word in ("--agent", agent)]
    yield f"next: {invocation.command(shlex.join(words))}"


def _differing(found: list[Verified]) -> Iterator[str]:
    lines = [
        f"  - {each.name} ({each.id}): {one.what} {one.key}: {one.why}"
        for each in found
        for one in each.differences
    ]
    yield from lines[:SHOWN]
    count = sum(each.count for each in found)
    if count > SHOWN:
        yield f"  and {count - SHOWN} more"


def _render_verified(answer: dict[str, Any]) -> Iterator[Part]:
    totals = answer["totals"]
    yield (
        f"{answer['store']} is what its source says: {totals['agents']} agent(s), {totals['messages']}"
        f" messages, {totals['blocks']} blocks, {totals['passages']} passages, {totals['files']} file(s)"
    )
    by_map: Counter[str] = Counter()
    added: Counter[str] = Counter()
    for each in answer["agents"]:
        by_map.update(each["by_map"])
        added.update(each["added"])
    if by_map:
        yield "what differs by the map:"
        yield from (f"  - {said}: {count}" for said, count in sorted(by_map.items()))
    if added:
        said = ", ".join(f"{count} {what}" for what, count in sorted(added.items()))
        yield f"the successor has added since: {said}"
