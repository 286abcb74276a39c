"""Agent files (`.af`): read and judged before anything is sent anywhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError

LFS_MARK = b"version https://git-lfs.github.com/spec/"
SECTIONS = ("agents", "groups", "blocks", "files", "sources", "tools", "mcp_servers")


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
    """A whole agent file of format 2, as it was read: `content` is its JSON."""

    source: str
    content: dict[str, Any]

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
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise LettaOpsError(
            "file-unreadable", f"cannot read {path}: {error.strerror}", "name another file"
        ) from None
    return parse_agent_file(data, "stdin" if str(path) == "-" else str(path))


def parse_agent_file(data: bytes, source: str) -> AgentFile:
    """Judge `data`, read from `source`.

    Raises LettaOpsError: `agent-file-pointer` (Git LFS), `agent-file-broken` (no JSON, or not an
    agent file), `agent-file-v1` (the format that servers since 0.13 refuse).
    """
    if data.startswith(LFS_MARK):
        raise LettaOpsError(
            "agent-file-pointer",
            f"{source} is a Git LFS pointer, not the agent file itself",
            "fetch the file with `git lfs pull` in the repository that it comes from",
        )
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _broken(source, f"is not JSON ({error})") from None
    if isinstance(content, str):  # some tools encode the document twice; the server accepts that
        return parse_agent_file(content.encode(errors="surrogatepass"), source)
    if not isinstance(content, dict):
        raise _broken(source, f"holds a JSON {type(content).__name__}, not an object")
    if "agents" not in content and ("agent_type" in content or "core_memory" in content):
        raise LettaOpsError(
            "agent-file-v1",
            f"{source} is an agent file of format 1, which Letta servers since 0.13 refuse",
            "import it into a Letta server up to 0.11.7, export it there, and import that file",
        )
    problems = list(_problems(content))
    if problems:
        raise _broken(source, "is not a complete agent file: " + "; ".join(problems))
    return AgentFile(source, content)


def _problems(content: dict[str, Any]) -> Iterator[str]:
    for section in SECTIONS:
        if not isinstance(content.get(section), list):
            yield f"{section} is {'not a list' if section in content else 'missing'}"
    agents = content.get("agents")
    if agents == []:
        yield "agents is empty"
    for number, agent in enumerate(agents if isinstance(agents, list) else []):
        if not isinstance(agent, dict) or not isinstance(agent.get("name"), str):
            yield f"agents[{number}] has no name"


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


def _broken(source: str, reason: str) -> LettaOpsError:
    return LettaOpsError(
        "agent-file-broken",
        f"{source} {reason}",
        "get the file again from where it comes from; nothing was sent to the server",
    )
