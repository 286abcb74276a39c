"""`letta-ops logs`: what the services have logged, without secrets."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from ops_cli.invocation import current
from ops_cli.options import new_app
from ops_cli.output import print_json, printable

if TYPE_CHECKING:
    from infra.log_lines import LogLine

TAIL = 100
INTERRUPTED = 130
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

app = new_app("What the services have logged.")


@app.command("logs")
def logs(
    context: typer.Context,
    service: Annotated[
        str | None, typer.Argument(metavar="SERVICE", help="One service (letta, postgres ...).")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Not older: 10m, 2h, 1d, or 2026-11-21T10:00."),
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help=f"The last N lines of each service; {TAIL}, or all with --since.",
        ),
    ] = None,
) -> None:
    """Show what the services have logged, by time; secrets are redacted."""
    from infra.log_lines import Wanted
    from infra.targets import host

    invocation = current(context)
    if invocation.json and follow:
        raise typer.BadParameter("--json answers with one document, and --follow never ends")
    bound = _moment(since)
    last = TAIL if tail is None and bound is None else tail
    lines = host(invocation.deployment()).logs(Wanted(service, bound, last, follow))
    if invocation.json:
        print_json([line.as_json() for line in lines])
        return
    try:
        for text in _labelled(lines, always=service is None):
            print(printable(text), flush=follow)
    except KeyboardInterrupt:
        if not follow:
            raise
        raise typer.Exit(INTERRUPTED) from None  # that is how following ends


def _labelled(lines: Iterator[LogLine], *, always: bool) -> Iterator[str]:
    """The texts, with their source in front as soon as there is more than one."""
    first = next(lines, None)
    if first is None:
        return
    several, width = always, 0
    for line in chain([first], lines):
        several = several or line.source != first.source
        width = max(width, len(line.source))
        text = COLOURS.sub("", line.text)
        yield f"{line.source:<{width}}  {text}" if several else text


def _moment(since: str | None) -> dt.datetime | None:
    from infra.log_lines import moment

    try:
        return None if since is None else moment(since, dt.datetime.now(dt.UTC))
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{since!r} is no time: 10m, 2h, 1d, or 2026-11-21T10:00", param_hint="--since"
        ) from None
