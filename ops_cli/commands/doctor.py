"""`letta-ops doctor`: is this machine able to run a stack?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from ops_cli.invocation import current
from ops_cli.options import new_app
from ops_cli.output import Part, UnsuccessfulError, facts, present

app = new_app("Is this machine able to run a stack?")


@app.command("doctor")
def doctor(context: typer.Context) -> None:
    """Look whether this machine can run the stack; changes nothing."""
    from ops_cli.machine import examine

    invocation = current(context)
    traits = examine(invocation)
    missing = [trait for trait in traits if not trait.passed]
    answer = {"able": not missing, "checks": [trait.as_json() for trait in traits]}
    if not missing:
        present(invocation, answer, _render)
        return
    if not invocation.json:
        present(invocation, answer, _render)
    raise UnsuccessfulError(
        "not-able",
        "this machine lacks: " + ", ".join(trait.name for trait in missing),
        "; ".join(trait.hint for trait in missing if trait.hint),
        answer,
    )


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    yield from facts(
        (f"{'ok    ' if check['passed'] else 'FAILED'}  {check['name']}", check["detail"])
        for check in answer["checks"]
    )
