"""Agent files compared by what they say: with each other, or with what an agent is exported to now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra.stack.deployment import Deployment
from ops_cli.agents.agent_file import read_agent_file
from ops_cli.agents.exporting import export_agent
from ops_cli.agents.judging import entries, messages

OF_AGENT = (
    "name", "system", "agent_type", "description", "tool_rules", "tags", "message_buffer_autoclear",
    "timezone", "response_format",
)  # fmt: skip
OF_BLOCK = ("value", "limit", "description", "read_only", "metadata")
OF_TOOL = ("tool_type", "source_code", "json_schema", "description", "tags")
OF_MESSAGE = ("role", "content", "tool_calls", "tool_call_id", "name", "created_at")
LISTED = 100
SHOWN = 60


def compare_files(deployment: Deployment, left: str, right: str) -> dict[str, Any]:
    """Compare two agent files; what is no file is an agent, exported through the API.

    Raises LettaOpsError as `read_agent_file` and `export_agent` do.
    """
    sides = [said(_content(deployment, word)) for word in (left, right)]
    found = list(_differences(sides[0], sides[1], ""))
    return {
        "equal": not found,
        "mapped": True,  # a file's ids are its own
        "rows": {name: len(each) for name, each in sides[0].items() if isinstance(each, list)},
        "count": len(found),
        "differences": [
            {
                "table": "file",
                "key": path,
                "only": None,
                "fields": {"value": [_shown(a), _shown(b)]},
            }
            for path, a, b in found[:LISTED]
        ],
    }


def said(content: dict[str, Any]) -> dict[str, Any]:
    """What a file says of its agents, without ids: by label, by name, by order."""
    blocks = {block.get("id"): block for _, block in entries(content, "blocks")}
    tools = {tool.get("id"): tool for _, tool in entries(content, "tools")}
    return {
        "agents": [
            {
                **{key: agent.get(key) or None for key in OF_AGENT},
                "secrets": sorted({
                    *(agent.get("secrets") or {}),
                    *(agent.get("tool_exec_environment_variables") or {}),
                }),
                "blocks": {
                    str(block.get("label")): {key: block.get(key) or None for key in OF_BLOCK}
                    for block in _of(agent, "block_ids", blocks)
                },
                "tools": sorted(str(tool.get("name")) for tool in _of(agent, "tool_ids", tools)),
                "messages": [_said_message(each) for each in messages(agent)],
                "context": _context(agent),
            }
            for _, agent in entries(content, "agents")
        ],
        "tools": sorted(
            ({"name": tool.get("name"), **{key: tool.get(key) or None for key in OF_TOOL}}
             for tool in tools.values()),
            key=lambda tool: str(tool["name"]),
        ),
    }  # fmt: skip


def _of(agent: dict[str, Any], key: str, known: dict[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    return [known[each] for each in agent.get(key) or [] if each in known]


def _said_message(message: dict[str, Any]) -> dict[str, Any]:
    told = {key: message.get(key) or None for key in OF_MESSAGE}
    content = told["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if isinstance(content, list):
        told["content"] = [
            {key: value for key, value in part.items() if value is not None}
            for part in content
            if isinstance(part, dict)
        ]
    told["created_at"] = str(told["created_at"] or "").replace("Z", "+00:00")
    return told


def _context(agent: dict[str, Any]) -> list[int]:
    places = {message.get("id"): number for number, message in enumerate(messages(agent))}
    return [places.get(each, -1) for each in agent.get("in_context_message_ids") or []]


def _content(deployment: Deployment, word: str) -> dict[str, Any]:
    path = Path(word).expanduser()
    if path.is_file():
        return read_agent_file(path).content
    return export_agent(deployment, word).file.content


def _differences(left: Any, right: Any, path: str) -> Any:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in dict.fromkeys((*left, *right)):
            yield from _differences(left.get(key), right.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for number, (first, second) in enumerate(zip(left, right, strict=True)):
            yield from _differences(first, second, f"{path}[{number}]")
    elif left != right:
        yield path, left, right


def _shown(value: Any) -> str:
    text = "(nothing)" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
