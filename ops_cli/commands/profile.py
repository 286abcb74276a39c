"""`letta-ops profile`: how a stack is reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from ops_cli.invocation import current
from ops_cli.options import new_app
from ops_cli.output import Part, facts, present

if TYPE_CHECKING:
    from infra.sensitive import Sensitive
    from infra.stack.deployment import Deployment

app = new_app("Show how the stack is reached.")


@app.command("show")
def show(context: typer.Context) -> None:
    """Print the profile with overrides and references resolved, secrets redacted."""
    invocation = current(context)
    present(invocation, described(invocation.deployment()), _render)


def described(deployment: Deployment) -> dict[str, Any]:
    """Turn a deployment into the tree of its profile, without a single secret."""
    from infra.stack.profile import nested

    database = deployment.database
    return {
        "stack": deployment.stack,
        "file": str(deployment.profile) if deployment.profile else None,
        "id": deployment.id,
        "target": deployment.target,
        "release": deployment.release,
        "server": {
            "url": deployment.server.url,
            "password": _hidden(deployment.server.password),
            "encryption_key": _hidden(deployment.server.encryption_key),
        },
        "database": database
        and {
            "host": database.host,
            "port": database.port,
            "name": database.name,
            "tls": database.tls,
            "owner": database.owner.name,
            "owner_password": _hidden(database.owner.password),
            "reader": database.reader.name,
            "reader_password": _hidden(database.reader.password),
        },
        "model": {"handle": deployment.model.handle, "embedding": deployment.model.embedding},
        **nested({key: str(value) for key, value in deployment.backups.values.items()}),
    }


def _hidden(secret: Sensitive | None) -> str | None:
    return None if secret is None else str(secret)


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    from infra.stack.profile import flatten

    yield from facts(flatten(answer))
