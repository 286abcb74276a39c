"""`letta-ops profile`: how a stack is reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

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


@app.command("schema")
def schema(
    context: typer.Context,
    stack_file: Annotated[
        bool, typer.Option("--stack-file", help="Of a stack's configuration: Pulumi.STACK.yaml.")
    ] = False,
) -> None:
    """Print the JSON Schema of a profile, for editors and for checking one before it is used."""
    from infra.stack.schema import as_text, profile_schema, stack_schema
    from infra.targets import all_settings

    chosen = stack_schema(all_settings().values()) if stack_file else profile_schema()
    present(current(context), chosen, lambda answer: [as_text(answer).rstrip()])


def described(deployment: Deployment) -> dict[str, Any]:
    """Turn a deployment into the tree of its profile, without a single secret."""
    from infra.stack.keys import given
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
        **nested({name: _text(value) for name, value in given(deployment.backups).items()}),
    }


def _text(value: object) -> str:
    """As a person would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _hidden(secret: Sensitive | None) -> str | None:
    return None if secret is None else str(secret)


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    from infra.stack.profile import flatten

    yield from facts(flatten(answer))
