"""`letta-ops backup keygen`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ops_cli.invocation import Invocation, current
from ops_cli.output import Part, present


def keygen(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the identity is written.")],
) -> None:
    """Make an age identity: FILE opens backups, the recipient that is shown makes them."""
    from backups.crypto import new_identity
    from infra.errors import LettaOpsError

    invocation = current(context)
    identity, recipient = new_identity()
    signer = _signer(invocation)
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
        sink.write(f"# public key: {recipient}\n")
        if signer is not None:  # a new machine is given this file, and knows whose backups to take
            sink.write(f"# signer: {signer}\n")
        sink.write(f"{identity.reveal()}\n")
    answer = {"file": str(target), "recipient": recipient, "signer": signer}
    present(invocation, answer, lambda shown: _render_keygen(invocation, shown))


def _signer(invocation: Invocation) -> str | None:
    """Who signs the stack's backups; None where there is no stack yet: the first backup tells it."""
    from backups.signing import key_to_sign, signer_of
    from infra.errors import LettaOpsError

    try:
        return signer_of(key_to_sign(invocation.deployment()))
    except LettaOpsError as error:
        if error.code != "profile-missing":
            raise
        return None


def _render_keygen(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    recipient = answer["recipient"]
    yield f"identity   {answer['file']}"
    yield f"recipient  {recipient}"
    if answer["signer"]:
        yield f"signer     {answer['signer']}"
    yield "Keep the file where the backups and this machine are not: without it nobody opens them."
    yield f"next: `{invocation.command(f'up --config backup.recipients={recipient}')}`"
