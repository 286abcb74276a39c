"""`letta-ops logs`: what the services have logged, without secrets."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import TYPE_CHECKING, Annotated

import typer

from infra.log_lines import STAMP, Level, Wanted, moment
from ops_cli.invocation import current
from ops_cli.options import new_app
from ops_cli.output import printable

if TYPE_CHECKING:
    from infra.log_lines import LogLine

TAIL = 100
WIDTH = 10  # of most sources: `letta`, `postgres`, `letta-3f2a9c1e-1` is longer
INTERRUPTED = 130

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
            help=f"The last N entries of each service; {TAIL}, or all with --since.",
        ),
    ] = None,
    grep: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Only what has a match of this regular expression."),
    ] = None,
    level: Annotated[Level, typer.Option(help="Nothing less bad.")] = "debug",
) -> None:
    """Show what the services have logged, by time; secrets are redacted.

    A stack trace is one entry with the line before it. With --json, each entry is an object in a line.
    """
    from infra.targets import host

    invocation = current(context)
    bound = _moment(since)
    last = TAIL if tail is None and bound is None else tail
    wanted = Wanted(service, bound, last, follow, _pattern(grep), level)
    try:
        for entry in host(invocation.deployment()).logs(wanted):
            said = json.dumps(entry.as_json()) if invocation.json else _shown(entry)
            print(said, flush=follow)
    except KeyboardInterrupt:
        if not follow:
            raise
        raise typer.Exit(INTERRUPTED) from None  # that is how following ends


def _shown(entry: LogLine) -> str:
    """Time (this machine's), source and level in front of the first line; the others are indented."""
    time = "-" if entry.time is None else entry.time.astimezone().isoformat(" ", "milliseconds")
    first, *others = map(printable, STAMP.sub("", entry.text, count=1).lstrip().split("\n"))
    head = f"{time[:23]:<23}  {entry.source:<{WIDTH}}  {entry.level.upper():<8}  {first}"
    return "\n".join([head, *(f"    {line}" for line in others)])


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint="--grep") from None


def _moment(since: str | None) -> dt.datetime | None:
    try:
        return None if since is None else moment(since, dt.datetime.now(dt.UTC))
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{since!r} is no time: 10m, 2h, 1d, or 2026-11-21T10:00", param_hint="--since"
        ) from None
