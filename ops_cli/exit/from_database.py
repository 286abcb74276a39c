"""Agents of V1 out of a database of it: the live one, or a throw-away one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.archives.agents import find_agents
from backups.archives.closure import Model
from backups.archives.memory import Memories
from ops_cli.exit.git_memory import unpacked
from ops_cli.exit.v1 import Agent, Conversation, File, Passage

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

PAGE = 500
# JSON of V1's columns may hold what `jsonb` refuses: so rows come as text, and Python reads them.
AGENT = "SELECT row_to_json(a)::text FROM {agents} a WHERE a.id = %(agent)s"
TAGS = "SELECT t.tag FROM {agents_tags} t WHERE t.agent_id = %(agent)s ORDER BY t.tag"
BLOCKS = """
SELECT row_to_json(b)::text, l.block_label, ARRAY(SELECT o.agent_id FROM {blocks_agents} o
  WHERE o.block_id = b.id AND o.agent_id <> %(agent)s ORDER BY 1)
FROM {block} b JOIN {blocks_agents} l ON l.block_id = b.id WHERE l.agent_id = %(agent)s
ORDER BY l.block_label, b.id
"""
OF_CONVERSATIONS = """
SELECT row_to_json(b)::text, l.block_label, l.conversation_id FROM {block} b
JOIN {blocks_conversations} l ON l.block_id = b.id JOIN {conversations} c ON c.id = l.conversation_id
WHERE c.agent_id = %(agent)s ORDER BY l.conversation_id, l.block_label, b.id
"""
CONVERSATIONS = """
SELECT row_to_json(c)::text, ARRAY(SELECT m.message_id FROM {conversation_messages} m
  WHERE m.conversation_id = c.id AND m.in_context ORDER BY m.position)
FROM {conversations} c WHERE c.agent_id = %(agent)s ORDER BY c.created_at, c.id
"""
TOOLS = """
SELECT row_to_json(t)::text FROM {tools} t JOIN {tools_agents} l ON l.tool_id = t.id
WHERE l.agent_id = %(agent)s ORDER BY t.name, t.id
"""
MESSAGES = """
SELECT row_to_json(m)::text FROM {messages} m WHERE m.agent_id = %(agent)s{only}
ORDER BY m.sequence_id
"""
PASSAGES = """
SELECT row_to_json(p)::text, a.name FROM {archival_passages} p
JOIN {archives_agents} l ON l.archive_id = p.archive_id JOIN {archives} a ON a.id = p.archive_id
WHERE l.agent_id = %(agent)s ORDER BY p.created_at, p.id
"""
FILES = """
SELECT f.id, coalesce(f.original_file_name, f.file_name, f.id), s.name, c.text
FROM {files} f JOIN {sources} s ON s.id = f.source_id
JOIN {file_contents} c ON c.file_id = f.id
WHERE f.id IN (SELECT o.file_id FROM {files_agents} o WHERE o.agent_id = %(agent)s)
OR f.source_id IN (SELECT o.source_id FROM {sources_agents} o WHERE o.agent_id = %(agent)s)
ORDER BY s.name, 2, f.id
"""
SECRETS = (
    "SELECT e.key FROM {agent_environment_variables} e WHERE e.agent_id = %(agent)s ORDER BY 1"
)
# What the successor has no place for, by the table it is of.
OTHER = {
    "identities": "SELECT row_to_json(x)::text FROM {identities} x JOIN {identities_agents} l"
    " ON l.identity_id = x.id WHERE l.agent_id = %(agent)s ORDER BY x.id",
    "groups": "SELECT row_to_json(x)::text FROM {groups} x WHERE x.manager_agent_id = %(agent)s OR x.id"
    " IN (SELECT l.group_id FROM {groups_agents} l WHERE l.agent_id = %(agent)s) ORDER BY x.id",
    "mcp_server": "SELECT DISTINCT ON (x.id) row_to_json(x)::text FROM {mcp_server} x"
    " JOIN {tools} t ON t.metadata_::jsonb -> 'mcp' ->> 'server_id' = x.id"
    " JOIN {tools_agents} l ON l.tool_id = t.id WHERE l.agent_id = %(agent)s ORDER BY x.id",
    "sources": "SELECT row_to_json(x)::text FROM {sources} x JOIN {sources_agents} l"
    " ON l.source_id = x.id WHERE l.agent_id = %(agent)s ORDER BY x.id",
    "archives": "SELECT row_to_json(x)::text FROM {archives} x JOIN {archives_agents} l"
    " ON l.archive_id = x.id WHERE l.agent_id = %(agent)s ORDER BY x.id",
}
COUNTS = {
    "messages": "SELECT count(*) FROM {messages} m WHERE m.agent_id = %(agent)s",
    "passages": "SELECT count(*) FROM {archival_passages} p JOIN {archives_agents} l"
    " ON l.archive_id = p.archive_id WHERE l.agent_id = %(agent)s",
    "files": "SELECT count(*) FROM {files} f WHERE f.id IN (SELECT o.file_id FROM {files_agents} o"
    " WHERE o.agent_id = %(agent)s) OR f.source_id IN (SELECT o.source_id FROM {sources_agents} o"
    " WHERE o.agent_id = %(agent)s)",
    "steps": "SELECT count(*) FROM {steps} s WHERE s.agent_id = %(agent)s",
    "history of blocks": "SELECT count(*) FROM {block_history} h JOIN {blocks_agents} l"
    " ON l.block_id = h.block_id WHERE l.agent_id = %(agent)s",
}
# Columns of other tables that may hold one, beside those that end in `_enc`.
SECRET = ("token", "custom_headers", "stdio_config", "value", "api_key", "access_key")


class DatabaseSource:
    """Agents of a database at the revision of the newest release, in the transaction of `link`."""

    def __init__(
        self, name: str, link: psycopg.Connection[Any], model: Model, memories: Memories
    ) -> None:
        self.name = name
        self._link, self._model, self._memories = link, model, memories
        self._queries: dict[str, sql.Composed | None] = {}

    def agents(self, wanted: Sequence[str] | None) -> Sequence[str]:
        return find_agents(self._link, self._model, wanted)

    def agent(self, identifier: str) -> Agent:
        values = {"agent": identifier}
        ((text,),) = self._rows(AGENT, values)
        row = json.loads(text)
        blocks = [
            {**_shown(json.loads(block), keep=("value",)), "label": label, "shared_with": others}
            for block, label, others in self._rows(BLOCKS, values)
        ]
        blocks += [
            {**_shown(json.loads(block), keep=("value",)), "label": label, "shared_with": [],
             "conversation_id": conversation}
            for block, label, conversation in self._rows(OF_CONVERSATIONS, values)
        ]  # fmt: skip
        return Agent(
            row=_shown(row),
            tags=tuple(tag for (tag,) in self._rows(TAGS, values)),
            blocks=tuple(block for block in blocks if not block.get("is_deleted")),
            conversations=(
                Conversation(None, {}, tuple(row.get("message_ids") or ())),
                *(
                    Conversation(found["id"], found, tuple(window))
                    for each, window in self._rows(CONVERSATIONS, values)
                    if not (found := json.loads(each)).get("is_deleted")
                ),
            ),
            tools=tuple(_shown(json.loads(tool)) for (tool,) in self._rows(TOOLS, values)),
            counts={
                name: int(rows[0][0])
                for name, query in COUNTS.items()
                if (rows := self._rows(query, values))
            },
            other={
                table: found
                for table, query in OTHER.items()
                if (found := [_shown(json.loads(each)) for (each,) in self._rows(query, values)])
            },
            secrets=tuple(key for (key,) in self._rows(SECRETS, values)),
        )  # fmt: skip

    def messages(self, agent: Agent, conversation: Conversation) -> Iterator[Mapping[str, Any]]:
        only = ""
        if "conversation_id" in self._model.names("messages"):
            only = " AND m.conversation_id IS NOT DISTINCT FROM %(conversation)s"
        values = {"agent": agent.id, "conversation": conversation.id}
        for (text,) in self._streamed(MESSAGES.replace("{only}", only), values):
            row = json.loads(text)
            if not row.get("is_deleted"):
                yield row

    def passages(self, agent: Agent) -> Iterator[Passage]:
        for text, archive in self._streamed(PASSAGES, {"agent": agent.id}):
            row = json.loads(text)
            if not row.get("is_deleted"):
                yield _passage(row, archive)

    def files(self, agent: Agent) -> Iterator[File]:
        for identifier, name, source, text in self._streamed(FILES, {"agent": agent.id}):
            yield File(identifier, name, source, text or "")

    @contextmanager
    def git_memory(self, agent: Agent) -> Iterator[Path | None]:
        if agent.id not in self._memories.of:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="letta-ops-exit-") as folder:
            yield unpacked(self._memories, agent.id, Path(folder))

    def _rows(self, query: str, values: Mapping[str, Any]) -> list[Any]:
        named = self._named(query)
        return [] if named is None else self._link.execute(named, values, prepare=True).fetchall()

    def _streamed(self, query: str, values: Mapping[str, Any]) -> Iterator[Any]:
        named = self._named(query)
        if named is None:
            return
        with self._link.cursor("letta_ops_exit") as cursor:  # on the server, a page at a time
            cursor.itersize = PAGE
            cursor.execute(named, values)
            yield from cursor

    def _named(self, query: str) -> sql.Composed | None:
        """The query with the tables of the schema; None where this release has no such table."""
        from psycopg import sql

        if query not in self._queries:
            tables = {table: self._model.table(table) for table in self._model.columns}
            try:
                self._queries[query] = sql.SQL(query).format(**tables)
            except KeyError:
                self._queries[query] = None
        return self._queries[query]


def _shown(row: dict[str, Any], keep: Sequence[str] = ()) -> dict[str, Any]:
    """A row without what may be a secret, and without what is empty."""
    return {
        key: value
        for key, value in row.items()
        if value not in (None, [], {})
        and not key.endswith("_enc")
        and (key not in SECRET or key in keep)
    }


def _passage(row: Mapping[str, Any], archive: str) -> Passage:
    vector = row.get("embedding")
    numbers = tuple(json.loads(vector)) if isinstance(vector, str) else None
    dimensions = (row.get("embedding_config") or {}).get("embedding_dim")
    if numbers and isinstance(dimensions, int) and not any(numbers[dimensions:]):
        numbers = numbers[:dimensions]
    return Passage(
        id=row["id"],
        text=row.get("text") or "",
        created_at=row.get("created_at") or "",
        tags=tuple(row.get("tags") or ()),
        archive=archive,
        metadata=row.get("metadata_") or {},
        vector=numbers,
    )
