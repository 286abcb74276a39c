"""Contents and layout of databases in a real Postgres: what moves, what is copied, what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from backups.contents import (
    compare,
    compare_views,
    read_large_objects,
    read_sequences,
    read_tables,
    read_views,
)
from backups.layout import copy_settings, move_extension, move_schema
from backups.manifest import DatabaseRecord
from backups.sources.rows import TableName, read_rows, tables_with_vectors, write_rows
from infra.targets import host
from tests.live.machine import Stack

if TYPE_CHECKING:
    import psycopg

ODD = 'odd "Schema" of tables'
QUOTED = '"odd ""Schema"" of tables"'
EVERYTHING = """
CREATE EXTENSION vector;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TYPE pair AS (a integer, b text);
CREATE TYPE span AS RANGE (subtype = integer);
CREATE SEQUENCE message_seq_id;
CREATE FUNCTION next_number() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE FUNCTION judged(mood, positive) RETURNS mood LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE "Agents" (
    id serial PRIMARY KEY, name text UNIQUE, feeling mood DEFAULT 'good', size positive,
    numbered bigint DEFAULT nextval('message_seq_id'), doubled integer GENERATED ALWAYS AS (1 + 1) STORED,
    pairs pair, at timestamptz DEFAULT '2026-11-21 12:00+00', price double precision DEFAULT 0.1);
CREATE TABLE passages (
    id integer GENERATED ALWAYS AS IDENTITY, agent integer REFERENCES "Agents", embedding vector(3));
CREATE INDEX ON passages USING hnsw (embedding vector_cosine_ops);
CREATE TABLE parted (at integer) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE VIEW shown AS SELECT name FROM "Agents";
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM passages;
CREATE TRIGGER touched BEFORE UPDATE ON "Agents" FOR EACH ROW EXECUTE FUNCTION touched();
INSERT INTO "Agents" (name, size) VALUES ('a', 1), ('b', NULL), (NULL, 3);
INSERT INTO passages (agent, embedding) VALUES (1, '[1,2,3]'), (2, '[0.1,0.2,-0.3]'), (NULL, NULL);
INSERT INTO parted VALUES (1), (1);
SELECT lo_from_bytea(70001, 'of letta'), lo_from_bytea(70002, ''), lo_create(70003);
SELECT lo_put(70003, 1500000, 'after much that is nothing');
"""


@pytest.fixture
def link(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    with databases(stack, "laid_out") as (made,):
        made.execute(EVERYTHING)
        yield made


@contextmanager
def databases(stack: Stack, *names: str) -> Iterator[list[psycopg.Connection[Any]]]:
    """New databases in the shared stack's cluster, dropped in the end."""
    from contextlib import ExitStack

    with (
        host(stack.deployment).administrator() as access,
        access.connect(access.maintenance) as maintenance,
    ):
        for name in names:
            maintenance.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            with ExitStack() as opened:
                yield [opened.enter_context(access.connect(name)) for name in names]
        finally:
            for name in names:
                maintenance.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def databases_again(stack: Stack, name: str) -> Iterator[psycopg.Connection[Any]]:
    with host(stack.deployment).administrator() as access, access.connect(name) as link:
        yield link


def manifest_of(link: psycopg.Connection[Any]) -> DatabaseRecord:
    return DatabaseRecord(
        "x", "public", None, "18", None, "public", "UTF8", read_tables(link), read_sequences(link),
        large_objects=read_large_objects(link), views=read_views(link),
    )  # fmt: skip


def left_in(link: psycopg.Connection[Any], schema: str) -> list[str]:
    query = (
        "SELECT relname FROM pg_class c WHERE relnamespace = (SELECT oid FROM pg_namespace"
        " WHERE nspname = %s) UNION ALL SELECT typname FROM pg_type t WHERE typnamespace = (SELECT"
        " oid FROM pg_namespace WHERE nspname = %s) UNION ALL SELECT proname FROM pg_proc WHERE"
        " pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"
    )
    return [name for (name,) in link.execute(query, [schema] * 3).fetchall()]


def test_everything_moves_to_another_schema_and_back_with_its_content(
    link: psycopg.Connection[Any],
) -> None:
    before = manifest_of(link)
    assert before.tables["public.parted_1"].rows == 2
    move_extension(link, "pg_catalog")  # out of the way of what `left_in` lists
    move_schema(link, "public", ODD, "letta")
    assert left_in(link, "public") == []
    assert compare(link, before, {"public": ODD}) == []
    link.execute(f"SET search_path = {QUOTED}")
    link.execute("INSERT INTO \"Agents\" (name) VALUES ('works')")
    link.execute("UPDATE \"Agents\" SET feeling = 'bad' WHERE name = 'works'")
    assert link.execute("SELECT count(*) FROM shown").fetchone() == (4,)
    link.execute("DELETE FROM \"Agents\" WHERE name = 'works'")
    move_schema(link, ODD, "public", "letta")
    assert left_in(link, ODD) == []
    assert compare(link, before) == []


def test_the_extension_moves_with_its_operators_and_once_is_enough(
    link: psycopg.Connection[Any],
) -> None:
    link.execute(f"CREATE SCHEMA {QUOTED}")
    before = read_tables(link)
    for _ in range(2):
        move_extension(link, ODD)
    assert read_tables(link) == before
    link.execute(f"SET search_path = public, {QUOTED}")
    query = "SELECT id FROM passages ORDER BY embedding <=> '[1,2,3]' LIMIT 1"
    assert link.execute(query).fetchone() == (1,)


SESSIONS = (
    "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'German'; SET bytea_output = 'escape';"
    " SET extra_float_digits = 0; SET search_path = pg_catalog; SET IntervalStyle = 'iso_8601'"
)
CHANGES = {
    "a value": "UPDATE \"Agents\" SET name = 'c' WHERE name = 'b'",
    "null and empty differ": "UPDATE \"Agents\" SET name = '' WHERE name IS NULL",
    "one number of a vector": "UPDATE passages SET embedding = '[1,2,3.0000002]' WHERE id = 1",
    "a vector that is gone": "UPDATE passages SET embedding = NULL WHERE id = 1",
    "a row twice more": "INSERT INTO parted VALUES (1), (1)",
    "a row less": "DELETE FROM parted WHERE ctid = (SELECT min(ctid) FROM ONLY parted_1)",
    "values swapped between rows": 'UPDATE "Agents" SET size = CASE size WHEN 1 THEN 3 ELSE 1 END'
    " WHERE size IS NOT NULL",
    "a table more": "CREATE TABLE surprise ()",
    "a table less": "DROP TABLE parted",
    "a sequence set back": "SELECT setval('message_seq_id', 1)",
    "a large object more": "SELECT lo_create(70009)",
    "a large object less": "SELECT lo_unlink(70002)",
    "what is in a large object": "SELECT lo_put(70003, 1048576, 'x')",
    "a sequence less": "ALTER TABLE passages ALTER id DROP IDENTITY",
}


def test_the_order_of_rows_and_the_session_make_no_difference(
    link: psycopg.Connection[Any],
) -> None:
    before = manifest_of(link)
    link.execute("RESET ALL")
    link.execute('UPDATE "Agents" SET at = at')
    link.execute("UPDATE passages SET agent = agent")
    link.execute("UPDATE parted SET at = at")
    link.execute("VACUUM FULL")
    link.execute(
        "SELECT lo_put(70003, 700000, repeat('\\000', 5000)::bytea)"
    )  # it was nothing, too
    link.execute(SESSIONS)
    assert compare(link, before) == []
    link.execute("RESET ALL")
    link.execute("SELECT nextval('public.message_seq_id')")
    assert compare(link, before) == []  # a sequence may have gone on


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_was_changed_is_named(change: str, link: psycopg.Connection[Any]) -> None:
    before = manifest_of(link)
    link.execute("RESET ALL")
    link.execute(CHANGES[change])
    assert len(compare(link, before)) == 1


def test_a_view_that_a_restore_fills_anew_is_told_and_one_that_is_being_filled_is_waited_for_not_long(
    stack: Stack,
) -> None:
    with databases(stack, "viewed") as (link,):
        link.execute(EVERYTHING)
        before = manifest_of(link)
        assert before.views == {"public.counted": 1}
        assert compare_views(link, before) == []
        link.execute("RESET ALL")
        link.execute('CREATE MATERIALIZED VIEW named AS SELECT name FROM "Agents"')
        link.execute("CREATE MATERIALIZED VIEW empty AS SELECT 1 WITH NO DATA")
        with databases_again(stack, "viewed") as other, other.transaction():
            other.execute("REFRESH MATERIALIZED VIEW counted")
            with link.transaction():
                assert compare_views(link, before) == [
                    "materialized view public.counted has no rows, in the backup 1",
                    "materialized view public.named has 3 rows, in the backup none",
                ]
                assert link.execute("SHOW lock_timeout").fetchone() == ("0",)
        assert len(compare_views(link, before, {"public": ODD})) == 3


SETTINGS: dict[str, str] = {
    "a search path": f'ALTER DATABASE {{}} SET search_path TO {QUOTED}, "$user", public',
    "an empty search path": "ALTER DATABASE {} SET search_path TO ''",
    "of a role": f"ALTER ROLE letta IN DATABASE {{}} SET search_path TO {QUOTED}",
    "a number": "ALTER DATABASE {} SET work_mem TO '8MB'",
    "one of nobody's": "ALTER DATABASE {} SET letta.a_Setting TO 'it''s, so'",
    "a time zone": "ALTER DATABASE {} SET TimeZone TO 'Asia/Kathmandu'",
    "grants": "GRANT CONNECT, TEMPORARY ON DATABASE {} TO letta_reader",
    "a grant to all": "GRANT TEMPORARY ON DATABASE {} TO PUBLIC",
}
OF = """
SELECT s.setrole::regrole::text, s.setconfig::text FROM pg_db_role_setting s JOIN pg_database d
ON d.oid = s.setdatabase WHERE d.datname = %s ORDER BY 1
"""
RIGHTS = "SELECT datacl::text FROM pg_database WHERE datname = %s"


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_and_grants_of_a_database_are_copied_as_they_are(case: str, stack: Stack) -> None:
    with databases(stack, "set_one", "set_two") as (link, _):
        link.execute("REVOKE ALL ON DATABASE set_one FROM PUBLIC")
        link.execute(SETTINGS[case].format("set_one"))
        copy_settings(link, "set_one", "set_two")
        for query in (OF, RIGHTS):
            first, second = (
                link.execute(query, [name]).fetchall() for name in ("set_one", "set_two")
            )
            assert first == second


ROWS = """
CREATE EXTENSION vector;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE SCHEMA "the ""odd"" one";
CREATE TABLE "the ""odd"" one"."of.all" (
    id integer GENERATED ALWAYS AS IDENTITY, gone integer, feeling mood, embedding vector(3),
    doubled integer GENERATED ALWAYS AS (1 + 1) STORED, half halfvec(2), sparse sparsevec(5),
    words text[], said json, at timestamptz, price numeric, data bytea);
ALTER TABLE "the ""odd"" one"."of.all" DROP COLUMN gone;
CREATE TABLE pointing (embedding vector(3), what regclass);
CREATE TABLE plain (id integer);
CREATE TABLE empty (embedding vector(3));
"""
OF_ALL = """
INSERT INTO "the ""odd"" one"."of.all" (feeling, embedding, half, sparse, words, said, at, price, data)
VALUES ('bad', '[0.1,-2,3e-9]', '[1,2.5]', '{1:1.5,4:-2}/5', '{a,NULL,"ü b"}', '{"a" : 1}',
    '2026-11-21 12:00+01', 0.10, '\\x00ff'), (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
"""


def test_rows_of_vectors_are_the_same_after_they_went_past_the_dump(stack: Stack) -> None:
    """Those that refer to something of their own database stay with the dump."""
    with databases(stack, "rows_from", "rows_to") as (source, target):
        for each in (source, target):
            each.execute(ROWS)
        source.execute(OF_ALL)
        odd, empty = TableName('the "odd" one', "of.all"), TableName("public", "empty")
        assert set(tables_with_vectors(source)) == {odd, empty}
        for table in (odd, empty):
            write_rows(target, table, read_rows(source, table))
        assert read_tables(target) == read_tables(source)
        assert read_tables(target)[str(odd)].rows == 2
