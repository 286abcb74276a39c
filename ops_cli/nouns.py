"""The nouns of the command line: only the one that is called is imported."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from ops_cli.invocation import DEFAULT_STACK, Invocation
from ops_cli.options import Json, Profile, Stack, Verbose, new_app


@dataclass(frozen=True)
class Noun:
    """A word after `letta-ops`: the module with its Typer app, and its line in the help.

    A `verb` is one command of that app, called without a noun; else the whole app is the noun.
    """

    name: str
    module: str
    summary: str
    verb: bool = False

    def load(self) -> Any:
        """Import the module and return its click command."""
        app = importlib.import_module(f"ops_cli.commands.{self.module}").app
        group = typer.main.get_group(app)
        group.name = self.name
        return group.commands[self.name] if self.verb else group


NOUNS = (
    Noun("up", "deploy", "Bring the stack up, or up to date; ends with a smoke test.", verb=True),
    Noun("preview", "deploy", "Say what `up` would change.", verb=True),
    Noun("destroy", "deploy", "Stop the stack; its data stays unless told otherwise.", verb=True),
    Noun("status", "status", "What runs, where, in which version, on which database.", verb=True),
    Noun("check", "check", "Is it well? Exits 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.", verb=True),
    Noun("logs", "logs", "What the services have logged; secrets are redacted.", verb=True),
    Noun("smoke", "smoke", "Let an agent do its work once, and clean up.", verb=True),
    Noun("doctor", "doctor", "Is this machine able to run a stack?", verb=True),
    Noun("agent", "agent.app", "Move, keep, restore and look at agents."),
    Noun("audit", "audit", "Who changed what, when, and with which result."),
    Noun("backup", "backup.app", "Make, prove and restore backups."),
    Noun("registry", "registry.app", "Which agent is whose: an application's ids and Letta's."),
    Noun("migrate", "migrate.app", "Go to another release of Letta, rehearsed, and back."),
    Noun("exit", "exit", "Take agents out of V1, into the store of its successor."),
    Noun("secret", "secret", "Show a secret of the stack, or rotate one."),
    Noun("profile", "profile", "Show how the stack is reached."),
)  # fmt: skip


class _Commands(Mapping[str, Any]):
    """Commands by name, imported when they are asked for."""

    def __init__(self, nouns: tuple[Noun, ...]) -> None:
        self._nouns = {noun.name: noun for noun in nouns}

    def __getitem__(self, name: str) -> Any:
        return self._nouns[name].load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._nouns)

    def __len__(self) -> int:
        return len(self._nouns)


class LazyGroup(TyperGroup):
    """The top of the command line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands(NOUNS)  # type: ignore[assignment]  # nobody adds to it

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  Typer calls it so
        """Write the help without importing a single command."""
        with formatter.section("Commands"):
            formatter.write_dl([(noun.name, noun.summary) for noun in NOUNS])


def command_line() -> Any:
    """Return the click command of `letta-ops`."""
    app = new_app("Run, watch and look after self-hosted Letta servers.")
    app.callback(cls=LazyGroup)(_globals)
    return typer.main.get_group(app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("letta-ops"))
        raise typer.Exit


def _globals(
    context: typer.Context,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    as_json: Json = False,
    verbose: Verbose = False,
    _version_wanted: bool = typer.Option(
        False, "--version", is_eager=True, callback=_version, help="Show the version."
    ),
) -> None:
    context.obj = Invocation(stack, profile, as_json, verbose)
    if verbose:
        from ops_cli.output import show_log

        show_log()
