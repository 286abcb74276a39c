"""The comparison after a migration, on a real Postgres: what it finds, and what is none of its own."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from infra.database.administration import DatabaseAccess
from ops_cli.migrations.contents import Comparison, Side, compare_contents
from ops_cli.migrations.known_changes import KnownChange

TABLES = """
CREATE TABLE agents (id text PRIMARY KEY, name text, config json, hidden bool, at timestamptz);
CREATE TABLE block (id text PRIMARY KEY, label varchar, value text);
CREATE TABLE blocks_agents (agent_id text, block_id text);
CREATE TABLE alembic_version (version_num varchar);
CREATE TABLE passages (id int PRIMARY KEY, embedding vector(3));
INSERT INTO agents SELECT 'agent-' || n, 'name ' || n, json_build_object('n', n), n % 2 = 0,
  timestamptz '2026-01-01' + n * interval '1 hour' FROM generate_series(1, 200) AS n;
INSERT INTO block SELECT 'block-' || n, 'label', 'value ' || n FROM generate_series(1, 50) AS n;
INSERT INTO block VALUES ('block-null', 'x', NULL), ('block-empty', 'x', '');
INSERT INTO blocks_agents SELECT 'agent-' || n, 'block-' || n % 50 FROM generate_series(1, 200) AS n;
INSERT INTO alembic_version VALUES ('before');
INSERT INTO passages SELECT n, ARRAY[n, n, n]::vector FROM generate_series(1, 20) AS n;
"""

REWRITTEN = """
CREATE TABLE x AS SELECT * FROM block ORDER BY id DESC;
DELETE FROM block; INSERT INTO block SELECT * FROM x; DROP TABLE x
"""
SWAPPED = """
UPDATE block SET value = CASE id WHEN 'block-1' THEN 'value 2' ELSE 'value 1' END
WHERE id IN ('block-1', 'block-2')
"""
REATTACHED = """
UPDATE blocks_agents SET block_id = CASE agent_id WHEN 'agent-1' THEN 'block-2' ELSE 'block-1' END
WHERE agent_id IN ('agent-1', 'agent-2')
"""


@dataclass(frozen=True)
class Pair:
    """Two databases that are equal until a test changes the second."""

    access: DatabaseAccess

    def compare(self, change: str, *known: KnownChange) -> Comparison:
        with self.access.connect("postgres") as link:
            link.execute("DROP DATABASE IF EXISTS after WITH (FORCE)")
            link.execute("CREATE DATABASE after TEMPLATE before")
        with self.access.connect("after") as link:
            link.execute(change)
        with ExitStack() as stack:
            before = [stack.enter_context(self.access.examine("before")) for _ in range(2)]
            after = [stack.enter_context(self.access.examine("after")) for _ in range(2)]
            return compare_contents(Side(before, "public"), Side(after, "public"), known)


@pytest.fixture(scope="module")
def pair(postgres: DatabaseAccess) -> Pair:
    with postgres.connect("postgres") as link:
        link.execute("CREATE DATABASE before")
    with postgres.connect("before") as link:
        link.execute("CREATE EXTENSION vector")
        link.execute(TABLES)
    return Pair(postgres)


@pytest.mark.parametrize(
    "change",
    [
        "SELECT 1",
        "UPDATE alembic_version SET version_num = 'after'",
        "ALTER TABLE agents ADD COLUMN more text DEFAULT 'x'",
        "CREATE TABLE new (id text); INSERT INTO new VALUES ('x')",
        "ALTER TABLE block ALTER COLUMN label TYPE text",
        "ALTER TABLE agents ALTER COLUMN config TYPE jsonb",
        "ALTER TABLE passages ALTER COLUMN id TYPE bigint",
        "CREATE INDEX ON agents (name); ALTER TABLE block ALTER COLUMN label SET NOT NULL",
        # In another order on the disk.
        REWRITTEN,
    ],
)
def test_what_loses_nothing_is_no_difference(pair: Pair, change: str) -> None:
    found = pair.compare(change)
    if "jsonb" in change:  # it is written in other words: told, so that somebody looks at it
        assert [(each.table, each.column) for each in found.differences] == [("agents", "config")]
        return
    assert found.differences == ()
    assert found.tables == 4
    assert found.rows == 200 + 52 + 200 + 20
    assert found.counts == {"agents": 200, "blocks": 52}


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        ("UPDATE block SET value = ''", ("block", "value"), "50 values before, 0 after"),
        ("UPDATE block SET value = NULL WHERE value = ''", ("block", "value"), "is not what it was"),
        ("UPDATE block SET value = '' WHERE value IS NULL", ("block", "value"), "is not"),
        ("UPDATE block SET value = 'Value 7' WHERE id = 'block-7'", ("block", "value"), "is not"),
        ("DELETE FROM agents WHERE id = 'agent-9'", ("agents", None), "200 rows, and has 199"),
        ("INSERT INTO agents VALUES ('agent-new')", ("agents", None), "and has 201"),
        ("DROP TABLE block", ("block", None), "is gone"),
        ("ALTER TABLE block DROP COLUMN value", ("block", "value"), "is gone"),
        ("ALTER TABLE block RENAME COLUMN value TO text", ("block", "value"), "is gone"),
        ("UPDATE passages SET embedding = '[1,1,2]' WHERE id = 1", ("passages", "embedding"), ""),
        ("UPDATE agents SET at = at + interval '1 microsecond' WHERE id = 'agent-1'",
         ("agents", "at"), ""),
        # Two rows have changed their values: each column alone holds what it held.
        (SWAPPED, ("block", "value"), ""),
        (REATTACHED, ("blocks_agents", None), "other rows"),
    ],
)  # fmt: skip
def test_what_is_lost_is_found_and_named(
    pair: Pair, change: str, where: tuple[str, str | None], words: str
) -> None:
    (found,) = pair.compare(change).unexplained
    assert (found.table, found.column) == where
    assert words in found.what


def test_what_a_revision_is_known_to_change_is_told_with_its_reason(pair: Pair) -> None:
    known = KnownChange("abcd", "agents", "hidden", "they are hidden from now on")
    found = pair.compare("UPDATE agents SET hidden = true; UPDATE block SET value = 'x'", known)
    assert [str(each) for each in found.differences if each.explained] == [
        "agents.hidden is not what it was (abcd: they are hidden from now on)"
    ]
    assert [(each.table, each.column) for each in found.unexplained] == [("block", "value")]
    assert found.as_json()["passed"] is False
