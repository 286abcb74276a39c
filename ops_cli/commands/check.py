"""`letta-ops check`: is it well? In the words and exit codes of monitoring systems.

monitoring-plugins.org, "Plugin Return Codes": a check that can't be made is UNKNOWN, whatever the
reason (`ops_cli/main.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ops_cli.invocation import current
from ops_cli.options import new_app
from ops_cli.output import Part, present

app = new_app("Is it well?")


@app.command("check")
def check(
    context: typer.Context,
    acknowledge: Annotated[
        list[str] | None,
        typer.Option(
            "--acknowledge",
            metavar="NAME",
            help="A finding that is known and accepted: it no longer counts. May be repeated.",
        ),
    ] = None,
) -> None:
    """Judge the stack; exit code 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN."""
    from healthchecks.run import run

    invocation = current(context)
    report = run(invocation.deployment(), acknowledged=frozenset(acknowledge or ()))
    answer = report.as_json()
    for finding in answer["findings"]:
        finding["hint"] = invocation.in_full(finding["hint"])
    present(invocation, answer, _render)
    raise typer.Exit(report.exit_code)


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    for finding in answer["findings"]:
        yield f"{finding['state']:<8}  {finding['name']}: {finding['summary']}"
        if finding["state"] != "OK":
            yield from (f"          {line}" for line in finding["detail"].splitlines())
            if finding["hint"]:
                yield f"          next: {finding['hint']}"
