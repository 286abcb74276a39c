"""What a server says through its API of the data that it was given, against what is in the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString
from urllib.parse import urlencode

from backups.verdicts import FAILED, PASSED, UNVERIFIED, CheckResult
from healthchecks.facts import agents_by_api, request
from infra.database.facts import PGVECTOR, Pgvector
from infra.stack.deployment import Deployment

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

AGENTS, MESSAGES, ARCHIVAL = "agents", "messages", "archival"
PAGE = 200  # the server refuses more
HISTORY = 50  # messages of the page that is compared
SECONDS = 120.0
# Whoever asks the server without saying who they are (`DEFAULT_ORG_ID` in its constants).
ORGANIZATION = "org-00000000-0000-4000-8000-000000000000"
# Which field of a message of the API holds the text, by its type. What tools return is left out: the
# server writes it in Python's words, the database holds JSON.
TEXTS = {
    "system_message": "content",
    "user_message": "content",
    "assistant_message": "content",
    "reasoning_message": "reasoning",
}
OWN_AGENTS: LiteralString = "FROM {agents} WHERE NOT is_deleted AND organization_id = %s"
LIKE = "%_\\"  # what a search by words would take for a pattern


@dataclass(frozen=True)
class Served:
    """A server, and a connection to its database that may read all of it."""

    server: Deployment
    link: psycopg.Connection[Any]
    schema: str

    def rows(self, query: LiteralString, *values: Any, **more: sql.Composable) -> list[Any]:
        """Run a query in which `{name}` stands for that table of Letta, or for what is `more`."""
        from psycopg import sql

        names = ("agents", "messages", "archival_passages", "archives_agents")
        tables = {name: sql.Identifier(self.schema, name) for name in names}
        return self.link.execute(sql.SQL(query).format(**tables, **more), values).fetchall()

    def get(self, path: str, **query: Any) -> Any:
        return request(self.server, f"{path}?{urlencode(query)}", timeout=SECONDS)


def judge_agents(served: Served) -> CheckResult:
    """Page by page, the API lists every agent that is in the database, and no other."""
    wanted = {row[0] for row in served.rows(f"SELECT id {OWN_AGENTS}", ORGANIZATION)}
    found = {str(agent["id"]) for agent in _every_agent(served)}
    if found != wanted:
        missing, more = len(wanted - found), len(found - wanted)
        summary = f"the API lacks {missing} agents of the database, and has {more} that it lacks"
        return CheckResult(AGENTS, FAILED, summary)
    others = served.rows(
        "SELECT count(*) FROM {agents} WHERE NOT is_deleted AND organization_id <> %s", ORGANIZATION
    )[0][0]
    elsewhere = f"; {others} of other organizations, which it lists to them" if others else ""
    return CheckResult(AGENTS, PASSED, f"the API lists all {len(found)}{elsewhere}")


def judge_count(served: Served) -> CheckResult:
    """The API counts as many agents as are in the database, also while others make and delete some."""

    def rows() -> int:
        return int(served.rows(f"SELECT count(*) {OWN_AGENTS}", ORGANIZATION)[0][0])

    before, found, after = rows(), agents_by_api(served.server), rows()
    if not min(before, after) <= found <= max(before, after):
        return CheckResult(AGENTS, FAILED, f"the API counts {found} agents, the database {after}")
    return CheckResult(AGENTS, PASSED, f"the API counts all {found}")


def judge_messages(served: Served) -> CheckResult:
    """A page of the history of whoever wrote last, texts included."""
    newest = served.rows(
        "SELECT m.agent_id FROM {messages} m JOIN {agents} a ON a.id = m.agent_id"
        " WHERE NOT m.is_deleted AND NOT a.is_deleted AND a.organization_id = %s"
        " ORDER BY m.created_at DESC LIMIT 1",
        ORGANIZATION,
    )
    if not newest:
        return _nothing(served, MESSAGES, "messages", "no message of an agent that the API lists")
    (agent,) = newest[0]
    rows = served.rows(
        "SELECT id, role, content, tool_calls, tool_returns FROM {messages}"
        " WHERE agent_id = %s AND NOT is_deleted ORDER BY sequence_id DESC LIMIT %s",
        agent,
        HISTORY,
    )
    page = served.get(f"/v1/agents/{agent}/messages", limit=HISTORY, order="desc")
    problem = compare_history(rows, page)
    if problem:
        return CheckResult(MESSAGES, FAILED, f"the history of {agent}: {problem}")
    return CheckResult(
        MESSAGES, PASSED, f"the last {len(rows)} messages of {agent} are as in the database"
    )


def compare_history(rows: list[Any], page: list[dict[str, Any]]) -> str | None:
    """Say how a page of the API differs from the rows (id, role, JSON ...) that it was made from.

    One row may be several messages of the API, and a result of a tool may be part of another.
    """
    texts = {row[0]: "\n".join(_texts(list(row[2:]))) for row in rows}
    shown = {str(message["id"]) for message in page}
    if foreign := shown - texts.keys():
        return f"{len(foreign)} messages are not in the database"
    must = {row[0] for row in rows if row[1] in ("system", "user")}
    if lacking := must - shown:
        return f"{len(lacking)} messages are not in the API's answer"
    if not shown:
        return "the API's answer is empty"
    for message in page:
        said = message.get(TEXTS.get(str(message["message_type"]), ""))
        for text in _texts(said):
            if text.strip() not in texts[message["id"]]:
                return f"{message['id']} has another text"
    return None


def judge_archival(served: Served) -> CheckResult:
    """A passage is found by its words through the API, and by its vector in the database."""
    some = served.rows(
        "SELECT x.agent_id, p.id, p.archive_id, p.text, p.embedding IS NOT NULL"
        " FROM {archival_passages} p JOIN {archives_agents} x ON x.archive_id = p.archive_id"
        " JOIN {agents} a ON a.id = x.agent_id"
        " WHERE NOT p.is_deleted AND NOT a.is_deleted AND a.organization_id = %s"
        " ORDER BY p.created_at DESC LIMIT 1",
        ORGANIZATION,
    )
    if not some:
        return _nothing(served, ARCHIVAL, "archival_passages", "no passage of an agent")
    agent, passage, archive, text, has_vector = some[0]
    words = _words(text)
    path = f"/v1/agents/{agent}/archival-memory"
    found = served.get(path, search=words, limit=PAGE, ascending="false")
    if not any(each["id"] == passage and each["text"] == text for each in found):
        return CheckResult(
            ARCHIVAL, FAILED, f"a search for {passage} by its words does not find it"
        )
    if not has_vector:
        return CheckResult(ARCHIVAL, PASSED, f"{passage} was found by its words; it has no vector")
    nearest = served.rows(
        "SELECT n.id, n.embedding OPERATOR({home}.=) p.embedding"
        " FROM {archival_passages} n, {archival_passages} p"
        " WHERE p.id = %s AND n.archive_id = %s AND n.embedding IS NOT NULL"
        " ORDER BY n.embedding OPERATOR({home}.<->) p.embedding, n.id = p.id DESC LIMIT 1",
        passage,
        archive,
        home=_extension(served),
    )
    if not nearest or not nearest[0][1]:
        return CheckResult(
            ARCHIVAL, FAILED, f"a search for the vector of {passage} does not find it"
        )
    return CheckResult(ARCHIVAL, PASSED, "a passage was found by its words and by its vector")


def _extension(served: Served) -> sql.Identifier:
    """The schema of pgvector, and so of its operators, wherever it was put."""
    from psycopg import sql

    return sql.Identifier(Pgvector(*served.rows(PGVECTOR)[0]).schema)


def _every_agent(served: Served) -> Iterator[dict[str, Any]]:
    after: dict[str, str] = {}
    while True:
        page = served.get(
            "/v1/agents/", limit=PAGE, order="asc", show_hidden_agents="true", **after
        )
        yield from page
        if len(page) < PAGE:
            return
        after = {"after": str(page[-1]["id"])}


def _nothing(served: Served, name: str, table: str, what: str) -> CheckResult:
    """There is nothing to look at: fine where the backup holds nothing, else unknown."""
    from psycopg import sql

    if (
        served.rows("SELECT count(*) FROM {table}", table=sql.Identifier(served.schema, table))[0][
            0
        ]
        == 0
    ):
        return CheckResult(name, PASSED, "there are none in the backup")
    return CheckResult(name, UNVERIFIED, f"the backup holds {what}")


def _words(text: str) -> str:
    """A piece of `text` that can be searched for as it is."""
    pieces = [text]
    for letter in LIKE:
        pieces = [part for piece in pieces for part in piece.split(letter)]
    return max(pieces, key=len)[:60]


def _texts(value: Any) -> Iterator[str]:
    """Every text below `value`; Letta packs JSON into texts, so that is looked into as well."""
    if isinstance(value, str):
        yield value
        if value[:1] in ("{", "["):
            try:
                inner = json.loads(value)
            except ValueError:
                return
            yield from _texts(inner)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
