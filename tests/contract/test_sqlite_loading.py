"""Rows of SQLite into a real Postgres: what it refuses is found before, and all is compared."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.database.administration import DatabaseAccess
from ops_cli.migrations.sqlite.loading import Loaded, load

NAIVE = dt.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  # as in its column
MOMENT = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
THERE = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE SEQUENCE numbers;
CREATE TABLE organizations (id varchar PRIMARY KEY);
CREATE TABLE agents (id varchar PRIMARY KEY, name varchar(20), hidden boolean, "order" int,
  config json, more jsonb, mood mood, score float, at timestamptz NOT NULL DEFAULT now(), naive timestamp,
  organization_id varchar REFERENCES organizations (id), UNIQUE (organization_id, name));
CREATE TABLE messages (id varchar PRIMARY KEY, text varchar, created_at timestamptz,
  sequence_id bigint NOT NULL DEFAULT nextval('numbers'),
  agent_id varchar NOT NULL REFERENCES agents (id));
CREATE TABLE tags (agent_id varchar NOT NULL REFERENCES agents (id) ON DELETE CASCADE, tag varchar);
CREATE TABLE passages (id varchar PRIMARY KEY, embedding vector(4096));
CREATE TABLE alembic_version (version_num varchar);
INSERT INTO alembic_version VALUES ('head');
INSERT INTO organizations VALUES ('made by a migration');
"""
IN_FILE = """
CREATE TABLE organizations (id VARCHAR);
CREATE TABLE agents (id VARCHAR, name VARCHAR, hidden BOOLEAN, "order" INTEGER, config JSON, more JSON,
  mood VARCHAR, score FLOAT, at DATETIME, naive DATETIME, organization_id VARCHAR);
CREATE TABLE messages (id VARCHAR, text VARCHAR, created_at DATETIME, sequence_id BIGINT,
  agent_id VARCHAR);
CREATE TABLE tags (agent_id VARCHAR, tag VARCHAR);
CREATE TABLE passages (id VARCHAR, embedding BINARY);
CREATE TABLE message_sequence (id INTEGER, next_val INTEGER);
INSERT INTO message_sequence VALUES (1, 9);
INSERT INTO organizations VALUES ('org-1');
INSERT INTO agents VALUES ('agent-1', 'Zoë 東京', 0, 7, '{"a":  [1, "x\\ny"]}', '{"b": 1, "a": 2}',
  'good', 0.1, '2026-01-02 03:04:05.678900', '2026-01-02 03:04:05', 'org-1');
INSERT INTO agents VALUES ('agent-2', 'tab\tand \\ and \\N', NULL, NULL, 'null', NULL, NULL, NULL,
  'now()',
  '2026-01-02T03:04:05+02:00', NULL);
INSERT INTO tags VALUES ('agent-1', 'a'), ('agent-1', 'a'), ('agent-2', '');
"""


@contextmanager
def database(postgres: DatabaseAccess) -> Iterator[psycopg.Connection]:
    with postgres.connect("postgres") as link:
        link.execute("DROP DATABASE IF EXISTS loaded WITH (FORCE)")
        link.execute("CREATE DATABASE loaded")
    with postgres.connect("loaded") as link:
        link.execute("CREATE EXTENSION vector")
        link.execute(THERE)
        yield link


@contextmanager
def file(tmp_path: Path, change: str = "") -> Iterator[sqlite3.Connection]:
    link = sqlite3.connect(tmp_path / "sqlite.db")
    link.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    link.executescript(IN_FILE)
    link.executemany(
        "INSERT INTO messages VALUES (?, ?, ?, ?, 'agent-1')",
        [(f"message-{n}", f"text {n}", "2026-01-01 00:00:00", n) for n in range(1, 1500)],
    )
    vectors = [[n / 7 + each / 3 for each in range(4096 if n else 1536)] for n in range(3)]
    link.executemany(
        "INSERT INTO passages VALUES (?, ?)",
        [(f"p-{n}", struct.pack(f"<{len(each)}f", *each)) for n, each in enumerate(vectors)],
    )
    link.executescript(change)
    link.commit()
    yield link
    link.close()


def loaded(
    postgres: DatabaseAccess, tmp_path: Path, change: str, *, mend: bool = False
) -> tuple[Loaded, list[list[tuple[Any, ...]]]]:
    """What was found, and the rows of agents, messages and tags afterwards."""
    with file(tmp_path, change) as source, database(postgres) as link:
        found = load(source, link, "public", MOMENT, print, mend=mend)
        rows = [
            link.execute(f"TABLE {table} ORDER BY 1").fetchall()
            for table in ("agents", "messages", "tags")
        ]
    return found, rows


def test_what_postgres_takes_comes_along_as_it_is(postgres: DatabaseAccess, tmp_path: Path) -> None:
    with file(tmp_path) as source, database(postgres) as link:
        found = load(source, link, "public", MOMENT, print, mend=False)
        assert found.problems == []
        assert found.rows == {
            "agents": 2, "messages": 1499, "organizations": 1, "passages": 3, "tags": 3,
        }  # fmt: skip
        link.execute("SET TIME ZONE 'UTC'")
        one, two = link.execute('SELECT *, config::text AS "text" FROM agents ORDER BY id')
        assert one == (
            "agent-1", "Zoë 東京", False, 7, {"a": [1, "x\ny"]}, {"a": 2, "b": 1}, "good", 0.1,
            dt.datetime(2026, 1, 2, 3, 4, 5, 678900, dt.UTC), NAIVE,
            "org-1", '{"a":  [1, "x\\ny"]}',
        )  # fmt: skip
        assert two[1] == "tab\tand \\ and \\N"
        assert (two[8], two[9]) == (MOMENT, NAIVE - dt.timedelta(hours=2))
        assert link.execute("SELECT nextval('numbers')").fetchone() == (1500,)
        assert link.execute("SELECT id FROM organizations").fetchall() == [("org-1",)]
        assert link.execute("SELECT version_num FROM alembic_version").fetchall() == [("head",)]
        vectors = link.execute("SELECT embedding::real[] FROM passages ORDER BY id").fetchall()
        short = [struct.unpack("f", struct.pack("f", each / 3))[0] for each in range(1536)]
        assert list(vectors[0][0]) == pytest.approx(short + [0.0] * 2560, rel=1e-6)
        schemas = link.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'letta_ops%'")
        assert schemas.fetchone() == (0,)


NUL = "UPDATE messages SET text = 'a' || char(0) || 'b' WHERE id = 'message-1'"
LATIN = "UPDATE messages SET text = CAST(x'c3a961e9' AS TEXT) WHERE id = 'message-1'"
# What is wrong, where it is told, with which words, and whether --mend can do something.
WRONG = [
    (NUL, "messages.text of message-1", "has a NUL character", True),
    (LATIN, "messages.text of message-1", "is no UTF-8", True),
    ("UPDATE agents SET config = '{\"a\": \"x\\u0000\"}' WHERE id = 'agent-1'",
     "agents.config of agent-1", "has a NUL character", True),
    ("UPDATE agents SET config = '{' WHERE id = 'agent-1'", "agents.config", "is no JSON", False),
    ("UPDATE agents SET config = '[NaN]' WHERE id = 'agent-1'", "agents.config", "JSON with NaN", False),
    ("UPDATE agents SET hidden = 2 WHERE id = 'agent-1'", "agents.hidden", "neither true nor", False),
    ("UPDATE agents SET name = 'abcdefghijklmnopqrstuvwxyz' WHERE id = 'agent-1'",
     "agents.name", "has 26 characters, of 20", False),
    ("UPDATE agents SET at = 'yesterday' WHERE id = 'agent-1'", "agents.at", "no date", False),
    ("UPDATE agents SET at = 1767322800 WHERE id = 'agent-1'", "agents.at", "no date", True),
    ("UPDATE agents SET mood = 'odd' WHERE id = 'agent-1'", "agents.mood", "none of good, bad", False),
    ('UPDATE agents SET "order" = 3000000000 WHERE id = \'agent-1\'', "agents.order", "too large", False),
    ("UPDATE agents SET at = NULL WHERE id = 'agent-2'", "agents.at of agent-2", "must have one", True),
    ("UPDATE agents SET organization_id = 'org-9' WHERE id = 'agent-1'",
     "agents.organization_id of agent-1", "points at org-9 of organizations", True),
    ("UPDATE messages SET agent_id = 'agent-9' WHERE id = 'message-1'",
     "messages.agent_id of message-1", "points at agent-9 of agents", True),
    ("INSERT INTO agents SELECT * FROM agents WHERE id = 'agent-1'", "agents", "is there twice", True),
    ("UPDATE passages SET embedding = x'0102' WHERE id = 'p-1'", "passages.embedding", "2 bytes", False),
    ("UPDATE passages SET embedding = x'0000c07f' WHERE id = 'p-1'", "passages.embedding", "none", False),
    ("CREATE TABLE mine (x); INSERT INTO mine VALUES (1)", "mine", "no table for", True),
    ("ALTER TABLE agents ADD COLUMN mine; UPDATE agents SET mine = 'x'", "agents.mine", "2 values", True),
    ("ALTER TABLE messages DROP COLUMN agent_id", "messages.agent_id", "release before", False),
]  # fmt: skip


@pytest.mark.parametrize(("change", "where", "words", "can"), WRONG)
def test_what_postgres_refuses_is_told_before_anything_is_loaded(
    postgres: DatabaseAccess, tmp_path: Path, change: str, where: str, words: str, can: bool
) -> None:
    found, rows = loaded(postgres, tmp_path, change)
    assert [each for each in found.problems if str(each).startswith(where) and words in str(each)]
    assert all(each.mend is None for each in found.problems)
    assert rows == [[], [], []]
    (tmp_path / "sqlite.db").unlink()
    found, rows = loaded(postgres, tmp_path, change, mend=True)
    assert (found.refused == []) is can
    assert bool(rows[1]) is can


def test_a_mended_value_keeps_what_can_be_kept(postgres: DatabaseAccess, tmp_path: Path) -> None:
    found, (_, messages, _) = loaded(postgres, tmp_path, NUL, mend=True)
    assert dict(row[:2] for row in messages)["message-1"] == "a\ufffdb"
    assert found.left_out == []
    assert found.replaced == [
        {"table": "messages", "row": 1, "column": "text", "was": "a\0b"},
    ]  # fmt: skip
    assert "a\ufffdb" not in str(found.problems[0])  # it may be a secret
    assert found.rows["messages"] == 1499


def test_what_is_no_utf8_is_kept_as_it_was(postgres: DatabaseAccess, tmp_path: Path) -> None:
    found, _ = loaded(postgres, tmp_path, LATIN, mend=True)
    assert [each["was"] for each in found.replaced] == [{"hex": "c3a961e9"}]


def test_a_row_that_cannot_come_takes_along_what_hangs_on_it(
    postgres: DatabaseAccess, tmp_path: Path
) -> None:
    change = "UPDATE agents SET at = NULL WHERE id = 'agent-1'"
    found, (agents, messages, tags) = loaded(postgres, tmp_path, change, mend=True)
    assert [row[0] for row in agents] == ["agent-2"]
    assert (messages, tags) == ([], [("agent-2", "")])
    assert len(found.left_out) == 1 + 1499 + 2
    written = json.loads(json.dumps(found.left_out))
    assert {"table": "tags", "agent_id": "agent-1", "tag": "a"} in written
    assert found.rows["messages"] == 0
