"""`letta-ops backup`: make, verify and restore backups; what there is stands in `backup_list`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.commands.backup_list import (
    keep_backup,
    list_backups,
    prune_backups,
    show_backup,
)
from ops_cli.commands.drill import drill_backup
from ops_cli.commands.restore import restore_backup
from ops_cli.commands.schedule import schedule
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, new_app
from ops_cli.output import Part, Table, UnsuccessfulError, facts, note, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.stores.store import Store
    from infra.stack.deployment import Deployment

app = new_app("Make, prove and restore backups.")
app.command("list")(list_backups)
app.command("show")(show_backup)
app.command("keep")(keep_backup)
app.command("prune")(prune_backups)
app.command("drill")(drill_backup)
app.command("restore")(restore_backup)
app.command("schedule")(schedule)

VERDICT_CODES = {"passed": 0, "failed": 1, "unverified": 3}
GUARD_SECONDS = 300.0  # how long the guard of a restore may take
IDENTITY_HELP = "Where the age identity is: file:PATH, env:NAME or cmd:COMMAND."


@app.command("create")
def create_backup(
    context: typer.Context,
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="TEXT", help="A word for what it is made for."),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="For another operation to end.")
    ] = 0.0,
    dry_run: DryRun = False,
) -> None:
    """Back up the database, git memory and configuration, in one stream each, to the store."""
    from backups.create import create, dump_warning, key_warning
    from ops_cli.auditing import audited

    invocation = current(context)
    deployment, store = opened(invocation)
    warnings = [words for words in (key_warning(deployment),) if words]
    if dry_run:
        present(invocation, _would_create(deployment, store, warnings), _render_dry_run)
        return
    with progress(invocation) as report, audited(invocation, "backup create", store.url) as event:
        with changing(deployment, store, "backup create", report, wait):
            made = create(deployment, store, label, report)
        event.detail = {"backup": made.id, "bytes": made.size}
    warnings += [words for words in (dump_warning(made),) if words]
    for words in warnings:
        note(f"warning: {words}")
    answer = {
        "id": made.id,
        "store": store.url,
        "size": made.size,
        "seconds": made.seconds,
        "agents": made.database.rows("agents"),
        "messages": made.database.rows("messages"),
        "memory_repositories": made.memory.repositories,
        "encrypted": made.encrypted,
        "key_escrowed": made.key_escrowed,
        "label": made.label,
        "warnings": warnings,
    }
    present(invocation, answer, lambda shown: _render_created(invocation, shown))


@app.command("verify")
def verify_backup(
    context: typer.Context,
    backup: Annotated[
        str, typer.Argument(metavar="ID", help="A backup's id, its beginning, or `latest`.")
    ] = "latest",
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="REFERENCE", help=IDENTITY_HELP)
    ] = None,
) -> None:
    """Read every part of a backup back and compare it. Exits 0 passed, 1 failed, 3 unverified."""
    from backups.catalog import deployment_id, read_catalog
    from backups.opening import Key
    from backups.verdicts import overall
    from backups.verify import verify

    invocation = current(context)
    deployment, store = opened(invocation)
    found = read_catalog(store, deployment_id(deployment)).find(backup)
    key = Key.of(deployment.backups, identity)
    with progress(invocation) as report:
        checks = verify(store, found, key, report)
    verdict = overall([check.verdict for check in checks])
    answer = {
        "backup": found.id,
        "verdict": verdict,
        "checks": [
            {"name": check.name, "verdict": check.verdict, "summary": check.summary}
            for check in checks
        ],
    }
    if verdict == "passed":
        present(invocation, answer, _render_checks)
        return
    if not invocation.json:
        present(invocation, answer, _render_checks)
    raise UnsuccessfulError(
        f"backup-{verdict}",
        f"backup {found.id} is {verdict}",
        "use another backup, and find out what happened to this one"
        if verdict == "failed"
        else "give the identity: --identity file:PATH",
        answer,
        VERDICT_CODES[verdict],
    )


@app.command("keygen")
def keygen(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the identity is written.")],
) -> None:
    """Make an age identity: FILE opens backups, the recipient that is shown makes them."""
    from backups.crypto import new_identity
    from infra.errors import LettaOpsError

    invocation = current(context)
    identity, recipient = new_identity()
    target = file.expanduser()
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise LettaOpsError(
            "identity",
            f"{target} can't be written: {error.strerror}",
            "name a file that isn't there yet, in a folder that you may write to",
        ) from None
    with os.fdopen(descriptor, "w") as sink:
        sink.write(f"# public key: {recipient}\n{identity.reveal()}\n")
    answer = {"file": str(target), "recipient": recipient}
    present(invocation, answer, lambda shown: _render_keygen(invocation, shown))


def opened(invocation: Invocation) -> tuple[Deployment, Store]:
    """Return the deployment and its store, of which nothing was asked yet."""
    from backups.stores.store import open_store
    from infra.stack.deployment import store_settings

    deployment = invocation.deployment()
    return deployment, open_store(store_settings(deployment))


@contextmanager
def changing(
    deployment: Deployment, store: Store, purpose: str, report: Any, wait: float = 0.0
) -> Iterator[Any]:
    """Hold the deployment's locks; what an interrupted restore left is put right first."""
    from backups.lock import locked
    from backups.restoring.switch import finish_interrupted

    with locked(deployment, store, purpose, report, wait) as lock:
        finish_interrupted(deployment, report)
        yield lock


def undo_interrupted(deployment: Deployment, report: Any) -> None:
    """Go back from a restore that died with its machine, and with its guard: nobody has proven it."""
    from backups.lock import locked
    from backups.restoring.journal import read_journal
    from backups.restoring.switch import finish_interrupted

    if read_journal(deployment) is not None:
        with locked(deployment, None, "up", report, GUARD_SECONDS):
            finish_interrupted(deployment, report)


def _would_create(deployment: Deployment, store: Store, warnings: list[str]) -> dict[str, Any]:
    from backups.encryption import encryption_of

    encryption = encryption_of(deployment.backups, store.url)
    return {
        "dry_run": True,
        "store": store.url,
        "encryption": encryption.kind,
        "warnings": warnings,
    }


def _render_dry_run(answer: dict[str, Any]) -> Iterator[Part]:
    how = answer["encryption"] or "not encrypted"
    yield f"would make a backup in {answer['store']} ({how}); nothing was done"
    for warning in answer["warnings"]:
        yield f"warning: {warning}"


def _render_created(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    from backups.words import size_in_words

    yield f"backup {answer['id']} is complete"
    yield from facts(
        [
            ("  store", answer["store"]),
            ("  holds", f"{answer['agents']} agents, {answer['messages']} messages"),
            ("  size", size_in_words(answer["size"])),
            ("  took", f"{answer['seconds']:.1f} s"),
            ("  encrypted", "yes" if answer["encrypted"] else "no"),
            ("  next", f"`{invocation.command('backup drill')}` proves that it restores"),
        ]
    )


def _render_checks(answer: dict[str, Any]) -> Iterator[Part]:
    rows = [(each["name"], each["verdict"], each["summary"]) for each in answer["checks"]]
    yield Table(("part", "verdict", "what was seen"), rows)
    yield f"backup {answer['backup']}: {answer['verdict']}"


def _render_keygen(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    recipient = answer["recipient"]
    yield f"identity   {answer['file']}"
    yield f"recipient  {recipient}"
    yield "Keep the file where the backups and this machine are not: without it nobody opens them."
    yield f"next: `{invocation.command(f'up --config backup.recipients={recipient}')}`"
