"""Running a command inside a running container of ours, with its input by stdin."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.containers.engine import engine, find_container
from infra.errors import LettaOpsError

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass(frozen=True)
class Answer:
    """The exit code of a command, and what it wrote to stdout and stderr together."""

    code: int
    output: str


def execute(
    container: str, words: Sequence[str], stdin: str | None = None, user: str = ""
) -> Answer:
    """Run `words` in `container`; secrets belong in `stdin`.

    Raises LettaOpsError (`container-not-running`) when it doesn't run.
    """
    with engine() as client:
        found = find_container(client, container)
        if found is None or found.status != "running":
            state = "doesn't exist" if found is None else f"is {found.status}"
            raise LettaOpsError(
                "container-not-running",
                f"the container {container} {state}",
                "run `letta-ops up`, and look at its log: `letta-ops logs`",
            )
        return _run(client, container, words, stdin, user)


def _run(
    client: DockerClient, container: str, words: Sequence[str], stdin: str | None, user: str
) -> Answer:
    from docker.utils import socket as frames

    api: Any = client.api
    made = api.exec_create(container, list(words), stdin=stdin is not None, user=user)["Id"]
    stream = api.exec_start(made, socket=True)
    try:
        if stdin is not None:
            plain = getattr(stream, "_sock", stream)
            plain.sendall(stdin.encode())
            plain.shutdown(socket.SHUT_WR)
        untyped: Any = frames
        output = b"".join(data for _, data in untyped.frames_iter(stream, tty=False))
    finally:
        stream.close()
    code = api.exec_inspect(made)["ExitCode"]
    return Answer(-1 if code is None else int(code), output.decode(errors="replace"))
