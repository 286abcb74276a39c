"""An agent as it is in the database: asked there, so that a server that is down keeps nothing back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from backups.archives.agents import agents_in, find_agents
from infra.stack.deployment import Deployment

if TYPE_CHECKING:
    import psycopg

    from backups.archives.closure import Model

# What is counted of an agent: a name, a table, and how its rows are found.
BY_AGENT = "t.agent_id = %(agent)s"
COUNTED = (
    ("messages", "messages", BY_AGENT),
    ("conversations", "conversations", BY_AGENT),
    ("runs", "runs", BY_AGENT),
    ("files", "files_agents", BY_AGENT),
    ("secrets", "agent_environment_variables", BY_AGENT),
    ("identities", "identities_agents", BY_AGENT),
    ("groups", "groups", "t.manager_agent_id = %(agent)s"),
    (
        "passages",
        "archival_passages",
        "t.archive_id IN (SELECT archive_id FROM {archives_agents} WHERE agent_id = %(agent)s)",
    ),
)
BLOCKS = """
SELECT b.label, b.value, b."limit", b.description, b.read_only FROM {block} b
JOIN {blocks_agents} l ON l.block_id = b.id WHERE l.agent_id = %(agent)s ORDER BY b.label
"""
TOOLS = """
SELECT t.name FROM {tools} t JOIN {tools_agents} l ON l.tool_id = t.id
WHERE l.agent_id = %(agent)s ORDER BY 1
"""
TAGS = "SELECT tag FROM {agents_tags} WHERE agent_id = %(agent)s ORDER BY 1"
ROLES = "SELECT role, count(*) FROM {messages} WHERE agent_id = %(agent)s GROUP BY 1"
LAST = "SELECT max(created_at) FROM {messages} WHERE agent_id = %(agent)s"
CONTEXT = """
SELECT m.role, count(*), sum(length(coalesce(m.content::text, m.text, ''))) FROM {messages} m
WHERE m.id IN (SELECT json_array_elements_text(a.message_ids) FROM {agents} a WHERE a.id = %(agent)s)
GROUP BY 1 ORDER BY 1
"""
# Older releases have no conversations: a column that isn't there is asked for by its name.
MESSAGES = """
SELECT m.id, m.role, m.created_at, c.id, m.content, m.text, m.tool_calls, m.tool_returns, m.is_err
FROM {messages} m, LATERAL (SELECT to_jsonb(m) ->> 'conversation_id') c(id)
WHERE m.agent_id = %(agent)s AND m.created_at >= %(since)s
AND (%(conversation)s::text IS NULL OR c.id = %(conversation)s)
ORDER BY m.sequence_id
"""
# What a model is told of tools, besides the messages.
TOLD_OF_TOOLS = """
SELECT coalesce(sum(length(t.json_schema::text)), 0) FROM {tools} t
JOIN {tools_agents} l ON l.tool_id = t.id WHERE l.agent_id = %(agent)s
"""
PAGE = 200
# As tokens of English text go: nobody knows better without the model's own tokenizer.
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class StoredMessage:
    """One message; `text` is what of its content is text, `calls` are the names of the tools it calls."""

    id: str
    role: str
    created: str  # ISO 8601
    conversation: str | None
    text: str
    calls: tuple[str, ...]
    error: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def show(deployment: Deployment, wanted: str) -> dict[str, Any]:
    """What there is to know of an agent (id, or name that one has).

    Raises LettaOpsError: `agent-unknown`, `agent-ambiguous`, `no-database`, and those of the database.
    """
    return next(iter(show_all(deployment, [wanted])))


def show_all(deployment: Deployment, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The same of several, out of one snapshot."""
    with agents_in(deployment) as (link, model):
        for agent in find_agents(link, model, wanted):
            yield _shown(_Asked(link, model, agent), agent)


def _shown(asked: _Asked, agent: str) -> dict[str, Any]:
    ((row,),) = asked.rows("SELECT to_jsonb(a) FROM {agents} a WHERE a.id = %(agent)s")
    config = row.get("llm_config") or {}
    ((last,),) = asked.rows(LAST)
    ((told_of_tools,),) = asked.rows(TOLD_OF_TOOLS)
    system = len(row.get("system") or "")
    roles = {role: (count, int(size or 0)) for role, count, size in asked.rows(CONTEXT)}
    blocks = asked.rows(BLOCKS)
    in_blocks = sum(len(block[1] or "") for block in blocks)
    parts = {
        "system": system,
        "blocks": in_blocks,
        # The first message repeats both.
        "messages": sum(size for role, (_, size) in roles.items() if role != "system"),
        "tools": int(told_of_tools),
    }
    return {
        "id": agent,
        "name": row.get("name"),
        "type": row.get("agent_type"),
        "description": row.get("description"),
        "model": config.get("handle") or config.get("model"),
        "embedding": (row.get("embedding_config") or {}).get("handle"),
        "created": row.get("created_at"),
        "last_message": None if last is None else last.isoformat(),
        "last_stop_reason": row.get("last_stop_reason"),
        "system": row.get("system"),
        "context": {
            "limit_tokens": config.get("context_window"),
            "messages": len(row.get("message_ids") or []),
            "system_characters": system,
            "by_role": {
                role: {"messages": count, "characters": size}
                for role, (count, size) in roles.items()
            },
            "tokens": {part: size // CHARACTERS_A_TOKEN for part, size in parts.items()},
            "tokens_estimated": True,
        },
        "blocks": [
            {
                "label": label,
                "characters": len(value or ""),
                "limit": limit,
                "read_only": read_only,
                "description": description,
                "value": value,
            }
            for label, value, limit, description, read_only in blocks
        ],
        "tools": [name for (name,) in asked.rows(TOOLS)],
        "tags": [tag for (tag,) in asked.rows(TAGS)],
        "tool_rules": row.get("tool_rules") or [],
        "link": asked.link(),
        "messages_by_role": dict(asked.rows(ROLES)),
        "counts": {
            name: count
            for name, table, condition in COUNTED
            if (count := asked.count(table, condition)) is not None
        },
    }


def messages(
    deployment: Deployment,
    wanted: str,
    since: dt.datetime | None = None,
    conversation: str | None = None,
) -> Iterator[StoredMessage]:
    """Yield an agent's messages of all conversations, the oldest first; raises like `show`."""
    with agents_in(deployment) as (link, model):
        (agent,) = find_agents(link, model, [wanted])
        since = since or dt.datetime.min.replace(tzinfo=dt.UTC)
        with link.cursor("letta_ops_messages") as cursor:  # on the server, a page at a time
            cursor.itersize = PAGE
            cursor.execute(
                _named(model, MESSAGES),
                {"agent": agent, "since": since, "conversation": conversation},
            )
            for row in cursor:
                yield _message(row)


def _message(row: Any) -> StoredMessage:
    identifier, role, created, conversation, content, text, calls, returns, failed = row
    parts = [text] if text and not content else []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            parts += [str(part[key]) for key in ("text", "reasoning") if part.get(key)]
    for each in returns if isinstance(returns, list) and not parts else ():
        if isinstance(each, dict) and each.get("func_response"):
            parts.append(str(each["func_response"]))
    named = [
        str((each.get("function") or {}).get("name"))
        for each in (calls if isinstance(calls, list) else ())
        if isinstance(each, dict)
    ]
    return StoredMessage(
        identifier, role, created.isoformat(), conversation, "\n".join(parts), tuple(named), bool(failed)
    )  # fmt: skip


class _Asked:
    """Questions about one agent; a table that this release doesn't have answers nothing."""

    def __init__(self, link: psycopg.Connection[Any], model: Model, agent: str) -> None:
        self._link, self._model, self._agent = link, model, agent

    def rows(self, query: str) -> list[Any]:
        return self._link.execute(_named(self._model, query), {"agent": self._agent}).fetchall()

    def link(self) -> dict[str, str] | None:
        """Whose agent it is, as the registry says."""
        from letta_ops.registry.carrying import has_registry
        from letta_ops.registry.errors import RegistryUnavailable

        query = "SELECT app, app_agent_id FROM letta_ops.registry_links WHERE letta_agent_id = %(agent)s"
        try:
            found = self.rows(query) if has_registry(self._link) else []
        except RegistryUnavailable:  # of an application's own making
            found = []
        return {"app": found[0][0], "app_agent_id": found[0][1]} if found else None

    def count(self, table: str, condition: str) -> int | None:
        if table not in self._model.columns:
            return None
        ((count,),) = self.rows(f"SELECT count(*) FROM {{{table}}} t WHERE {condition}")  # noqa: S608
        return int(count)


def _named(model: Model, query: str) -> Any:
    """A query whose {tables} are those of the schema."""
    from psycopg import sql

    return sql.SQL(query).format(**{table: model.table(table) for table in model.columns})
