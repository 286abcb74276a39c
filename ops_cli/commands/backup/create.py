"""`letta-ops backup create`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.commands.backup.store import changing, opened
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun
from ops_cli.output import Part, facts, note, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.stores.store import Store
    from infra.stack.deployment import Deployment


def create_backup(
    context: typer.Context,
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="TEXT", help="A word for what it is made for."),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="For another operation to end.")
    ] = 0.0,
    allow_plain: Annotated[
        bool,
        typer.Option("--allow-plain", help="In the clear, though the store's newest is encrypted."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Back up the database, git memory and configuration, in one stream each, to the store."""
    from backups.create import (
        create,
        dump_warning,
        extension_warning,
        key_warning,
        signer_notice,
    )
    from backups.signing import own_key
    from ops_cli.auditing import audited

    invocation = current(context)
    deployment, store = opened(invocation)
    warnings = [warning for warning in (key_warning(deployment),) if warning]
    first = own_key(deployment) is None
    if dry_run:
        present(
            invocation, _would_create(deployment, store, warnings, allow_plain), _render_dry_run
        )
        return
    with progress(invocation) as report, audited(invocation, "backup create", store.url) as event:
        with changing(deployment, store, "backup create", report, wait):
            made = create(deployment, store, label, report, allow_plain=allow_plain)
        event.detail = {"backup": made.id, "bytes": made.size}
    last = (
        *made.warnings, dump_warning(made), extension_warning(made),
        signer_notice(made) if first else None,
    )  # fmt: skip
    warnings += [warning for warning in last if warning]
    for warning in warnings:
        note(f"warning: {warning}")
    answer = {
        "id": made.id,
        "store": store.url,
        "size": made.size,
        "seconds": made.seconds,
        "agents": made.database.rows("agents"),
        "messages": made.database.rows("messages"),
        "memory_repositories": made.memory.repositories,
        "encrypted": made.encrypted,
        "signer": made.signature and made.signature.signer,
        "key_escrowed": made.key_escrowed,
        "label": made.label,
        "scope": made.database.scope,
        "warnings": warnings,
    }
    present(invocation, answer, lambda shown: _render_created(invocation, shown))


def _would_create(
    deployment: Deployment, store: Store, warnings: list[str], allow_plain: bool
) -> dict[str, Any]:
    from backups.encryption import encryption_of, ensure_as_encrypted

    encryption = encryption_of(deployment.backups, store.url)
    if not allow_plain:
        ensure_as_encrypted(encryption, store)
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
    from backups.humanize import size_in_words

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
