"""Agent files for tests: small, whole, and of both formats."""

from __future__ import annotations

import json
from typing import Any

Content = dict[str, Any]


def whole(**of_agent: Any) -> Content:
    """A file of format 2 with one agent, which a release's own judge has nothing against."""
    messages = [
        {"id": "message-0", "role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {"id": "message-1", "role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"id": "message-2", "role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
    ]
    agent = {
        "id": "agent-0", "name": "Ada", "system": "Be kind.", "agent_type": "letta_v1_agent",
        "tool_ids": ["tool-0"], "block_ids": ["block-0"], "tool_rules": [], "messages": messages,
        "in_context_message_ids": [each["id"] for each in messages],
        "include_base_tools": False, **of_agent,
    }  # fmt: skip
    tool = {"id": "tool-0", "name": "look", "tool_type": "custom", "source_code": "def look(): ...",
            "source_type": "python", "json_schema": {"name": "look"}}  # fmt: skip
    return {
        "agents": [agent], "groups": [], "files": [], "sources": [], "mcp_servers": [],
        "blocks": [{"id": "block-0", "label": "human", "value": "Likes tea.", "limit": 100}],
        "tools": [tool],
    }  # fmt: skip


def format_1(**more: Any) -> Content:
    """A file as 0.6.43 to 0.11 wrote it."""
    return {
        "agent_type": "memgpt_agent", "name": "Ada", "system": "Be kind.", "version": "0.6.47",
        "core_memory": [{"label": "human", "value": "Likes tea.", "limit": 100, "metadata_": {"a": 1}}],
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}],
             "created_at": "2025-04-01T03:47:27.492924", "tool_calls": [], "tool_returns": []},
            {"role": "user", "text": "Hello", "created_at": "2025-04-01T03:47:28"},
        ],
        "in_context_message_indices": [0, 1],
        "tools": [{"name": "look", "source_code": "def look(): ...", "tool_type": "custom",
                   "json_schema": {"name": "look"}, "created_at": "2025-04-01T03:41:54"}],
        "tool_rules": [{"tool_name": "look", "type": "TerminalToolRule"}],
        "tool_exec_environment_variables": [{"key": "TOKEN", "value": "", "description": None}],
        "tags": ["mine"], "metadata_": {"from": "a test"}, **more,
    }  # fmt: skip


def encoded(content: Any) -> bytes:
    return json.dumps(content).encode()
