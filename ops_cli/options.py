"""The options that many commands share, and where they may stand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import LettaOpsError
from infra.stack.locations import stack_folder

if TYPE_CHECKING:
    import datetime as dt

    from infra.sensitive import Sensitive

FLAGS = ("--json", "-v", "--verbose")
WITH_VALUE = ("--stack", "--profile")


def new_app(summary: str) -> typer.Typer:
    """A Typer application with our settings: plain help, and no error handling of its own."""
    return typer.Typer(
        help=summary,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich would take longer to import than the help to print
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def hoist(arguments: list[str]) -> list[str]:
    """Move the global options to the front, so that they may also follow the noun and the verb.

    What comes after `--` stays, and so does an option without its value: the parser complains.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments[:end])
    for word in words:
        name, _, _ = word.partition("=")
        if word in FLAGS or (name in WITH_VALUE and name != word):
            front.append(word)
        elif word in WITH_VALUE:
            value = next(words, None)
            front += [word] if value is None else [word, value]
        else:
            rest.append(word)
    return front + rest + arguments[end:]


def is_check(arguments: list[str]) -> bool:
    """Whether this is `check`, whose exit codes a monitoring system reads, however wrong the rest is.

    `arguments` are those that were typed.
    """
    words = iter(arguments)
    for word in words:
        if word in WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word == "check"
    return False


def wants_json(arguments: list[str]) -> bool:
    """Whether `--json` is among the arguments: known before, and even if, they cannot be parsed."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return "--json" in arguments[:end]


def stack_name(name: str) -> str:
    """Return `name` when a stack may have it; raises typer.BadParameter."""
    try:
        stack_folder(name)
    except LettaOpsError as error:
        raise typer.BadParameter(f"{error.message}: {error.hint}") from None
    return name


def pairs(words: list[str], option: str = "--config") -> dict[str, str]:
    """Turn `KEY=VALUE` words into a mapping; raises typer.BadParameter."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise typer.BadParameter(f"{word!r} is not KEY=VALUE", param_hint=option)
        found[key.strip()] = value
    return found


def by_reference(option: str, reference: str, what: str) -> Sensitive:
    """The secret that a reference leads to: it never stands on a command line itself.

    Raises typer.BadParameter for anything else, and LettaOpsError (`secret`).
    """
    from infra.sensitive import Sensitive
    from infra.stack.references import is_reference, resolve

    if not is_reference(reference):
        raise typer.BadParameter(
            f"{what} is to be given by reference: env:VARIABLE, file:PATH or cmd:COMMAND",
            param_hint=option,
        )
    try:
        return Sensitive(resolve(reference))
    except ValueError as error:
        raise LettaOpsError(
            "secret", f"{what} can't be had: {error}", "correct the reference"
        ) from None


def moment(text: str | None, option: str = "--since") -> dt.datetime | None:
    """The time that `2h`, `3d` (ago) or ISO 8601 says. Raises LettaOpsError (`time`)."""
    import datetime as dt
    import re

    if text is None:
        return None
    units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    if match := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return dt.datetime.now(dt.UTC) - dt.timedelta(**{units[match[2]]: int(match[1])})
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise LettaOpsError(
            "time",
            f"{option}: {text!r} is no time",
            "write it as 2026-11-28T03:00 (UTC) or 2026-11-28T03:00+01:00, or say 90m, 2h, 3d",
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def expanded(path: Any) -> Path | None:
    return None if path is None else Path(path).expanduser()


Stack = Annotated[
    str,
    typer.Option(
        "--stack",
        metavar="NAME",
        envvar="LETTA_OPS_STACK",
        help="Which stack.",
        callback=stack_name,
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="The profile of a server that we did not provision, instead of the stack's own.",
        callback=expanded,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document on stdout.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show the programs that are run, on stderr.")
]
Config = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        metavar="KEY=VALUE",
        help="Set a key of the stack's configuration, and keep it. May be repeated.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
]
NoSmoke = Annotated[bool, typer.Option("--no-smoke", help="Skip the smoke test.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
ModelHandle = Annotated[
    str | None, typer.Option("--model", metavar="HANDLE", help="The model to use.")
]
EmbeddingHandle = Annotated[
    str | None, typer.Option("--embedding", metavar="HANDLE", help="The embedding model to use.")
]
Identity = Annotated[
    str | None,
    typer.Option(
        "--identity",
        metavar="REFERENCE",
        help="What opens what is encrypted: file:PATH, env:NAME or cmd:COMMAND.",
    ),
]
