"""`letta-ops status`: what runs, where, in which version, on which database."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import typer

from ops_cli.invocation import Invocation, current
from ops_cli.options import new_app
from ops_cli.output import Part, UnsuccessfulError, facts, present

app = new_app("What runs, where, in which version, on which database.")


@app.command("status")
def status(context: typer.Context) -> None:
    """Show what runs, where, in which version, on which database: each is asked itself."""
    from healthchecks.status import observe

    invocation = current(context)
    seen = observe(invocation.deployment())
    answer = seen.as_json()
    if not seen.problems:
        present(invocation, answer, partial(_render, invocation))
        return
    if not invocation.json:
        present(invocation, answer, partial(_render, invocation))
    raise UnsuccessfulError(
        "wrong-password" if seen.wrong_password else "not-healthy",
        "\n".join(seen.problems),
        f"run `{invocation.command('check')}` to see more, `{invocation.command('up')}` to mend it"
        if seen.target != "external"
        else f"run `{invocation.command('check')}` to see more",
        answer,
    )


def _render(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    from infra.stack.profile import flatten

    # What a profile by hand is of has no name.
    of = {} if invocation.profile is None else {"profile": str(invocation.profile)}
    left = ("problems",) if invocation.profile is None else ("problems", "stack")
    shown = of | {name: value for name, value in answer.items() if name not in left}
    yield from facts((_words(name), _value(name, value)) for name, value in flatten(shown))


def _words(path: str) -> str:
    return path.replace(".", " ").replace("_", " ").replace(" seconds", "")


def _value(name: str, value: Any) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_seconds") and value is not None:
        days, rest = divmod(int(value), 86400)
        hours, minutes = rest // 3600, rest % 3600 // 60
        return f"{days} d {hours} h {minutes} min" if days else f"{hours} h {minutes} min"
    return value
