"""Agents of V1 out of a database of it: the live one, or a throw-away one."""

from __future__ import annotations

import json
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.archives.agents import find_agents
from backups.archives.closure import Model
from backups.archives.memory import Memories
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.ciphertext import decrypted, looks_encrypted
from ops_cli.exit.git_memory import unpacked
from ops_cli.exit.v1 import Agent, Conversation, File, Passage, without_secrets

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

PAGE = 500
NOTHING = "SELECT '' WHERE false"
# JSON of V1's columns may hold what `jsonb` refuses: so rows come as text, and Python reads them. All
# that is small comes by one question: with a thousand agents, asking would take most of the time.
SMALL = {
    "agent": "SELECT row_to_json(x) FROM {agents} x WHERE x.id = %(agent)s",
    "tags": "SELECT to_json(x.tag) FROM {agents_tags} x WHERE x.agent_id = %(agent)s ORDER BY x.tag",
    "blocks": "SELECT json_build_object('row', row_to_json(x), 'label', l.block_label, 'shared',"
    " ARRAY(SELECT o.agent_id FROM {blocks_agents} o WHERE o.block_id = x.id"
    " AND o.agent_id <> %(agent)s ORDER BY 1)) FROM {block} x"
    " JOIN {blocks_agents} l ON l.block_id = x.id WHERE l.agent_id = %(agent)s"
    " ORDER BY l.block_label, x.id",
    "blocks of conversations": "SELECT json_build_object('row', row_to_json(x), 'label',"
    " l.block_label, 'conversation', l.conversation_id) FROM {block} x"
    " JOIN {blocks_conversations} l ON l.block_id = x.id"
    " JOIN {conversations} c ON c.id = l.conversation_id WHERE c.agent_id = %(agent)s"
    " ORDER BY l.conversation_id, l.block_label, x.id",
    "conversations": "SELECT json_build_object('row', row_to_json(x), 'window', ARRAY("
    "SELECT m.message_id FROM {conversation_messages} m WHERE m.conversation_id = x.id"
    " AND m.in_context ORDER BY m.position)) FROM {conversations} x WHERE x.agent_id = %(agent)s"
    " ORDER BY x.created_at, x.id",
    "tools": "SELECT row_to_json(x) FROM {tools} x JOIN {tools_agents} l ON l.tool_id = x.id"
    " WHERE l.agent_id = %(agent)s ORDER BY x.name, x.id",
    "secrets": "SELECT to_json(x.key) FROM {agent_environment_variables} x"
    " WHERE x.agent_id = %(agent)s ORDER BY x.key",
}
MESSAGES = """
SELECT row_to_json(m)::text FROM {messages} m WHERE m.agent_id = %(agent)s{only}
ORDER BY m.sequence_id
"""
# A vector as Postgres sends it is the quickest to read: as text it takes a hundred times as long.
PASSAGES = """
SELECT p.id, p.text, to_json(p.created_at)::text, p.tags::text, a.name, p.metadata_::text,
  p.embedding_config ->> 'embedding_dim', {send}(p.embedding), p.is_deleted
FROM {archival_passages} p JOIN {archives_agents} l ON l.archive_id = p.archive_id
JOIN {archives} a ON a.id = p.archive_id
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
SECRETS = """
SELECT x.key, x.value, x.value_enc FROM {agent_environment_variables} x WHERE x.agent_id = %(agent)s
ORDER BY x.key
"""
# What the successor has no place for, by the table it is of.
OTHER = {
    "identities": "SELECT row_to_json(x) FROM {identities} x JOIN {identities_agents} l"
    " ON l.identity_id = x.id WHERE l.agent_id = %(agent)s ORDER BY x.id",
    "groups": "SELECT row_to_json(x) FROM {groups} x WHERE x.manager_agent_id = %(agent)s OR x.id"
    " IN (SELECT l.group_id FROM {groups_agents} l WHERE l.agent_id = %(agent)s) ORDER BY x.id",
    "mcp_server": "SELECT DISTINCT ON (x.id) row_to_json(x) FROM {mcp_server} x"
    " JOIN {tools} t ON t.metadata_::jsonb -> 'mcp' ->> 'server_id' = x.id"
    " JOIN {tools_agents} l ON l.tool_id = t.id WHERE l.agent_id = %(agent)s ORDER BY x.id",
    "sources": "SELECT row_to_json(x) FROM {sources} x JOIN {sources_agents} l"
    " ON l.source_id = x.id WHERE l.agent_id = %(agent)s ORDER BY x.id",
    "archives": "SELECT row_to_json(x) FROM {archives} x JOIN {archives_agents} l"
    " ON l.archive_id = x.id WHERE l.agent_id = %(agent)s ORDER BY x.id",
}
COUNTS = {
    "messages": "SELECT count(*) FROM {messages} m WHERE m.agent_id = %(agent)s",
    "passages": "SELECT count(*) FROM {archival_passages} p JOIN {archives_agents} l"
    " ON l.archive_id = p.archive_id WHERE l.agent_id = %(agent)s",
    "files": "SELECT count(*) FROM {files} f WHERE f.id IN (SELECT o.file_id FROM {files_agents} o"
    " WHERE o.agent_id = %(agent)s) OR f.source_id IN (SELECT o.source_id FROM {sources_agents} o"
    " WHERE o.agent_id = %(agent)s)",
    "last change": "SELECT coalesce(extract(epoch FROM max(x.at)) * 1000000, 0)::bigint FROM ("
    "SELECT max(m.updated_at) AS at FROM {messages} m WHERE m.agent_id = %(agent)s UNION ALL"
    " SELECT max(p.updated_at) FROM {archival_passages} p JOIN {archives_agents} l"
    " ON l.archive_id = p.archive_id WHERE l.agent_id = %(agent)s) x",
    "steps": "SELECT count(*) FROM {steps} s WHERE s.agent_id = %(agent)s",
    "history of blocks": "SELECT count(*) FROM {block_history} h JOIN {blocks_agents} l"
    " ON l.block_id = h.block_id WHERE l.agent_id = %(agent)s",
}


class DatabaseSource:
    """Agents of a database at the revision of the newest release, in the transaction of `link`."""

    def __init__(
        self, name: str, link: psycopg.Connection[Any], model: Model, memories: Memories,
        key: Sensitive | None,
    ) -> None:  # fmt: skip
        self.name, self._key = name, key
        self._link, self._model, self._memories = link, model, memories
        row = link.execute("SELECT extnamespace::regnamespace::text FROM pg_extension"
                           " WHERE extname = 'vector'").fetchone()  # fmt: skip
        self._pgvector = row[0] if row else "public"
        self._question: sql.Composed | None = None
        self._queries: dict[str, sql.Composed | None] = {}

    def agents(self, wanted: Sequence[str] | None) -> Sequence[str]:
        return find_agents(self._link, self._model, wanted)

    def agent(self, identifier: str) -> Agent:
        found = self._small(identifier)
        (row,) = found["agent"]
        blocks = [
            {**without_secrets(each["row"], keep=("value",)), "label": each["label"],
             "shared_with": each["shared"]}
            for each in found["blocks"]
        ] + [
            {**without_secrets(each["row"], keep=("value",)), "label": each["label"], "shared_with": [],
             "conversation_id": each["conversation"]}
            for each in found["blocks of conversations"]
        ]  # fmt: skip
        return Agent(
            row=without_secrets(row),
            tags=tuple(found["tags"]),
            blocks=tuple(block for block in blocks if not block.get("is_deleted")),
            conversations=(
                Conversation(None, {}, tuple(row.get("message_ids") or ())),
                *(
                    Conversation(each["row"]["id"], each["row"], tuple(each["window"]))
                    for each in found["conversations"]
                    if not each["row"].get("is_deleted")
                ),
            ),
            tools=tuple(map(without_secrets, found["tools"])),
            counts=found["counts"],
            other={
                table: rows for table in OTHER if (rows := list(map(without_secrets, found[table])))
            },
            secrets=tuple(found["secrets"]),
        )

    def _small(self, identifier: str) -> dict[str, Any]:
        """All that is small of an agent: lists of rows by what they are, and `counts`."""
        from psycopg import sql

        if self._question is None:
            arrays = [
                sql.SQL("ARRAY({})::text[]").format(
                    self._named(query) or sql.SQL("SELECT '' WHERE false")
                )
                for query in (*SMALL.values(), *OTHER.values())
            ]
            counts = [
                sql.SQL("({})").format(self._named(query) or sql.SQL("SELECT 0"))
                for query in COUNTS.values()
            ]
            self._question = sql.SQL("SELECT {}").format(sql.SQL(", ").join([*arrays, *counts]))
        values = {"agent": identifier}
        row = self._link.execute(self._question, values, prepare=True).fetchone() or ()
        names = (*SMALL, *OTHER)
        return {
            **{name: [json.loads(each) for each in texts]
               for name, texts in zip(names, row, strict=False)},
            "counts": dict(zip(COUNTS, row[len(names):], strict=True)),
        }  # fmt: skip

    def messages(self, agent: Agent, conversation: Conversation) -> Iterator[Mapping[str, Any]]:
        only = ""
        if "conversation_id" in self._model.names("messages"):
            only = " AND m.conversation_id IS NOT DISTINCT FROM %(conversation)s"
        values = {"agent": agent.id, "conversation": conversation.id}
        count = agent.counts["messages"]
        for (text,) in self._streamed(MESSAGES.replace("{only}", only), values, count):
            row = json.loads(text)
            if not row.get("is_deleted"):
                yield row

    def passages(self, agent: Agent) -> Iterator[Passage]:
        for *fields, deleted in self._streamed(
            PASSAGES, {"agent": agent.id}, agent.counts["passages"], binary=True
        ):
            if not deleted:
                yield _passage(*fields)

    def files(self, agent: Agent) -> Iterator[File]:
        for identifier, name, source, text in self._streamed(
            FILES, {"agent": agent.id}, agent.counts["files"]
        ):
            yield File(identifier, name, source, text or "")

    def secret_values(self, agent: Agent, key: Sensitive | None) -> Mapping[str, Sensitive]:
        found: dict[str, Sensitive] = {}
        for name, plain, sealed in self._streamed(SECRETS, {"agent": agent.id}, len(agent.secrets)):
            value = Sensitive(plain) if plain is not None and not sealed else None
            if sealed and not looks_encrypted(sealed):
                value = Sensitive(sealed)  # of a server that has no key
            elif sealed and (opening := key or self._key) is not None:
                value = decrypted(opening, sealed)
            if value is None:
                raise LettaOpsError(
                    "secret-unreadable",
                    f"the secret {name} of {agent.id} is encrypted with a key that is not at hand",
                    "give the LETTA_ENCRYPTION_KEY of its server by --secrets-key, or go without"
                    " --with-secrets",
                )
            found[name] = value
        return found

    @contextmanager
    def git_memory(self, agent: Agent) -> Iterator[Path | None]:
        if agent.id not in self._memories.of:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="letta-ops-exit-") as folder:
            yield unpacked(self._memories, agent.id, Path(folder))

    def _streamed(
        self, query: str, values: Mapping[str, Any], count: int, *, binary: bool = False
    ) -> Iterator[Any]:
        """The rows of a query; where there may be many, a page at a time from the server."""
        named = self._named(query)
        if named is None or not count:
            return
        if count <= PAGE:
            yield from self._link.execute(named, values, prepare=True, binary=binary)
            return
        with self._link.cursor("letta_ops_exit") as cursor:
            cursor.itersize = PAGE
            cursor.execute(named, values, binary=binary)
            yield from cursor

    def _named(self, query: str) -> sql.Composed | None:
        """The query with the tables of the schema; None where this release has no such table."""
        from psycopg import sql

        if query not in self._queries:
            tables = {table: self._model.table(table) for table in self._model.columns}
            send = sql.SQL("{}.vector_send").format(sql.Identifier(self._pgvector))
            try:
                self._queries[query] = sql.SQL(query).format(send=send, **tables)
            except KeyError:
                self._queries[query] = None
        return self._queries[query]


def _passage(
    identifier: str, text: str | None, created: str | None, tags: str | None, archive: str,
    metadata: str | None, dimensions: str | None, sent: bytes | None,
) -> Passage:  # fmt: skip
    return Passage(
        id=identifier,
        text=text or "",
        created_at=json.loads(created or "null") or "",
        tags=tuple(json.loads(tags or "[]") or ()),
        archive=archive,
        metadata=json.loads(metadata or "{}") or {},
        vector=None if sent is None else _vector(bytes(sent), dimensions),
    )


def _vector(sent: bytes, dimensions: str | None) -> array[float]:
    """Its numbers, without those that V1 adds to make all of them alike. `sent` is pgvector's binary
    form: two numbers of 16 bits, the first says how many there are, then floats, big-endian."""
    numbers = sent[4:]
    if dimensions is not None and dimensions.isdigit():
        end = 4 * int(dimensions)
        if not numbers[end:].strip(b"\0"):
            numbers = numbers[:end]
    found = array("f", numbers)
    if sys.byteorder == "little":
        found.byteswap()
    return found
