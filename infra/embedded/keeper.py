"""supervisord, as it runs for a stack: one that a full disk does not end.

As released (4.3.0), a line of a log that can't be written is an exception, which it reports on its
own standard error: a file on the same full disk, so that reporting fails too and ends supervisord.
Services then run on with nobody to start them again. Here a line that finds no room is dropped.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from supervisor import loggers, supervisord


class Handler(loggers.RotatingFileHandler):  # type: ignore[misc]  # supervisor ships no types
    """A log file that drops lines while its disk is full, and goes on when there is room again."""

    stream: BinaryIO

    def emit(self, record: object) -> None:
        with suppress(OSError, ValueError):
            if self.stream.closed:  # a rotation that found no room has left it so
                self.stream = Path(self.baseFilename).open("ab")  # noqa: SIM115
            super().emit(record)

    def handleError(self) -> None:  # noqa: N802  # supervisor's name
        """Called for a line that could not be written."""


def main() -> None:
    loggers.RotatingFileHandler = Handler
    loggers.Handler.handleError = lambda _: None
    supervisord.main(sys.argv[1:])


if __name__ == "__main__":
    main()
