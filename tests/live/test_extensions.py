"""What needs extensions that only a Postgres as Debian packages it has comes back in a restore."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live.census import changes, taken
from tests.live.kept import OF_A_START, Kept, assert_same, kept
from tests.live.machine import Stack

pytestmark = pytest.mark.target("docker", reason="the Postgres of a local stack has pgvector alone")
THEIRS = """
CREATE EXTENSION pg_trgm; CREATE EXTENSION postgres_fdw; CREATE EXTENSION pgcrypto;
CREATE TABLE app_notes (id bigint PRIMARY KEY, note text NOT NULL);
CREATE INDEX app_notes_by_text ON app_notes USING gin (note gin_trgm_ops);
INSERT INTO app_notes SELECT n, 'note ' || n FROM generate_series(1, 1000) n;
CREATE ROLE app_elsewhere NOLOGIN;
CREATE SERVER app_server FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'db.example', dbname 'app');
CREATE USER MAPPING FOR letta SERVER app_server OPTIONS (user 'app', password 'a-secret-of-others');
CREATE USER MAPPING FOR PUBLIC SERVER app_server OPTIONS (user 'anybody');
CREATE FOREIGN TABLE app_far (id bigint NOT NULL, name text) SERVER app_server OPTIONS (table_name 'far');
ALTER SERVER app_server OWNER TO app_elsewhere;
GRANT USAGE ON FOREIGN SERVER app_server TO letta;
ALTER TABLE app_notes OWNER TO letta; ALTER FOREIGN TABLE app_far OWNER TO letta;
"""
THEIR_ROWS = (
    "SELECT * FROM app_notes",
    "SELECT srvname, usename, unnest(umoptions) FROM pg_user_mappings",
    "SELECT srvname, srvowner::regrole::text, unnest(srvoptions), srvacl::text FROM pg_foreign_server",
    "SELECT ftrelid::regclass::text, ftoptions FROM pg_foreign_table",
    "SELECT extname, extversion, extnamespace::regnamespace::text FROM pg_extension",
)


@pytest.fixture(scope="module")
def place(own_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    made = kept(own_stack, tmp_path_factory.mktemp("extensions"))
    made.sql(THEIRS)
    return made


def census(place: Kept) -> list[Any]:
    with place.access() as access, access.connect("letta") as link:
        return taken(link, *THEIR_ROWS)


@pytest.mark.long
def test_extensions_foreign_tables_and_mappings_come_back(place: Kept) -> None:
    before, tables = census(place), place.tables()
    made = place.json("backup", "create")
    (warning,) = [line for line in made["warnings"] if "pg_trgm" in line]
    assert "drill" in warning
    drill = place.run("--json", "backup", "drill")
    assert (drill.code, drill.json["verdict"]) == (3, "unverified")
    assert "pg_trgm" in str(drill.json["checks"])
    place.sql("DROP TABLE app_notes; DROP SERVER app_server CASCADE; DROP EXTENSION pg_trgm")
    answer = place.run("--json", "backup", "restore", "latest", "--yes", "--no-smoke")
    assert answer.code == 0, answer.err
    assert "leaving out" not in answer.err
    assert_same(place, tables, OF_A_START)
    assert changes(before, census(place)) == []
    assert place.sql("SELECT count(*) FROM app_notes WHERE note LIKE '%note 77%'") == [(11,)]
    assert place.sql(
        "SELECT id FROM app_notes ORDER BY similarity(note, 'note 77') DESC LIMIT 1"
    ) == [(77,)]
