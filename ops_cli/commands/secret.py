"""`letta-ops secret`: the secrets of a stack, one at a time and on purpose."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from infra.errors import LettaOpsError
from infra.stack.profile import SECRET_PATHS
from ops_cli.invocation import current
from ops_cli.options import new_app
from ops_cli.output import present

NAMES = ", ".join(SECRET_PATHS)

app = new_app("Show a secret of the stack.")


def _known(name: str) -> str:
    if name not in SECRET_PATHS:
        raise typer.BadParameter(f"there is no secret '{name}', only: {NAMES}")
    return name


@app.command("show")
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {NAMES}.", callback=_known)],
) -> None:
    """Print one secret to stdout, in the clear."""
    invocation = current(context)
    deployment = invocation.deployment()
    secret = deployment.named_secrets[name]
    if secret is None:
        raise LettaOpsError(
            "secret-missing",
            f"the profile of stack '{deployment.stack}' has no {name}",
            f"add {SECRET_PATHS[name]} to {deployment.profile or 'a profile'}",
        )
    answer: dict[str, Any] = {"name": name, "value": secret.reveal()}
    present(invocation, answer, lambda shown: [shown["value"]])
