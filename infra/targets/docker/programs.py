"""PostgreSQL's programs inside the database's container: those that surely know this server."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from infra.errors import LettaOpsError
from infra.process import TAIL_LINES, Finished, ending
from infra.stack.deployment import ADMIN_ROLE
from infra.targets.docker.engine.client import engine
from infra.targets.docker.engine.execution import STDOUT, attached, execute, exit_code, frames

COMPLAINT_BYTES = 64 * 1024
OF_A_SIGNAL = 128  # and its number: the exit code of a shell whose command was ended by one
# It ends with us: a pg_dump that nobody reads from would hold its locks for ever. The engine closes
# the input of a command whose client has gone.
WITH_US = """
exec 3<&0
"$@" & dump=$!
(cat <&3; kill $dump) >/dev/null 2>&1 &
wait $dump
"""


@dataclass(frozen=True)
class ContainerPrograms:
    """See `infra.targets.target.Programs`."""

    container: str

    def run(self, program: str, *arguments: str) -> Finished:
        done = execute(self.container, [program, *arguments])
        return Finished(done.code, done.stdout, done.stderr)

    def stream(self, program: str, *arguments: str) -> Iterator[bytes]:
        return _streamed(self.container, [program, "--username", ADMIN_ROLE, *arguments])


def _streamed(container: str, arguments: Sequence[str]) -> Iterator[bytes]:
    complaint = b""
    with engine() as client:
        with attached(client.api, container, ["sh", "-c", WITH_US, "sh", *arguments]) as running:
            running.socket.settimeout(None)  # a locked table is waited for by pg_dump itself
            for kind, data in frames(running.reader):
                if kind == STDOUT:
                    yield data
                else:
                    complaint = (complaint + data)[-COMPLAINT_BYTES:]
        code = exit_code(client, running.id)
    if code != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()[-TAIL_LINES:]
        tail = "\n".join(f"    {line}" for line in lines)
        raise LettaOpsError(
            "dump-failed",
            f"dumping the database in {container}: {ending(_as_here(code))} from pg_dump\n{tail}",
            "look at Postgres' log (`letta-ops logs postgres`), then run this again",
        )


def _as_here(code: int) -> int:
    return OF_A_SIGNAL - code if code - OF_A_SIGNAL in list(signal.Signals) else code
