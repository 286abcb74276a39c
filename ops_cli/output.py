"""Answers: one object, printed as JSON or as text; and errors, the same way."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from infra.errors import LettaOpsError
from ops_cli.invocation import Invocation

NARROW = 8  # characters of a cell, into which folding still makes sense


@dataclass(frozen=True)
class Table:
    """Rows for people: columns on a terminal and in a pipe, never cut."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]


Part = str | Table


class UnsuccessfulError(LettaOpsError):
    """A command that ran to its end, and whose answer is bad: a failed smoke test, for instance.

    With `--json`, `result` is printed together with the error as one document.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str,
        result: Mapping[str, Any] | None = None,
        exit_code: int = 1,
    ) -> None:
        super().__init__(code, message, hint)
        self.result = result or {}
        self.exit_code = exit_code


def present(invocation: Invocation, answer: Any, render: Callable[[Any], Iterable[Part]]) -> None:
    """Print `answer`, which JSON can hold: as it is with --json, else as `render` tells it."""
    if invocation.json:
        print_json(answer)
        return
    for part in render(answer):
        print_table(part) if isinstance(part, Table) else print(printable(part))


def print_json(answer: Any) -> None:
    """Print one JSON document; in ASCII where the stream can't carry more."""
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    print(json.dumps(answer, indent=2, ensure_ascii=not unicode))


def print_error(
    error: LettaOpsError, as_json: bool, result: Mapping[str, Any] | None = None
) -> None:
    """Print a LettaOpsError: on stdout as JSON (beside `result`), else on stderr as text."""
    if as_json:
        print_json({**(result or {}), "error": error.as_json()})
    else:
        sys.stdout.flush()
        print(f"error: {printable(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"  next: {printable(error.hint)}", file=sys.stderr)


def note(text: str) -> None:
    """Print something beside the answer: to stderr, a line whole, whoever else prints.

    Whoever read along may have gone (`2>&1 | head`): what is at work goes on without him.
    """
    try:
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        forget(sys.stderr.fileno())


def forget(*streams: int) -> None:
    """Let what is still written to these go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)


def note_parts(parts: Iterable[Part]) -> None:
    """Print what somebody has to read before he agrees: beside the answer, to stderr."""
    for part in parts:
        print_table(part, sys.stderr) if isinstance(part, Table) else note(part)


def print_table(table: Table, stream: TextIO | None = None) -> None:
    """Print aligned columns; on a terminal that is wide enough, long cells are folded to its width."""
    stream = stream or sys.stdout
    rows = [[printable(str(cell), single_line=True) for cell in row] for row in table.rows]
    heads = [column.upper() for column in table.columns]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    narrowest = widths[0] + sum(2 + min(NARROW, width) for width in widths[1:])
    if stream.isatty() and shutil.get_terminal_size().columns >= narrowest:
        _print_rich(table.columns, rows, stream)
        return
    for row in [heads, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip(), file=stream)


def printable(text: str, *, single_line: bool = False) -> str:
    """Return `text` without control characters: a server's text must not drive the terminal."""
    allowed = "" if single_line else "\n\t"

    def shown(letter: str) -> str:
        plain = letter in allowed or unicodedata.category(letter) != "Cc"
        return letter if plain else f"\\x{ord(letter):02x}"

    return "".join(map(shown, text))


def facts(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Lines of `name  value`, the names padded to one width; a value of None is left out."""
    shown = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    return [f"{name:<{width}}  {value}" for name, value in shown]


def show_log() -> None:
    """Let the loggers of letta-ops speak on stderr. What they say is redacted where it is said."""
    logger = logging.getLogger("letta_ops")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


def _print_rich(columns: Sequence[str], rows: list[list[str]], stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        # The first column names the row: it is copied, so it stays whole.
        drawn.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console(file=stream, highlight=False).print(drawn)
