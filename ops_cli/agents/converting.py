"""Agent files of format 1 (Letta up to 0.11) -> format 2, which servers since take.

Format 1 holds one agent: its blocks, tools and messages inside it, messages in context by their
numbers, no ids. It was written by 0.6.43 to 0.11.x; what differs between them is read either way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ops_cli.agents.reading import broken, where

Entry = dict[str, Any]

# What is taken over as it is, by the names of format 2; format 1 may call it by that name or with `_`.
OF_AGENT: tuple[str, ...] = (
    "name", "system", "agent_type", "llm_config", "embedding_config", "tags", "description",
    "metadata", "message_buffer_autoclear", "response_format", "timezone", "max_files_open",
    "per_file_view_window_char_limit", "hidden",
)  # fmt: skip
OF_BLOCK: tuple[str, ...] = (
    "label", "value", "limit", "description", "is_template", "template_name", "metadata", "read_only",
    "preserve_on_migration", "hidden",
)  # fmt: skip
OF_TOOL: tuple[str, ...] = (
    "name", "description", "json_schema", "args_json_schema", "source_code", "source_type", "tags",
    "tool_type", "return_char_limit", "pip_requirements", "npm_requirements", "default_requires_approval",
)  # fmt: skip
OF_MESSAGE: tuple[str, ...] = (
    "role", "content", "name", "model", "tool_calls", "tool_call_id", "tool_returns", "group_id", "otid",
    "sender_id", "batch_item_id", "approve", "approval_request_id", "denial_reason", "approvals",
)  # fmt: skip
# What 0.6.43 called the kinds of rules.
RULES = {
    "InitToolRule": "run_first", "TerminalToolRule": "exit_loop", "ContinueToolRule": "continue_loop",
    "ToolRule": "constrain_child_tools", "ChildToolRule": "constrain_child_tools",
    "ConditionalToolRule": "conditional", "ParentToolRule": "parent_last_tool",
}  # fmt: skip
# Known, and without a place in format 2: when something was made is the server's to say.
WITHOUT_A_PLACE = {"created_at", "updated_at", "version", "id", "metadata_", "text"}
NAIVE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?")


def is_format_1(content: Entry) -> bool:
    return "agents" not in content and bool(
        {"agent_type", "core_memory", "in_context_message_indices"} & content.keys()
    )


def converted(content: Entry, source: str) -> tuple[Entry, tuple[str, ...]]:
    """Return the file in format 2, and what there is to say of it.

    What is of a wrong kind is taken over as it is: the check of the whole file names it.
    Raises LettaOpsError (`agent-file-broken`) where a message in context has no number of one.
    """
    notes = [_summary(content)]
    blocks = [_block(entry, number) for number, entry in enumerate(_list(content, "core_memory"))]
    tools = [_tool(entry, number) for number, entry in enumerate(_list(content, "tools"))]
    messages = [_message(entry, number) for number, entry in enumerate(_list(content, "messages"))]
    names = dict(_secret_names(content))
    agent = {
        **_taken(content, OF_AGENT),
        "id": "agent-0",
        "block_ids": [block["id"] for block in blocks],
        "tool_ids": [tool["id"] for tool in tools],
        "tool_rules": [_rule(rule) for rule in _list(content, "tool_rules")],
        "messages": messages,
        "in_context_message_ids": _window(content, len(messages), source),
        "tool_exec_environment_variables": names,
        "secrets": dict(names),
        "include_base_tools": False,
    }
    notes += _lost(content)
    sections = {"blocks": blocks, "tools": tools}
    empty: Entry = {"groups": [], "files": [], "sources": [], "mcp_servers": []}
    return {"agents": [agent], **empty, **sections}, tuple(notes)


def _summary(content: Entry) -> str:
    counted = [
        f"{len(_list(content, key))} {name}"
        for key, name in (
            ("messages", "message(s)"),
            ("in_context_message_indices", "of them in context"),
            ("core_memory", "block(s)"),
            ("tools", "tool(s)"),
            ("tool_rules", "rule(s)"),
        )
    ]
    version = content.get("version") or "a version that it doesn't name"
    return f"converted from format 1, of Letta {version}: {', '.join(counted)}"


def _list(entry: Entry, key: str) -> list[Any]:
    """A list, where `core_memory` may also be an object with one (`memory.blocks`)."""
    value = entry.get(key)
    if isinstance(value, dict):
        value = value.get("blocks", value)
    if isinstance(value, dict):  # by label
        value = [
            {"label": label, **block} for label, block in value.items() if isinstance(block, dict)
        ]
    return value if isinstance(value, list) else []


def _taken(entry: Entry, keys: tuple[str, ...]) -> Entry:
    found = {key: entry.get(key, entry.get(f"{key}_")) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def _block(entry: Any, number: int) -> Any:
    if not isinstance(entry, dict):
        return {"id": f"block-{number}", "value": entry}
    return {**_taken(entry, OF_BLOCK), "id": f"block-{number}"}


def _tool(entry: Any, number: int) -> Any:
    if not isinstance(entry, dict):
        return {"id": f"tool-{number}", "name": entry}
    made = {**_taken(entry, OF_TOOL), "id": f"tool-{number}"}
    if entry.get("metadata_"):
        made["metadata_"] = entry["metadata_"]
    return made


def _message(entry: Any, number: int) -> Any:
    if not isinstance(entry, dict):
        return {"id": f"message-{number}", "content": entry}
    made = {**_taken(entry, OF_MESSAGE), "id": f"message-{number}", "agent_id": "agent-0"}
    if "content" not in made and isinstance(entry.get("text"), str):
        made["content"] = [{"type": "text", "text": entry["text"]}]
    if not made.get("tool_calls"):
        made.pop("tool_calls", None)
    created = entry.get("created_at")
    if isinstance(created, str):
        # Written as UTC without saying so; the database wants to be told.
        made["created_at"] = f"{created}+00:00" if NAIVE.fullmatch(created) else created
    return made


def _rule(rule: Any) -> Any:
    if not isinstance(rule, dict):
        return rule
    kind = rule.get("type")
    return {**rule, "type": RULES.get(kind, kind) if isinstance(kind, str) else kind}


def _window(content: Entry, count: int, source: str) -> list[str]:
    window = []
    for place, number in enumerate(_list(content, "in_context_message_indices")):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
            path = where(("in_context_message_indices", place))
            raise broken(source, f"can't be converted: {path} is {number!r}, of {count} messages")
        window.append(f"message-{number}")
    return window


def _secret_names(content: Entry) -> Iterator[tuple[str, str]]:
    """The names, with their values where the file has some: old files have them blanked."""
    given = content.get("tool_exec_environment_variables")
    if isinstance(given, dict):
        yield from ((name, str(value or "")) for name, value in given.items())
    for variable in given if isinstance(given, list) else ():
        if isinstance(variable, dict) and isinstance(variable.get("key"), str):
            yield variable["key"], str(variable.get("value") or "")


def _lost(content: Entry) -> Iterator[str]:
    """What the file has and format 2 has no place for, where it is more than a date."""
    places: list[tuple[tuple[str | int, ...], Any, tuple[str, ...]]] = [
        ((), content, (*OF_AGENT, "core_memory", "tools", "messages", "in_context_message_indices",
                       "tool_rules", "tool_exec_environment_variables")),
    ]  # fmt: skip
    lists = {"core_memory": OF_BLOCK, "tools": OF_TOOL, "messages": OF_MESSAGE}
    for key, kept in lists.items():
        places += [((key, number), entry, kept) for number, entry in enumerate(_list(content, key))]
    for path, entry, kept in places:
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if value and key not in kept and key not in WITHOUT_A_PLACE:
                yield f"{where((*path, key))} has no place in format 2: it is left out"
