"""A database like that of a deployment in use: agents, messages and passages, always the same ones.

One agent, some messages and a passage are made by the server itself; the rest are copies of these
rows with other ids and other content, so that they are valid for whatever release made them.
"""

# ruff: noqa: S608  # SQL is put together from what stands here

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.api import authorized_http
from infra.stack.deployment import Deployment
from infra.targets import host
from tests.live.seeding import configurations

if TYPE_CHECKING:
    import httpx
    import psycopg

AGENTS, MESSAGES, PASSAGES = 1_000, 200_000, 40_000
WORDS = 4_000
SENTENCES = 300_000  # 24 MB of them: much more than what a compressor remembers
EMBEDDED, PADDED = 1_536, 4_096  # numbers of an embedding, and of its column
IN_CONTEXT = 20  # messages of an agent
SEED = 0.5  # of Postgres' random()
AGENT: dict[str, Any] = {
    "name": "template",
    "model": "openai-proxy/fake",
    "embedding": "openai/text-embedding-3-small",
    "memory_blocks": [
        {"label": "human", "value": "Likes to be told things twice."},
        {"label": "persona", "value": "Says things twice."},
    ],
}

PREPARATION = f"""
CREATE FUNCTION pg_temp.id(kind text, n bigint) RETURNS text LANGUAGE sql IMMUTABLE
  -- Of version 4: the server refuses others.
  RETURN kind || '-' || overlay(overlay(md5(kind || n) PLACING '4' FROM 13) PLACING '8' FROM 17)::uuid;

CREATE FUNCTION pg_temp.block(label text, n bigint) RETURNS text LANGUAGE sql IMMUTABLE
  RETURN replace(pg_temp.id(label, n), label || '-', 'block-');

CREATE TEMP TABLE word AS SELECT n, (SELECT string_agg(
    substr('bcdfghklmnprstvw', 1 + floor(random() * 16)::int, 1)
    || substr('aeiouaeioy', 1 + floor(random() * 10)::int, 1), '')
  FROM generate_series(1, 1 + floor(random() * 4 + n * 0)::int)) AS text
FROM generate_series(0, {WORDS} - 1) AS n;

-- Few words are frequent and most are rare, as in every language.
CREATE TEMP TABLE sentence AS
SELECT picked.n, initcap(min(word.text)) || ' ' || string_agg(word.text, ' ') || '.' AS text
FROM (SELECT n / 11 AS n, floor({WORDS} * power(random(), 3))::int AS word
  FROM generate_series(0, {SENTENCES} * 11 - 1) AS n) AS picked
JOIN word ON word.n = picked.word GROUP BY picked.n;
ANALYZE word;
ANALYZE sentence;
"""

# `written` has a number and a text of 8 to 25 sentences, about 600 to 2,000 characters.
WRITTEN = f"""
WITH wanted AS MATERIALIZED (
  SELECT n, 8 + floor(random() * 18)::int AS size FROM generate_series(0, %(count)s - 1) AS n
), picked AS MATERIALIZED (
  SELECT n, floor({SENTENCES} * random())::int AS sentence
  FROM wanted, generate_series(1, wanted.size)
), written AS MATERIALIZED (
  SELECT picked.n, string_agg(sentence.text, ' ') AS text
  FROM picked JOIN sentence ON sentence.n = picked.sentence GROUP BY picked.n
)"""
# Made row by row, since `{}` is of the row: all at once would need more memory than a container has.
EMBEDDING = f"""(SELECT (array_agg(((random() - 0.5) / 12)::real)
    || array_fill(0::real, ARRAY[{PADDED - EMBEDDED}]))::vector
  FROM generate_series(1, {EMBEDDED}) AS number WHERE md5({{}}::text) <> '')"""

EACH_AGENT = "generate_series(0, %(agents)s - 1) AS n"
OWN_ARCHIVE = "(SELECT archive_id FROM archives_agents WHERE agent_id = %(agent)s)"
OWN_BLOCKS = "(SELECT block_id FROM blocks_agents WHERE agent_id = %(agent)s)"
# The first message of an agent is the system's; then user and assistant take turns.
ROLE = """CASE WHEN n < %(agents)s THEN 'system'
  WHEN (n / %(agents)s) %% 2 = 1 THEN 'user' ELSE 'assistant' END"""

MESSAGES_IN_CONTEXT = f"""
UPDATE agents SET message_ids = known.ids FROM (
  SELECT agent_id, json_agg(id ORDER BY sequence_id) AS ids
  FROM (SELECT id, agent_id, sequence_id, role,
      row_number() OVER (PARTITION BY agent_id ORDER BY sequence_id DESC) AS back FROM messages) AS m
  WHERE back <= {IN_CONTEXT} OR role = 'system' GROUP BY agent_id) AS known
WHERE known.agent_id = agents.id AND agents.id <> %(agent)s
"""
OTHER_PASSAGES = f"""
UPDATE archival_passages AS p SET text = left(md5(p.id || %(seed)s) || ' ' || p.text, 600),
  embedding = {EMBEDDING.format("p.id")}
WHERE id IN (SELECT id FROM archival_passages ORDER BY md5(id || %(seed)s) LIMIT %(count)s)
"""
OTHER_MESSAGES = """
UPDATE messages SET updated_at = now(), content = json_build_array(json_build_object(
  'type', 'text', 'text', md5(id || %(seed)s) || ' ' || (content -> 0 ->> 'text')))
WHERE id IN (SELECT id FROM messages ORDER BY md5(id || %(seed)s) LIMIT %(count)s)
"""


def seed(deployment: Deployment, scale: float = 1.0) -> float:
    """Fill the database of a new deployment; return how many seconds it took.

    At scale 1 it holds more than 1 GB: 1,000 agents, 200,000 messages and 40,000 passages.
    """
    started = time.monotonic()
    agents = round(AGENTS * scale)
    with authorized_http(deployment) as client:
        given: dict[str, Any] = {"agents": agents, "agent": _template(client)}
    with _database(deployment) as link:
        with link.transaction():
            _fill(link, given, scale)
        _settle(link)
    return time.monotonic() - started


def change(deployment: Deployment, share: float, number: int) -> None:
    """Give a `share` of messages and passages, scattered over their tables, other content.

    Another `number` chooses others.
    """
    with _database(deployment) as link:
        change_in(link, share, number)


def change_in(link: psycopg.Connection[Any], share: float, number: int) -> None:
    """Like `change`, in the database at `link`."""
    with link.transaction():
        link.execute("SELECT setseed(%s)", [number / 1000])
        for table, statement in (
            ("archival_passages", OTHER_PASSAGES),
            ("messages", OTHER_MESSAGES),
        ):
            row = link.execute(f"SELECT count(*) FROM {table}").fetchone()
            count = round(share * (row[0] if row else 0))
            link.execute(statement, {"seed": str(number), "count": count})
    _settle(link)


def _fill(link: psycopg.Connection[Any], given: Mapping[str, Any], scale: float) -> None:
    link.execute("SET LOCAL work_mem = '64MB'")
    link.execute("SELECT setseed(%s)", [SEED])
    link.execute(PREPARATION)
    _copy_agents(link, given)
    _copy_messages(link, {**given, "count": round(MESSAGES * scale)})
    _copy_passages(link, {**given, "count": round(PASSAGES * scale)})


def _settle(link: psycopg.Connection[Any]) -> None:
    """Leave Postgres nothing to do in the background."""
    link.execute("VACUUM (ANALYZE)")
    link.execute("CHECKPOINT")


def _template(client: httpx.Client) -> str:
    """Have the server make an agent, a message of each role and a passage; return the agent's id."""
    made = client.post("/v1/agents/", json=AGENT)
    if made.is_error:  # of a release that refuses handles of models which it lists
        models = client.get("/v1/models/").raise_for_status().json()
        model = next(each for each in models if each.get("handle") == AGENT["model"])
        body = {name: AGENT[name] for name in AGENT if name not in ("model", "embedding")}
        made = client.post("/v1/agents/", json={**body, **configurations(model)})
    made.raise_for_status()
    agent = str(made.json()["id"])
    for path, body in (
        ("messages", {"messages": [{"role": "user", "content": "hello"}]}),
        ("archival-memory", {"text": "A passage."}),
    ):
        client.post(f"/v1/agents/{agent}/{path}", json=body).raise_for_status()
    return agent


def _copy_agents(link: psycopg.Connection[Any], given: Mapping[str, Any]) -> None:
    of_agent = "agent_id = %(agent)s"
    agent, archive = "pg_temp.id('agent', n)", "pg_temp.id('archive', n)"
    for table, values, chosen in (
        (
            "agents",
            {"id": agent, "name": "'agent ' || n", "created_at": "now() - n * interval '1 min'"},
            "id = %(agent)s",
        ),
        ("archives", {"id": archive, "name": "'archive ' || n"}, f"id IN {OWN_ARCHIVE}"),
        ("archives_agents", {"agent_id": agent, "archive_id": archive}, of_agent),
        ("block", {"id": "pg_temp.block(t.label, n)"}, f"id IN {OWN_BLOCKS}"),
        (
            "blocks_agents",
            {"agent_id": agent, "block_id": "pg_temp.block(t.block_label, n)"},
            of_agent,
        ),
    ):
        source = f"(SELECT * FROM {table} WHERE {chosen}) AS t, {EACH_AGENT}"
        _copy(link, table, values, source, given)


def _copy_messages(link: psycopg.Connection[Any], given: Mapping[str, Any]) -> None:
    values = {
        "id": "pg_temp.id('message', n)",
        "agent_id": "pg_temp.id('agent', n %% %(agents)s)",
        "sequence_id": "nextval('message_seq_id')",
        "step_id": "NULL",
        "run_id": "NULL",
        "otid": "md5('otid' || n)::uuid",
        "created_at": "now() - (%(count)s - n) * interval '1 second'",
        "content": "json_build_array(json_build_object('type', 'text', 'text', w.text))",
    }
    each_role = "SELECT DISTINCT ON (role) * FROM messages WHERE agent_id = %(agent)s"
    source = f"(SELECT * FROM written ORDER BY n) AS w JOIN ({each_role}) AS t ON t.role = {ROLE}"
    _copy(link, "messages", values, source, given, before=WRITTEN)
    link.execute(MESSAGES_IN_CONTEXT, given)


def _copy_passages(link: psycopg.Connection[Any], given: Mapping[str, Any]) -> None:
    values = {
        "id": "pg_temp.id('passage', n)",
        "archive_id": "pg_temp.id('archive', n %% %(agents)s)",
        "text": "left(w.text, 600)",
        "embedding": EMBEDDING.format("w.n"),
        "created_at": "now() - (%(count)s - n) * interval '1 second'",
    }
    template = f"SELECT * FROM archival_passages WHERE archive_id IN {OWN_ARCHIVE}"
    source = f"(SELECT * FROM written ORDER BY n) AS w CROSS JOIN ({template}) AS t"
    _copy(link, "archival_passages", values, source, given, before=WRITTEN)


def _copy(
    link: psycopg.Connection[Any],
    table: str,
    values: Mapping[str, str],
    source: str,
    given: Mapping[str, Any],
    *,
    before: str = "",
) -> None:
    """Insert rows of `source` into `table`: `values` are SQL, other columns are those of its `t`."""
    columns = link.execute(
        "SELECT quote_ident(attname) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [table],
    )
    names = [str(name) for (name,) in columns]
    chosen = ", ".join(values.get(name, f"t.{name}") for name in names)
    link.execute(
        f"{before} INSERT INTO {table} ({', '.join(names)}) SELECT {chosen} FROM {source}",
        given,
    )


@contextmanager
def _database(deployment: Deployment) -> Iterator[psycopg.Connection[Any]]:
    assert deployment.database is not None
    with (
        host(deployment).administrator() as access,
        access.connect(deployment.database.name) as link,
    ):
        yield link
