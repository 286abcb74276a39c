"""An agent as the API tells it, where the database is not within reach."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from infra.api import api
from infra.stack.deployment import Deployment
from ops_cli.agents.listing import PAGE, find_agent
from ops_cli.agents.stored import StoredMessage


def show(deployment: Deployment, wanted: str) -> dict[str, Any]:
    """What `stored.show` tells, as far as the API does: what it doesn't count is left out.

    Raises LettaOpsError as `find_agent` and `infra.api.api` do.
    """
    with api(deployment) as client:
        found = find_agent(client, wanted)
        state = client.agents.retrieve(
            found.id, include=["agent.blocks", "agent.tools", "agent.tags"]
        ).to_dict(mode="json")
        counts = {
            "messages": len(
                {each.id for each in client.agents.messages.list(found.id, limit=PAGE)}
            ),
            "passages": sum(1 for _ in client.agents.passages.list(found.id, limit=PAGE)),
            "files": sum(1 for _ in client.agents.files.list(found.id, limit=PAGE)),
            "secrets": len(state.get("secrets") or []),  # type: ignore[arg-type]
        }
    config: Any = state.get("llm_config") or {}
    embedding: Any = state.get("embedding_config") or {}
    blocks: Any = state.get("blocks") or (state.get("memory") or {}).get("blocks") or []  # type: ignore[attr-defined]
    tools: Any = state.get("tools") or []
    ids: Any = state.get("message_ids") or []
    system = str(state.get("system") or "")
    return {
        "id": found.id,
        "name": found.name,
        "type": found.type,
        "description": state.get("description"),
        "model": found.model,
        "embedding": embedding.get("handle"),
        "created": found.created,
        "last_message": None,
        "last_stop_reason": state.get("last_stop_reason"),
        "system": system,
        "context": {
            "limit_tokens": config.get("context_window"),
            "messages": len(ids),
            "system_characters": len(system),
            "by_role": {},
        },
        "blocks": [
            {
                "label": block.get("label"),
                "characters": len(block.get("value") or ""),
                "limit": block.get("limit"),
                "read_only": block.get("read_only"),
                "description": block.get("description"),
                "value": block.get("value"),
            }
            for block in blocks
        ],
        "tools": sorted(tool.get("name") or "" for tool in tools),
        "tags": state.get("tags") or [],
        "tool_rules": state.get("tool_rules") or [],
        "counts": counts,
    }


# By part of a context: the server's counts of tokens.
PARTS = {
    "system": ("num_tokens_system",),
    "blocks": ("num_tokens_core_memory",),
    "messages": ("num_tokens_messages", "num_tokens_summary_memory"),
    "tools": ("num_tokens_functions_definitions", "num_tokens_tool_usage_rules"),
    "files": ("num_tokens_directories", "num_tokens_memory_filesystem"),
}


def with_tokens(deployment: Deployment, shown: dict[str, Any]) -> dict[str, Any]:
    """What `show` told, with the tokens of the context as the server counts them."""
    with api(deployment) as client:
        found: Any = client.get(f"/v1/agents/{shown['id']}/context", cast_to=object)
    tokens = {part: sum(int(found.get(key) or 0) for key in keys) for part, keys in PARTS.items()}
    return {**shown, "context": {**shown["context"], "tokens": tokens, "tokens_estimated": False}}


def messages(
    deployment: Deployment,
    wanted: str,
    since: dt.datetime | None = None,
    conversation: str | None = None,
) -> Iterator[StoredMessage]:
    """Yield what `stored.messages` does; the API tells a message with calls in several parts."""
    with api(deployment) as client:
        agent = find_agent(client, wanted)
        found = [conversation] if conversation else [None, *_conversations(client, agent.id)]
        for each in found:
            pages: Any = (
                client.agents.messages.list(agent.id, limit=PAGE, order="asc")
                if each is None
                else client.conversations.messages.list(each, limit=PAGE, order="asc")
            )
            for message in pages:
                told = _message(message.to_dict(mode="json"), each)
                if since is None or dt.datetime.fromisoformat(told.created) >= since:
                    yield told


def _conversations(client: Any, agent: str) -> list[str]:
    return [each.id for each in client.conversations.list(agent_id=agent, limit=PAGE)]


def _message(message: dict[str, Any], conversation: str | None) -> StoredMessage:
    kind = str(message.get("message_type") or "message").removesuffix("_message")
    content = message.get("content") or message.get("reasoning") or message.get("tool_return") or ""
    if isinstance(content, list):
        content = "\n".join(
            str(part.get("text") or "") for part in content if isinstance(part, dict)
        )
    call = message.get("tool_call") or {}
    return StoredMessage(
        str(message.get("id")),
        kind,
        str(message.get("date") or ""),
        conversation,
        str(content),
        (str(call["name"]),) if isinstance(call, dict) and call.get("name") else (),
        message.get("status") == "error",
    )
