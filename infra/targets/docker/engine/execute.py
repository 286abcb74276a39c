"""One command inside a running container of ours, found by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.errors import LettaOpsError
from infra.targets.docker.engine.client import engine, find_container
from infra.targets.docker.engine.execution import execute as run

SECONDS = 300.0  # a message to a slow model takes its time


@dataclass(frozen=True)
class Answer:
    """The exit code of a command, and what it wrote to stdout and then to stderr."""

    code: int
    output: str


def execute(container: str, words: Sequence[str], stdin: str | None = None) -> Answer:
    """Run `words` in `container`; secrets belong in `stdin`, which ends where its text does.

    Raises LettaOpsError (`container-not-running`) when it doesn't run.
    """
    if stdin is not None:
        # The engine's way in can't be ended over TLS: so the text's length is told.
        length = str(len(stdin.encode()))
        words = ["sh", "-c", 'head -c "$0" | "$@"', length, *words]
    with engine() as client:
        found = find_container(client, container)
        if found is None or found.status != "running":
            state = "doesn't exist" if found is None else f"is {found.status}"
            raise LettaOpsError(
                "container-not-running",
                f"the container {container} {state}",
                "run `letta-ops up`, and look at its log: `letta-ops logs`",
            )
        done = run(client, container, words, stdin or "", SECONDS)
    return Answer(done.code, done.stdout + done.stderr)
