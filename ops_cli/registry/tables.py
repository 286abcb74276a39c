"""Links as files, CSV or JSON: written, and read with every problem at once."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from letta_ops.registry.errors import KeyRefused
from letta_ops.registry.links import AGENT_ID, Key, shown
from ops_cli.agents.reading import listing

COLUMNS = ("app", "app_agent_id", "letta_agent_id", "server", "linked_at", "linked_by", "reason")
NEEDED = ("app_agent_id", "letta_agent_id")
FORMATS = ("csv", "json")
LARGEST_FIELD = 1_000_000


@dataclass(frozen=True)
class Entry:
    """A line of a file: what is to be linked, and where it stands."""

    key: Key
    agent: str
    place: str
    reason: str


def format_of(file: Path | None, chosen: str | None) -> str:
    """`csv` or `json`: as said, else as the file's name ends. Raises LettaOpsError (`format`)."""
    found = chosen or (file.suffix.lstrip(".").lower() if file and str(file) != "-" else "csv")
    if found not in FORMATS:
        raise LettaOpsError(
            "format", f"{shown(found)} is no format for links", "say --format csv, or --format json"
        )
    return found


def written(links: Iterable[Mapping[str, Any]], form: str) -> Iterator[str]:
    """The text of a file, piece by piece."""
    if form == "json":
        yield (
            json.dumps([{name: link[name] for name in COLUMNS} for link in links], indent=2) + "\n"
        )
        return
    for row in (COLUMNS, *([link[name] for name in COLUMNS] for link in links)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        yield text.getvalue()


def read(data: bytes, source: str, form: str, app: str | None) -> list[Entry]:
    """The links that a file holds; `app` is that of lines which name none.

    Raises LettaOpsError (`links-broken`) with every problem, by line.
    """
    try:
        text = data.decode("utf-8-sig")  # what spreadsheets write begins with a mark
    except UnicodeDecodeError as error:
        raise broken(source, [f"it is not UTF-8: {error.reason} at byte {error.start}"]) from None
    problems: list[str] = []
    rows = list(_json(text, source) if form == "json" else _csv(text, source))
    entries: list[Entry] = []
    seen: dict[Key, str] = {}
    agents: dict[str, str] = {}
    for place, row in rows:
        try:
            key = Key.of(row.get("app") or app or "", row.get("app_agent_id") or "")
        except KeyRefused as error:
            problems.append(f"{place}: {error.message}")
            continue
        agent = row.get("letta_agent_id") or ""
        if not AGENT_ID.fullmatch(agent):
            problems.append(f"{place}: {shown(agent)} is no agent's id")
        elif key in seen:
            problems.append(f"{place}: {key} stands in {seen[key]} already")
        elif agent in agents:
            problems.append(f"{place}: {agent} stands in {agents[agent]} already")
        else:
            seen[key] = agents[agent] = place
            entries.append(Entry(key, agent, place, row.get("reason") or ""))
    if problems:
        raise broken(source, problems)
    return entries


def _csv(text: str, source: str) -> Iterator[tuple[str, dict[str, str]]]:
    csv.field_size_limit(LARGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        _ensure_columns(header, source)
        line = reader.line_num
        for row in reader:
            place, line = f"line {line + 1}", reader.line_num
            if not row:
                continue
            if len(row) != len(header):
                raise broken(source, [f"{place} has {len(row)} fields, the header {len(header)}"])
            yield place, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise broken(source, [f"line {reader.line_num}: {error}"]) from None


def _json(text: str, source: str) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise broken(source, [f"it is not JSON: {error}"]) from None
    if not isinstance(rows, list):
        raise broken(source, ["it is no list of links"])
    for number, row in enumerate(rows):
        values = row.values() if isinstance(row, dict) else [None]
        if not all(isinstance(each, str | None) for each in values) or not isinstance(row, dict):
            raise broken(source, [f"[{number}] is no link: texts by name are wanted"])
        _ensure_columns(list(row), source)
        yield f"[{number}]", row


def _ensure_columns(header: Sequence[str], source: str) -> None:
    problems = [f"the column {name} is missing" for name in NEEDED if name not in header]
    problems += [f"the column {shown(name)} stands twice" for name in {
        each for each in header if list(header).count(each) > 1
    }]  # fmt: skip
    if problems:
        raise broken(source, problems)


def broken(source: str, problems: Sequence[str]) -> LettaOpsError:
    return LettaOpsError(
        "links-broken",
        f"{source}: {len(problems)} problem(s), nothing was changed{listing(problems)}",
        f"correct the file: its columns are {', '.join(COLUMNS)}",
    )
