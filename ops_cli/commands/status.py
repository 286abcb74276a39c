"""`letta-ops status`: what runs, where, in which version, on which database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from ops_cli.invocation import current
from ops_cli.options import new_app
from ops_cli.output import Part, facts, present

app = new_app("What runs, where, in which version, on which database.")


@app.command("status")
def status(context: typer.Context) -> None:
    """Show what runs, where, in which version, and on which database; asked from them all."""
    from healthchecks.status import observe

    invocation = current(context)
    present(invocation, observe(invocation.deployment()).as_json(), _render)


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    from infra.profiles import flatten

    yield from facts((_words(name), _value(value)) for name, value in flatten(answer))


def _words(path: str) -> str:
    return path.replace(".", " ").replace("_", " ")


def _value(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return value
