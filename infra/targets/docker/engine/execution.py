"""Running a command inside a running container: `docker exec`, its input and its output."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.targets.docker.engine.client import engine, find_container

if TYPE_CHECKING:
    from docker import DockerClient

CHUNK = 64 * 1024
STDOUT, STDERR = 1, 2
SETTLE_SECONDS = 2.0
MESSAGE_SECONDS = 300.0  # a message to a slow model takes its time


@dataclass(frozen=True)
class Attached:
    """A command that runs: write its input to `socket`, read its output with `frames(reader)`."""

    id: str
    socket: socket.socket
    reader: Any


@dataclass(frozen=True)
class Executed:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str = ""

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def execute(container: str, command: Sequence[str], stdin: str | None = None) -> Executed:
    """Run `command` in the container of this name, as the image's user, and return its output.

    Secrets belong in `stdin`, which ends where its text does. Raises LettaOpsError
    (`container-not-running`) when it doesn't run.
    """
    if stdin is not None:
        # The engine's way in can't be ended over TLS: so the text's length is told.
        length = str(len(stdin.encode()))
        command = ["sh", "-c", 'head -c "$0" | "$@"', length, *command]
    with engine() as client:
        found = find_container(client, container)
        if found is None or found.status != "running":
            state = "doesn't exist" if found is None else f"is {found.status}"
            raise LettaOpsError(
                "container-not-running",
                f"the container {container} {state}",
                "run `letta-ops up`, and look at its log: `letta-ops logs`",
            )
        return execute_with(client, container, command, stdin or "", MESSAGE_SECONDS)


def execute_with(
    client: DockerClient,
    container: str,
    command: Sequence[str],
    stdin: str = "",
    seconds: float = 30.0,
) -> Executed:
    """Like `execute`, with a client that is there already.

    The input isn't ended: over TLS it couldn't be. The command must know how much to read. Raises
    LettaOpsError (`timeout`) when nothing comes for `seconds`, and what the engine raises.
    """
    parts = {STDOUT: b"", STDERR: b""}
    try:
        with attached(client.api, container, command) as running:
            running.socket.settimeout(seconds)
            running.socket.sendall(stdin.encode())
            for kind, data in frames(running.reader):
                parts[kind] = parts.get(kind, b"") + data
    except TimeoutError:
        raise LettaOpsError(
            "timeout",
            f"{command[0]} in {container} gave no answer in {seconds:.0f} s",
            "see what the machine and the container are busy with",
        ) from None
    out, err = (parts[kind].decode(errors="replace") for kind in (STDOUT, STDERR))
    return Executed(exit_code(client, running.id), out, err)


@contextmanager
def attached(api: Any, container: str, command: Sequence[str]) -> Iterator[Attached]:
    """Start `command` and yield its streams; they are closed in the end.

    `api` is docker-py's APIClient, whose errors come through.
    """
    made = api.exec_create(container, list(command), stdin=True)
    stream: Any = api.exec_start(made["Id"], socket=True)
    plain = getattr(stream, "_sock", stream)
    response = stream._response  # noqa: SLF001
    try:
        # What came along with the response's head stands in its buffer, not in the socket.
        yield Attached(made["Id"], plain, response.raw._fp.fp)  # noqa: SLF001
    finally:
        response.close()
        plain.close()


def frames(reader: Any) -> Iterator[tuple[int, bytes]]:
    """Yield (stream, data) of the engine's multiplexed output, a frame in as many pieces as come.

    Each frame is headed by 8 bytes: the stream, three zeros, and the length in network order
    (Docker Engine API, "ContainerAttach"). Ends with the stream, also in the middle of a frame.
    """
    while len(head := reader.read(8)) == 8:
        kind, left = struct.unpack(">BxxxL", head)
        while left > 0:
            data = reader.read1(min(left, CHUNK))
            if not data:
                return
            left -= len(data)
            yield kind, data


def exit_code(client: DockerClient, made: str) -> int:
    """The engine closes the streams a moment before it knows the code."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (code := client.api.exec_inspect(made)["ExitCode"]) is None:
        if time.monotonic() > deadline:
            raise LettaOpsError(
                "engine", "the engine doesn't say how a command ended", "run the same command again"
            )
        time.sleep(0.02)
    return int(code)
