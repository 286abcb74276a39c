"""All that belongs to one person as a JSON document, row by row: for the person, or for an authority."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.files import output

if TYPE_CHECKING:
    from backups.archives.person import Marked

FORMAT = 1


def write_person(marks: Marked, path: Path) -> None:
    """Write it to `path`, whole or not at all, mode 0600. Raises LettaOpsError (`output-refused`)."""
    with output(path) as sink:
        for piece in _document(marks):
            sink.write(piece.encode())


def _document(marks: Marked) -> Iterator[str]:
    yield f'{{"kind": "letta-person", "format": {FORMAT},\n"person": {_text(marks.person.as_json())},'
    yield '\n"rows": {'
    for number, (table, rows) in enumerate(marks.rows()):
        yield f"{',' if number else ''}\n{_text(table)}: ["
        for place, row in enumerate(rows):
            yield f"{',' if place else ''}\n{_text(row)}"
        yield "]"
    yield "}}\n"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
