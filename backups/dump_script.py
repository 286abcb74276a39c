"""What pg_restore writes when it is asked for a script: statements, and rows between them."""

from __future__ import annotations

from collections.abc import Iterator

from backups.loading import PSQL_COMMAND, TELLING
from infra.errors import LettaOpsError

END_OF_ROWS = b"\\.\n"


def copies(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, Iterator[bytes] | None]]:
    """Take a script of pg_restore's apart: statements, and each COPY with its rows, to be read to
    their end."""
    script = _Script(chunks)
    before: list[bytes] = []
    while line := script.line():
        if not (line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n")):
            if not PSQL_COMMAND.fullmatch(line):
                before.append(line)
            continue
        yield b"".join(before), None
        before = []
        yield line, script.rows()
    yield b"".join(before), None


class _Script:
    """What pg_restore writes, as it comes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._data = chunks, b""

    def line(self) -> bytes:
        """The next line with its end; nothing at the end of all."""
        while b"\n" not in self._data and self._more():
            pass
        line, end, self._data = self._data.partition(b"\n")
        return line + end

    def rows(self) -> Iterator[bytes]:
        """Yield what stands ahead of a COPY's end. Raises LettaOpsError where that doesn't come."""
        while len(self._data) < len(END_OF_ROWS) and self._more():
            pass
        if self._data.startswith(END_OF_ROWS):
            self._data = self._data[len(END_OF_ROWS) :]
            return
        while (at := self._data.find(b"\n" + END_OF_ROWS)) < 0:
            kept = len(END_OF_ROWS)  # they may be the beginning of the end
            yield self._data[:-kept]
            self._data = self._data[-kept:]
            if not self._more():
                raise LettaOpsError(
                    TELLING["code"], "the rows that pg_restore writes are cut", TELLING["hint"]
                )
        yield self._data[: at + 1]
        self._data = self._data[at + 1 + len(END_OF_ROWS) :]

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        self._data += chunk
        return bool(chunk)
