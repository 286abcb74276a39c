"""All that belongs to one person (an identity of Letta), across agents: found, written down, erased.

Hers are: agents that are tied to her and to no other person, with all that is theirs; blocks that are
tied to her alone, with their history; and of every other agent the messages that she sent. Those rows
are marked in temporary tables, so that what is listed, exported and erased is the same.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from backups.archives.closure import ROOT, Model, with_members
from backups.archives.links import forget
from backups.archives.live import live
from backups.archives.removing import delete_marked, make_marks, mark, mark_of, marked
from backups.archives.write import with_git_memory
from backups.sources.memory_files import MemoryPlace, reachable
from infra.api import api
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment

if TYPE_CHECKING:
    import psycopg
    from letta_client import Letta
    from psycopg import sql

IDENTITIES, BLOCKS, MESSAGES = "identities", "block", "messages"
TRACES = ("provider_traces", "provider_trace_metadata")  # what was sent to models, by `agent_id`
# Nobody reads them: a person's copy does not have them, nor what is encrypted.
UNREADABLE = ("vector", "halfvec", "bytea")
ENCRYPTED = "_enc"
# Where older releases keep secrets in the clear.
SECRET = {
    ("agent_environment_variables", "value"),
    ("mcp_server", "token"),
    ("mcp_server", "custom_headers"),
}
ROWS_AT_ONCE = 500

# An organization is an identity, too, and no other person.
OTHERS = """
SELECT FROM {0} o JOIN {identities} i ON i.id = o.identity_id
WHERE o.{1} = l.{1} AND o.identity_id <> l.identity_id AND i.identity_type <> 'org'
"""
ALONE = f"NOT EXISTS ({OTHERS})"
SENT = "SELECT count(*) FROM {messages} m WHERE m.agent_id = a.id AND "
AGENTS = f"""
SELECT a.id, coalesce(a.name, ''), bool_or(l.agent_id IS NOT NULL AND {ALONE}),
  ({SENT} m.sender_id = %(person)s),
  ({SENT} m.sender_id LIKE 'identity-%%' AND m.sender_id <> %(person)s),
  ({SENT} m.role = 'user' AND m.sender_id IS NULL)
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
HOLDING = """
SELECT agent_id, NULL FROM {blocks_agents} WHERE block_id IN (SELECT id FROM {gone})
"""
TALKING = """
SELECT c.agent_id, c.id FROM {conversations} c WHERE NOT c.is_deleted AND (
  c.agent_id IN (SELECT agent_id FROM {blocks_agents} WHERE block_id IN (SELECT id FROM {gone}))
  OR c.id IN (
    SELECT conversation_id FROM {blocks_conversations} WHERE block_id IN (SELECT id FROM {gone})))
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
    """`whole`: it is hers, tied to no other person, or serves one that is. Messages of users: `sent` by
    her, `of_others` by other identities, `unsigned` by nobody who is named."""

    id: str
    name: str
    whole: bool
    sent: int = 0
    of_others: int = 0
    unsigned: int = 0


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


def erase(deployment: Deployment, wanted: str) -> tuple[Person, list[str]]:
    """Erase a person from the live database; return who and what that was, and what stays.

    First her blocks are emptied, and prompts that repeat them are compiled anew by the server: if that
    ends half-way the person is still known, and doing it again goes on.

    Raises LettaOpsError like `Marked` and `live`, and those of the API where prompts repeat her blocks.
    """
    notes: list[str] = []
    with live(deployment) as (link, model, _):
        marks = Marked(link, model, wanted)
        if marks.prompts:
            with api(deployment) as client:
                client.health()
                marks.empty_blocks()
                link.execute("COMMIT")
                notes += _recompiled(client, marks.prompts)
    with live(deployment) as (link, model, _):
        marks = Marked(link, model, wanted)
        having = with_git_memory(link, model, marks.mine)
        marks.erase()
        if links := forget(link, marks.mine):
            notes.append(f"{links} link(s) of applications to her agents were erased, too")
        if deployment.registry is not None:
            notes.append(
                "the registry is not in the database: see `letta-ops registry list` for her"
            )
        if reachable(deployment):
            MemoryPlace.of(deployment).remove(marks.mine)
        elif having:
            notes.append(f"git memory of {', '.join(having)} can't be reached from here, and stays")
        link.execute("COMMIT")
    return marks.person, notes


def _recompiled(client: Letta, prompts: Sequence[tuple[str, str | None]]) -> Iterator[str]:
    """Have system prompts compiled anew; yield what could not be: where there is none, for instance."""
    from letta_client import BadRequestError, NotFoundError

    for agent, conversation in prompts:
        try:
            if conversation is None:
                client.agents.recompile(agent)
            else:
                client.conversations.recompile(conversation)
        except (BadRequestError, NotFoundError) as error:
            yield (
                f"the system prompt of {conversation or agent} could not be compiled anew, and may"
                f" repeat a block ({error.status_code})"
            )


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
        agents = [replace(agent, whole=agent.id in mine) for agent in agents]
        helping = [each for each in mine if each not in {agent.id for agent in agents}]
        agents += [OfAgent(each, self._name(each), True) for each in helping]
        self._others = [each.id for each in agents if each.id not in mine]
        self._tables = mark(link, model, mine, {BLOCKS: self._of_others()})
        self._mark([each.id for each in blocks if each.whole])
        # Whose requests to models may hold her words.
        self._told = sorted({*mine, *self._others, *(agent for agent, _ in self.prompts)})
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
            query = sql.SQL("DELETE FROM {} WHERE ").format(self._table(table))
            self._link.execute(query + self._of_told(table))
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
        named["identities"] = self._table(IDENTITIES)
        return sql.SQL(query).format(named["links"], sql.Identifier(key), **named)

    def _of_others(self) -> sql.Composable:
        """Blocks that are tied to another person: they stay, whichever agents go."""
        from psycopg import sql

        return sql.SQL(
            "id IN (SELECT l.block_id FROM {links} l JOIN {identities} i ON i.id = l.identity_id"
            " WHERE l.identity_id <> {person} AND i.identity_type <> 'org')"
        ).format(
            links=self._table("identities_blocks"),
            identities=self._table(IDENTITIES),
            person=sql.Literal(self._values["person"]),
        )

    def _prompts(self) -> list[tuple[str, str | None]]:
        from psycopg import sql

        has = self._model.columns.keys()
        parts = [HOLDING, *([TALKING] if {"conversations", "blocks_conversations"} <= has else [])]
        names = {table: self._table(table) for table in CONVERSING & has}
        query = sql.SQL(" UNION ".join(parts) + " ORDER BY 1, 2 NULLS FIRST")
        return self._link.execute(query.format(gone=marked(BLOCKS), **names)).fetchall()

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
        if self.prompts and "conversations" in self._model.columns:
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
            query = sql.SQL("SELECT count(*) FROM {} WHERE ").format(self._table(table))
            row = self._link.execute(query + self._of_told(table)).fetchone()
            if row and row[0]:
                yield table, int(row[0])

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
            if column.type not in UNREADABLE
            and not column.name.endswith(ENCRYPTED)
            and (table, column.name) not in SECRET
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
        return [table for table in TRACES if table in self._model.columns]

    def _of_told(self, table: str) -> sql.Composed:
        """By the agent; older releases wrote down the step only."""
        from psycopg import sql

        agents = sql.Literal(self._told)
        conditions = [
            sql.SQL("step_id IN (SELECT id FROM {} WHERE agent_id = ANY({}))").format(
                self._table("steps"), agents
            )
        ]
        if "agent_id" in self._model.names(table):
            conditions.append(sql.SQL("agent_id = ANY({})").format(agents))
        return sql.SQL("({})").format(sql.SQL(" OR ").join(conditions))

    def _table(self, name: str) -> sql.Identifier:
        return self._model.table(name)

    def _run(self, query: str, table: str, *, values: dict[str, Any]) -> list[Any]:
        from psycopg import sql

        return self._link.execute(sql.SQL(query).format(self._table(table)), values).fetchall()
