"""Agent files (`.af`) of format 2: what the commands ask of one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from ops_cli.agents.converting import converted, is_format_1
from ops_cli.agents.reading import parse


@dataclass(frozen=True)
class FileAgent:
    """One agent of an agent file, as the file describes it."""

    name: str
    model: str | None  # handle
    embedding: str | None  # handle
    messages: int
    secrets: tuple[str, ...]  # the names of secrets; a file never carries their values


@dataclass(frozen=True)
class AgentFile:
    """A whole agent file: `content` is its JSON, in format 2; `notes` tell of a conversion to it."""

    source: str
    content: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def agents(self) -> tuple[FileAgent, ...]:
        return tuple(_agent(entry) for entry in self.content["agents"])

    @property
    def tools(self) -> dict[str, str | None]:
        """The tools by name, with the source code of those that have one."""
        return {tool["name"]: tool.get("source_code") for tool in self._entries("tools")}

    @property
    def files(self) -> int:
        return sum(1 for _ in self._entries("files"))

    def _entries(self, section: str) -> Iterator[dict[str, Any]]:
        for entry in self.content.get(section) or []:
            if isinstance(entry, dict) and entry.get("name", section == "files"):
                yield entry


def read_agent_file(path: Path) -> AgentFile:
    """Read the file at `path`, or stdin when it is `-`.

    Raises LettaOpsError: `file-unreadable`, or what `parse_agent_file` says.
    """
    return parse_agent_file(read_input(path), "stdin" if str(path) == "-" else str(path))


def read_input(path: Path) -> bytes:
    """What the file at `path` holds, or stdin when it is `-`. Raises LettaOpsError: `file-unreadable`."""
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise LettaOpsError(
            "file-unreadable", f"cannot read {path}: {error.strerror}", "name another file"
        ) from None


def parse_agent_file(data: bytes, source: str) -> AgentFile:
    """Read `data`, which came from `source`. Only its format is looked at: see `checking` for the rest.

    Raises LettaOpsError as `parse` and `converted` do.
    """
    content, notes = parse(data, source), tuple[str, ...]()
    if is_format_1(content):
        content, notes = converted(content, source)
    return AgentFile(source, content, notes)


def _agent(entry: dict[str, Any]) -> FileAgent:
    secrets = {
        **(entry.get("tool_exec_environment_variables") or {}),
        **(entry.get("secrets") or {}),
    }
    return FileAgent(
        name=entry["name"],
        model=(entry.get("llm_config") or {}).get("handle") or entry.get("model"),
        embedding=(entry.get("embedding_config") or {}).get("handle") or entry.get("embedding"),
        messages=len(entry.get("messages") or []),
        secrets=tuple(sorted(secrets)),
    )
