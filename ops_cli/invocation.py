"""One call of the command line: which stack, which profile, and how to answer."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.stack.locations import StackFolder, stack_folder

if TYPE_CHECKING:
    from infra.stack.deployment import Deployment

DEFAULT_STACK = "local"
COMMAND = re.compile(r"(?<=`)letta-ops(?= (?!--stack |--profile ))")  # in a hint, without a stack
OF_PROFILES = re.compile(COMMAND.pattern + r"(?! (up|preview|destroy)\b)")  # those take no profile


@dataclass(frozen=True)
class Invocation:
    """The global options. Commands get it from their Typer context and pass it on explicitly."""

    stack: str = DEFAULT_STACK
    profile: Path | None = None
    json: bool = False
    verbose: bool = False

    @property
    def folder(self) -> StackFolder:
        return stack_folder(self.stack)

    def deployment(self) -> Deployment:
        """Read the profile. Raises LettaOpsError when it is missing or wrong."""
        from infra.stack.profile import load
        from infra.targets import is_known

        return load(self.folder, self.profile, is_target=is_known)

    def command(self, words: str) -> str:
        """The command line that does `words` to the same stack: for hints that can be pasted."""
        parts = ["letta-ops"]
        if self.stack != DEFAULT_STACK:
            parts += ["--stack", shlex.quote(self.stack)]
        if self.profile is not None:
            parts += ["--profile", shlex.quote(str(self.profile))]
        return " ".join([*parts, words])

    def in_full(self, hint: str) -> str:
        """`hint` with every command line in it such that it is for the same stack or profile."""
        begin = self.command("").rstrip()
        return (OF_PROFILES if self.profile is not None else COMMAND).sub(lambda _: begin, hint)


def current(context: Any) -> Invocation:
    """Return the invocation that the top of the command line has put into a Typer context."""
    found = context.find_object(Invocation)
    if not isinstance(found, Invocation):
        raise TypeError("the callback of the command line makes it before any command runs")
    return found
