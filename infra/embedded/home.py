"""Running a script of ours in the home of a server of this machine, as the account that owns it.

Tools of agents can write there: we may be root, and never follow a path inside ourselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from infra.accounts import PLAIN, as_account, service_account, service_python
from infra.errors import LettaOpsError
from infra.files import write_file
from infra.process import Command, command, fed, streamed
from infra.stack.locations import StackFolder

HINT = "read the lines above; run the same command again when the cause is mended"


@dataclass(frozen=True)
class ServerHome:
    """The server's home. `program` is a script of the standard library, kept as the file `name`."""

    folder: StackFolder
    name: str
    program: str
    code: str  # of its errors

    @property
    def place(self) -> str:
        return str(self.folder.home)

    @contextmanager
    def output(self, *arguments: str) -> Iterator[BinaryIO]:
        """Run it with a word, the home's path, and more words; yield its stdout, to be read to its end.

        Raises LettaOpsError when the block ends and the script had failed.
        """
        with streamed(self._job(arguments), code=self.code, hint=HINT, what=self._what) as source:
            yield cast("BinaryIO", source)

    def run(self, *arguments: str, chunks: Iterable[bytes] = ()) -> str:
        """Run it, hand it `chunks` by stdin, and return its stdout; raises LettaOpsError."""
        job = self._job(arguments)
        return fed(job, chunks, code=self.code, hint=HINT, what=self._what).stdout

    def _job(self, arguments: tuple[str, ...]) -> Command:
        account = service_account(self.folder, "server")
        if not self.folder.home.parent.is_dir():
            raise LettaOpsError(
                "data-missing",
                f"there is no folder {self.folder.home.parent}",
                "put the stack's data back, or make the stack with `letta-ops up`",
            )
        script = self.folder.script(self.name)
        write_file(script, self.program, 0o644)
        first, *others = arguments
        job = command(
            service_python(account), "-I", script, first, self.folder.home, *others,
            environment=PLAIN, directory=Path("/"),
        )  # fmt: skip
        return as_account(account, job)

    @property
    def _what(self) -> str:
        return f"working in {self.folder.home}"
