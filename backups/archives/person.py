"""All that belongs to one person (an identity of Letta), across agents: found, written down, erased.

Hers are: agents that are tied to her and to no other person, with all that is theirs; blocks that are
tied to her alone, with their history; and of every other agent the messages that she sent. Those rows
are marked in temporary tables, so that what is listed, exported and erased is the same.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from backups.archives.closure import ROOT, Model, with_members
from backups.archives.removing import delete_marked, make_marks, mark, mark_of, marked
from backups.archives.restore import live
from backups.archives.write import with_git_memory
from backups.sources.memory_files import MemoryPlace, reachable
from infra.api import api
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

IDENTITIES, BLOCKS, MESSAGES = "identities", "block", "messages"
TRACES = ("provider_traces", "provider_trace_metadata")  # what was sent to models, by `agent_id`
# Nobody reads them: a person's copy does not have them, nor what is encrypted.
UNREADABLE = ("vector", "halfvec", "bytea")
ENCRYPTED = "_enc"
ROWS_AT_ONCE = 500

ALONE = "NOT EXISTS (SELECT FROM {0} o WHERE o.{1} = l.{1} AND o.identity_id <> l.identity_id)"
AGENTS = f"""
SELECT a.id, coalesce(a.name, ''), bool_or(l.agent_id IS NOT NULL AND {ALONE}), (
  SELECT count(*) FROM {{messages}} m WHERE m.agent_id = a.id AND m.sender_id = %(person)s)
FROM {{agents}} a LEFT JOIN {{links}} l ON l.agent_id = a.id AND l.identity_id = %(person)s
WHERE l.agent_id IS NOT NULL
OR a.id IN (SELECT agent_id FROM {{messages}} WHERE sender_id = %(person)s)
GROUP BY a.id, a.name ORDER BY a.id
"""
BLOCKS_OF = f"""
SELECT b.id, b.label, {ALONE} FROM {{block}} b JOIN {{links}} l ON l.block_id = b.id
WHERE l.identity_id = %(person)s ORDER BY b.id
"""
CONVERSING = {"blocks_agents", "conversations", "blocks_conversations"}
# What repeats a block: the system prompts of agents that have it, and of their conversations.
PROMPTS = """
WITH holding AS (SELECT agent_id FROM {blocks_agents} WHERE block_id IN (SELECT id FROM {gone}))
SELECT agent_id, NULL FROM holding UNION
SELECT c.agent_id, c.id FROM {conversations} c WHERE NOT c.is_deleted AND (
  c.agent_id IN (SELECT agent_id FROM holding) OR c.id IN (
    SELECT conversation_id FROM {blocks_conversations} WHERE block_id IN (SELECT id FROM {gone})))
ORDER BY 1, 2 NULLS FIRST
"""
# Of conversations that were deleted, which Letta keeps, nothing is compiled anew.
FORGOTTEN = """
l.role = 'system' AND l.agent_id = ANY({agents})
AND l.conversation_id IN (SELECT id FROM {conversations} WHERE is_deleted)
"""
FORGET = """
UPDATE {agents} a SET message_ids = (SELECT coalesce(json_agg(e.id ORDER BY e.place), '[]')
  FROM json_array_elements_text(a.message_ids) WITH ORDINALITY e(id, place)
  WHERE e.id NOT IN (SELECT id FROM {gone}))
WHERE json_typeof(a.message_ids) = 'array' AND a.id = ANY(%s)
"""


@dataclass(frozen=True)
class OfAgent:
    """`whole`: it is hers, tied to no other person; `sent` counts the messages that she sent it."""

    id: str
    name: str
    whole: bool
    sent: int


@dataclass(frozen=True)
class OfBlock:
    """`whole`: it is tied to no other person, and goes with her."""

    id: str
    label: str
    whole: bool


@dataclass(frozen=True)
class Person:
    """`rows` are those that are hers, by table; `since` is when the first of them was made."""

    id: str
    key: str
    name: str
    since: dt.datetime | None
    agents: tuple[OfAgent, ...]
    blocks: tuple[OfBlock, ...]
    rows: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "since": self.since and self.since.isoformat()}


def erase(deployment: Deployment, wanted: str) -> Person:
    """Erase a person from the live database; return who and what that was.

    First her blocks are emptied, and prompts that repeat them are compiled anew by the server: if that
    ends half-way the person is still known, and doing it again goes on.

    Raises LettaOpsError like `Marked` and `live`, and those of the API where prompts repeat her blocks.
    """
    with live(deployment) as (link, model, _):
        marks = Marked(link, model, wanted)
        if marks.prompts:
            with api(deployment) as client:
                client.health()
                marks.empty_blocks()
                link.execute("COMMIT")
                for agent, conversation in marks.prompts:
                    if conversation is None:
                        client.agents.recompile(agent)
                    else:
                        client.conversations.recompile(conversation)
    with live(deployment) as (link, model, _):
        marks = Marked(link, model, wanted)
        having = with_git_memory(link, model, marks.mine)
        marks.erase()
        if having and reachable(deployment):
            MemoryPlace.of(deployment).remove(having)
        link.execute("COMMIT")
    return marks.person


class Marked:
    """The rows of one person, marked in the transaction of a connection until that ends."""

    def __init__(self, link: psycopg.Connection[Any], model: Model, wanted: str) -> None:
        """Find the person by the id of the identity, or by its key if no other has that.

        Raises LettaOpsError: `person-unknown`, `person-ambiguous`; psycopg.Error.
        """
        self._link, self._model = link, model
        identifier, key, name = self._identity(wanted)
        self._values = {"person": identifier}
        agents = self._agents()
        blocks = self._blocks()
        whole = [each.id for each in agents if each.whole]
        mine = self.mine = with_members(link, model, whole, helpers=True)
        helping = [each for each in mine if each not in {agent.id for agent in agents}]
        agents += [OfAgent(each, self._name(each), True, 0) for each in helping]
        self._told = sorted({*mine, *(each.id for each in agents if each.sent)})
        self._others = [each for each in self._told if each not in mine]
        self._tables = mark(link, model, mine)
        self._mark([each.id for each in blocks if each.whole])
        self.person = Person(
            identifier, key, name, self._since(), tuple(agents), blocks, dict(self._counts())
        )

    def rows(self) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
        """Each table with what of it is hers, but what nobody can read."""
        for table in self.person.rows:
            if table not in TRACES:
                yield table, self._rows_of(table)

    def empty_blocks(self) -> None:
        """Empty the blocks that are marked, with their history. Raises psycopg.Error."""
        from psycopg import sql

        query = sql.SQL(
            "UPDATE {} SET value = '', description = NULL WHERE {} IN (SELECT id FROM {})"
        )
        for table, key in ((BLOCKS, "id"), ("block_history", "block_id")):
            self._link.execute(
                query.format(self._table(table), sql.Identifier(key), marked(BLOCKS))
            )

    def erase(self) -> None:
        """Delete what is marked, and what was sent to models for these agents; the caller commits.

        Raises psycopg.Error.
        """
        from psycopg import sql

        forget = sql.SQL(FORGET).format(agents=self._table(ROOT), gone=marked(MESSAGES))
        self._link.execute(forget, [self._others])
        for table in self._traces():
            self._link.execute(
                sql.SQL("DELETE FROM {} WHERE agent_id = ANY(%s)").format(self._table(table)),
                [self._told],
            )
        delete_marked(self._link, self._model, self._tables)

    def _identity(self, wanted: str) -> tuple[str, str, str]:
        found = self._run(
            "SELECT id, identifier_key, name FROM {} WHERE id = %(word)s OR identifier_key = %(word)s",
            IDENTITIES, values={"word": wanted},
        )  # fmt: skip
        matches = [row for row in found if row[0] == wanted] or found
        if not matches:
            raise LettaOpsError(
                "person-unknown",
                f"there is no identity '{wanted}' in this database",
                "name its id (identity-...), or the key that your application gave it",
            )
        if len(matches) > 1:
            listing = ", ".join(sorted(row[0] for row in matches))
            raise LettaOpsError(
                "person-ambiguous",
                f"{len(matches)} identities have the key '{wanted}': {listing}",
                "name one of them by its id",
            )
        identifier, key, name = matches[0]
        return identifier, key, name

    def _agents(self) -> list[OfAgent]:
        found = self._composed(
            AGENTS, "agent_id", agents=ROOT, messages=MESSAGES, links="identities_agents"
        )
        return [OfAgent(*row) for row in self._link.execute(found, self._values)]

    def _blocks(self) -> tuple[OfBlock, ...]:
        found = self._composed(BLOCKS_OF, "block_id", block=BLOCKS, links="identities_blocks")
        return tuple(OfBlock(*row) for row in self._link.execute(found, self._values))

    def _composed(self, query: str, key: str, **tables: str) -> sql.Composed:
        from psycopg import sql

        named = {name: self._table(table) for name, table in tables.items()}
        return sql.SQL(query).format(named["links"], sql.Identifier(key), **named)

    def _prompts(self) -> list[tuple[str, str | None]]:
        from psycopg import sql

        if not self._model.columns.keys() >= CONVERSING:
            return []
        names = {table: self._table(table) for table in CONVERSING}
        query = sql.SQL(PROMPTS).format(gone=marked(BLOCKS), **names)
        return self._link.execute(query).fetchall()

    def _name(self, agent: str) -> str:
        return str(self._run("SELECT coalesce(name, '') FROM {} WHERE id = %(agent)s", ROOT,
                             values={"agent": agent})[0][0])  # fmt: skip

    def _mark(self, blocks: Sequence[str]) -> None:
        """Mark the identity, her blocks and messages, and the rows that are nothing without them."""
        from psycopg import sql

        person = sql.Literal(self._values["person"])
        rows = sql.SQL("FROM {} WHERE id = {}").format(self._table(IDENTITIES), person)
        make_marks(self._link, self._model, IDENTITIES, rows)
        known = {*self._tables, IDENTITIES}
        self._tables = [table for table in self._model.in_order() if table in known]
        self._add(BLOCKS, sql.SQL("l.id = ANY({})").format(list(blocks)))
        self._add(MESSAGES, sql.SQL("l.sender_id = {}").format(person))
        # Of agents that are not hers: the agent, and one of its conversations or None.
        self.prompts = [each for each in self._prompts() if each[0] not in self.mine]
        if self.prompts:
            told = sql.SQL(FORGOTTEN).format(
                agents=[agent for agent, _ in self.prompts],
                conversations=self._table("conversations"),
            )
            self._add(MESSAGES, told)
        for table in self._tables:
            for link in self._model.of_child(table):
                if link.keyed and not link.nullable and link.parent in self._tables:
                    self._add(
                        table,
                        sql.SQL("({}) IN (SELECT {} FROM {})").format(
                            sql.SQL(", ").join(map(sql.SQL, link.columns)),
                            sql.SQL(", ").join(map(sql.Identifier, link.keys)),
                            marked(link.parent),
                        ),
                    )

    def _add(self, table: str, condition: sql.Composable) -> None:
        from psycopg import sql

        keys = self._model.primary(table)
        self._link.execute(
            sql.SQL(
                "INSERT INTO {0} SELECT {1} FROM {2} l WHERE {3} AND ({4}) NOT IN (SELECT {4} FROM {0})"
            ).format(
                marked(table),
                mark_of(self._model, table),
                self._table(table),
                condition,
                sql.SQL(", ").join(map(sql.Identifier, keys)),
            )
        )

    def _counts(self) -> Iterator[tuple[str, int]]:
        from psycopg import sql

        for table in self._tables:
            row = self._link.execute(
                sql.SQL("SELECT count(*) FROM {}").format(marked(table))
            ).fetchone()
            if row and row[0]:
                yield table, int(row[0])
        for table in self._traces():
            [(count,)] = self._run(
                "SELECT count(*) FROM {} WHERE agent_id = ANY(%(agents)s)", table,
                values={"agents": self._told},
            )  # fmt: skip
            if count:
                yield table, int(count)

    def _since(self) -> dt.datetime | None:
        from psycopg import sql

        moments = []
        for table in (ROOT, BLOCKS, MESSAGES, IDENTITIES):
            query = sql.SQL("SELECT min(created_at) FROM {} WHERE id IN (SELECT id FROM {})")
            row = self._link.execute(query.format(self._table(table), marked(table))).fetchone()
            moments += [row[0]] if row and row[0] else []
        return min(moments, default=None)

    def _rows_of(self, table: str) -> Iterator[dict[str, Any]]:
        from psycopg import sql

        names = [
            column.name
            for column in self._model.columns[table]
            if column.type not in UNREADABLE and not column.name.endswith(ENCRYPTED)
        ]
        keys = sql.SQL(", ").join(map(sql.Identifier, self._model.primary(table)))
        query = sql.SQL(
            "SELECT row_to_json(r) FROM (SELECT {} FROM {} WHERE ({}) IN (SELECT {} FROM {})) r"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, names)),
            self._table(table), keys, keys, marked(table),
        )  # fmt: skip
        with self._link.cursor(f"of {table}") as cursor:
            cursor.itersize = ROWS_AT_ONCE
            for (row,) in cursor.execute(query):
                yield row

    def _traces(self) -> list[str]:
        return [
            table
            for table in TRACES
            if table in self._model.columns and "agent_id" in self._model.names(table)
        ]

    def _table(self, name: str) -> sql.Identifier:
        return self._model.table(name)

    def _run(self, query: str, table: str, *, values: dict[str, Any]) -> list[Any]:
        from psycopg import sql

        return self._link.execute(sql.SQL(query).format(self._table(table)), values).fetchall()
