"""Backups and restores of what is Letta's alone, in a database in which an application lives, too: what
is the application's stays to the byte, and what it hung on Letta's tables hangs on the restored ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backups.catalog import Backup
from infra.api import api
from infra.stack.releases import RELEASES
from infra.targets import host
from tests.live.census import changes, taken
from tests.live.faults import (
    SEED,
    Phase,
    assert_unharmed,
    end_started,
    interrupted,
    state,
    undo_what_took_effect,
)
from tests.live.kept import OF_A_START, Kept, assert_same, damaged_copy, kept, make_agent
from tests.live.machine import Stack

SCOPE = {"LETTA_OPS_BACKUP_SCOPE": "letta"}
OF_AN_ADMINISTRATOR = """
CREATE ROLE app_owner NOLOGIN; CREATE ROLE authenticated NOLOGIN;
CREATE SCHEMA auth AUTHORIZATION app_owner;
CREATE TABLE auth.users (id bigint PRIMARY KEY, mail text); ALTER TABLE auth.users OWNER TO app_owner;
INSERT INTO auth.users VALUES (1, 'a@example.org');
CREATE FUNCTION app_on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE ROLE app_evil NOLOGIN; CREATE SCHEMA app_evil AUTHORIZATION app_evil; SET ROLE app_evil;
CREATE TABLE app_evil.alembic_version (version_num text);
CREATE FUNCTION app_evil.run() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
  EXECUTE 'CREATE TABLE public.app_ran_as_' || session_user || ' ()'; RETURN true; END $$;
ALTER TABLE app_evil.alembic_version ENABLE ROW LEVEL SECURITY;
CREATE POLICY app_evil ON app_evil.alembic_version USING (app_evil.run());
GRANT USAGE ON SCHEMA app_evil TO PUBLIC; GRANT SELECT ON app_evil.alembic_version TO PUBLIC;
RESET ROLE;
CREATE EVENT TRIGGER app_ddl ON ddl_command_end EXECUTE FUNCTION app_on_ddl();
"""
OF_THE_OWNER = """
CREATE TABLE app_profiles (id bigint PRIMARY KEY,
  agent_id varchar CONSTRAINT app_of REFERENCES agents(id) ON DELETE CASCADE);
COMMENT ON CONSTRAINT app_of ON app_profiles IS 'public.agents';
CREATE VIEW app_view WITH (security_invoker=true) AS
  SELECT a.id, a.name, count(m.id) AS messages FROM agents a LEFT JOIN messages m ON m.agent_id = a.id
  GROUP BY a.id;
COMMENT ON VIEW app_view IS 'how much is said';
CREATE VIEW app_view_of_it AS SELECT name FROM app_view;
GRANT SELECT ON app_view, agents TO authenticated; GRANT UPDATE (name, system) ON agents TO authenticated;
GRANT USAGE ON SEQUENCE message_seq_id TO PUBLIC;
CREATE FUNCTION app_touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER app_touch BEFORE UPDATE ON agents FOR EACH ROW
  WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION app_touch();
COMMENT ON TRIGGER app_touch ON agents IS 'of the app';
CREATE TRIGGER app_off AFTER INSERT ON messages EXECUTE FUNCTION app_touch();
ALTER TABLE messages DISABLE TRIGGER app_off;
ALTER TABLE agents ENABLE ROW LEVEL SECURITY;
CREATE POLICY app_own ON agents AS RESTRICTIVE FOR SELECT TO authenticated
  USING (name = current_user AND id IN (SELECT agent_id FROM app_profiles));
COMMENT ON POLICY app_own ON agents IS 'each his own';
CREATE STATISTICS app_stats ON agent_id, role FROM messages;
CREATE PUBLICATION app_changes FOR TABLE agents, app_profiles WITH (publish = 'insert');
CREATE TABLE app_notes (id int, agent varchar); ALTER TABLE app_notes ENABLE ROW LEVEL SECURITY;
INSERT INTO app_notes VALUES (1, 'agent-0');
CREATE POLICY app_notes_own ON app_notes
  USING (EXISTS (SELECT FROM agents a WHERE a.id = app_notes.agent));
CREATE INDEX app_by_role ON messages (role) WHERE role <> 'public.agents';
ALTER TABLE agents ADD app_no bigint GENERATED ALWAYS AS IDENTITY, ADD app_serial serial,
  ADD app_code text CHECK (app_code ~ '^\\d+$');
CREATE TABLE app_docs (e vector(2)); CREATE INDEX app_docs_e ON app_docs USING hnsw (e vector_l2_ops);
CREATE TABLE "users backup" (id int);
CREATE TYPE app_mood AS ENUM ('good', 'bad'); CREATE TABLE app_moods (mood app_mood);
"""
REFUSED = """
CREATE MATERIALIZED VIEW app_counted AS SELECT count(*) AS n FROM agents;
CREATE FUNCTION app_short(a agents) RETURNS text LANGUAGE sql AS $$ SELECT left(a.name, 9) $$;
CREATE TABLE app_kind (kind sandboxtype);
"""
ROWS = ("SELECT * FROM auth.users", "SELECT * FROM app_notes", "SELECT * FROM app_moods")


@pytest.fixture(scope="module")
def place(own_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    made = kept(own_stack, tmp_path_factory.mktemp("scope"))
    made.sql(OF_AN_ADMINISTRATOR)
    as_owner(made, OF_THE_OWNER)
    make_agent(made.deployment, "first")
    return replace(made, environment={**made.environment, **SCOPE})


@pytest.fixture(scope="module")
def backup(place: Kept) -> Backup:
    return place.create()


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    end_started()


def as_owner(here: Kept, statements: str) -> None:
    with host(here.deployment).owner() as owner, owner.connect("letta") as link:
        link.execute(statements)


def census(here: Kept) -> list[Any]:
    with here.access() as access, access.connect("letta") as link:
        return taken(link, *ROWS)


def agents(here: Kept) -> set[str]:
    with api(here.deployment) as client:
        return {str(agent.name) for agent in client.agents.list()}


def test_what_a_release_makes_is_what_we_know_of_it(place: Kept) -> None:
    """Else a backup in this scope would lack a table, and nobody would see it."""
    query = """
        SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
        AND relkind IN ('r', 'S') AND relname !~ '^(app_|users backup)' AND NOT EXISTS (
          SELECT FROM pg_depend d WHERE relkind = 'S' AND d.objid = pg_class.oid
          AND deptype IN ('a', 'i'))
    """
    types = """
        SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype <> 'b'
        AND typrelid = 0 AND typname !~ '^app_'
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_type.oid AND deptype = 'e')
    """
    release = RELEASES[str(place.deployment.release)]
    assert {name for (name,) in place.sql(query)} == release.tables
    assert {name for (name,) in place.sql(types)} == release.types


def test_what_is_lettas_comes_back_and_nothing_else_is_touched(place: Kept, backup: Backup) -> None:
    database = backup.manifest.database
    assert database.scope == "letta"
    assert not [name for name in database.tables if "app_" in name or name.startswith("auth.")]
    assert sorted(database.extensions) == ["vector"]
    assert place.json("backup", "drill", backup.id)["verdict"] == "passed"
    with place.access() as access, access.connect("letta") as link, link.transaction():
        link.execute("LOCK TABLE auth.users, app_notes, app_docs")
        place.json("backup", "create")  # it waits for nobody

    before, tables = census(place), place.tables()
    make_agent(place.deployment, "newer")
    place.sql("INSERT INTO app_notes VALUES (2, 'newer')")
    after = census(place)
    plan = place.json("backup", "restore", backup.id, "--dry-run")
    assert plan["newer_than_backup"]["agents"] == 1
    changed = {line.split()[1] for line in plan["goes_back"] if line.startswith("table ")}
    assert "public.agents" in changed
    assert not [name for name in changed if "app_" in name]

    answer = place.run("--json", "backup", "restore", backup.id, "--yes", "--no-smoke")
    assert answer.code == 0, answer.err
    assert answer.json["previous"] == "letta_previous"
    assert "stays with" not in answer.err
    assert (agents(place), changes(after, census(place))) == ({"first"}, [])
    assert after != before
    expected = {name: each for name, each in tables.items() if "app_notes" not in name}
    here = {name: each for name, each in place.tables().items() if "app_notes" not in name}
    assert here.keys() == expected.keys()
    ours = {name for name in expected if name.rpartition(".")[2] not in OF_A_START}
    assert {name: here[name] for name in ours} == {name: expected[name] for name in ours}
    assert place.schemas() == {"letta_previous"}
    assert place.databases() == {"letta"}

    place.json("backup", "restore", "--undo", "--yes", "--no-smoke")
    assert (agents(place), changes(after, census(place))) == ({"first", "newer"}, [])
    assert place.schemas() == {"letta_undone"}
    place.json("backup", "restore", "--drop-previous", "--yes")
    assert (place.schemas(), changes(after, census(place))) == (set(), [])


@pytest.mark.long
def test_rows_of_an_application_that_refer_to_what_goes_back_stay(
    place: Kept, backup: Backup
) -> None:
    before = census(place)
    if "newer" not in agents(place):  # the test before has made it, where that was run
        make_agent(place.deployment, "newer")
    (identifier,) = [row[0] for row in place.sql("SELECT id FROM agents WHERE name = 'newer'")]
    place.sql("INSERT INTO app_profiles VALUES (7, %s)", identifier)
    as_owner(place, "CREATE INDEX app_later ON agents (name)")
    answer = place.run("--json", "backup", "restore", backup.id, "--yes", "--no-smoke")
    assert answer.code == 0, answer.err
    assert "index app_later of table agents stays with what was replaced" in answer.err
    make_agent(place.deployment, "with-a-number")  # its columns have sequences that count on
    as_owner(place, "CREATE TABLE letta_previous.app_rescued AS SELECT * FROM app_profiles")
    refused = place.json("backup", "restore", "--drop-previous", "--yes", code=1)["error"]
    assert (refused["code"], "app_rescued" in refused["message"]) == ("database-foreign", True)
    as_owner(place, "DROP TABLE letta_previous.app_rescued")
    assert "app_of" in answer.err
    assert "NOT VALID" in answer.err
    assert place.sql("SELECT agent_id FROM app_profiles") == [(identifier,)]
    place.json("backup", "restore", "--undo", "--yes", "--no-smoke")
    place.sql("DELETE FROM app_profiles; DROP INDEX app_later")
    assert place.sql("SELECT relname FROM pg_class WHERE relname ~ 'app_ran_as'") == []
    assert changes(before, census(place)) == []


def test_what_can_not_go_along_is_named_all_at_once_and_nothing_begins(
    place: Kept, backup: Backup
) -> None:
    before = place.schemas()
    place.json("backup", "restore", "--drop-previous", "--yes")
    as_owner(place, REFUSED)
    place.sql("CREATE SCHEMA letta_previous; CREATE TABLE letta_previous.precious (n int)")
    try:
        for words in (("--dry-run",), ("--yes",)):
            error = place.json("backup", "restore", backup.id, *words, code=1)["error"]
            assert error["code"] == "database-dependants", before
            for name in ("app_counted", "app_short", "app_kind", "letta_previous"):
                assert name in error["message"], name
        assert place.refused("backup", "restore", "--undo", "--yes") == "database-foreign"
        refused = place.refused("backup", "restore", "--drop-previous", "--yes")
        assert refused == "database-foreign"
    finally:
        place.sql("DROP SCHEMA letta_previous CASCADE")
        as_owner(
            place,
            "DROP MATERIALIZED VIEW app_counted; DROP FUNCTION app_short; DROP TABLE app_kind",
        )
    assert place.schemas() == set()


@pytest.mark.parametrize(
    "position",
    [
        pytest.param("header", marks=pytest.mark.long),
        "middle",
        pytest.param("tail", marks=pytest.mark.long),
    ],
)
def test_an_altered_part_is_found_before_anything_changes(
    position: str, place: Kept, backup: Backup, tmp_path: Path
) -> None:
    before, tables = census(place), place.tables()
    for part in backup.manifest.parts:
        copy = damaged_copy(place, backup, part.object, position, tmp_path / part.name)
        assert copy.refused("backup", "restore", backup.id, "--yes", "--no-smoke") == "part-damaged"
    assert place.schemas() == set()
    assert (changes(before, census(place)), place.tables()) == ([], tables)


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param(Phase("database: restoring", 0.5), marks=pytest.mark.long),
        pytest.param(Phase("switching: the server is stopped", 3), marks=pytest.mark.long),
        pytest.param(Phase("switching: the server is started", 5), marks=pytest.mark.long),
    ],
    ids=["loading", "switching", "starting"],
)
def test_a_restore_that_is_killed_leaves_all_as_it_was(
    phase: Phase, place: Kept, backup: Backup, tmp_path: Path
) -> None:
    chance = random.Random(f"{SEED} {phase.line}")  # noqa: S311  # no secret
    if agents(place) == {"first"}:  # as in the backup: nobody would see which of both is there
        make_agent(place.deployment, "newer")
    before, now = census(place), state(place)
    words = ("restore", backup.id, "--yes", "--no-smoke")
    # One that came to its end, or was killed after that, stays: it is undone.
    undone = partial(undo_what_took_effect, place, now)
    interrupted(place, phase, *words, chance=chance, log=tmp_path / "log", prepare=undone)
    undone()
    assert_unharmed(place, now, {backup.id})
    assert changes(before, census(place)) == []
    place.json("backup", "create")  # it also clears up what was killed while it was made
    assert place.schemas() <= {"letta_undone"}


@pytest.mark.long
def test_backups_go_from_one_scope_to_the_other(place: Kept, backup: Backup) -> None:
    whole = replace(place, environment={**place.environment, "LETTA_OPS_BACKUP_SCOPE": "database"})
    before, tables = census(place), place.tables()
    everything = whole.create()
    assert "public.app_notes" in everything.manifest.database.tables
    place.sql("INSERT INTO app_notes VALUES (3, 'later')")
    place.json("backup", "restore", everything.id, "--yes", "--no-smoke")
    place.sql("DELETE FROM app_notes WHERE id = 3")
    assert changes(before, census(place)) == []
    assert_same(place, tables, OF_A_START)
    answer = whole.run("--json", "backup", "restore", backup.id, "--yes", "--no-smoke")
    assert answer.code == 0, answer.err
    assert "app_touch" in answer.err  # a trigger needs what isn't in that backup
    assert agents(place) == {"first"}
    assert not [name for name in place.tables() if "app_" in name]
    whole.json("backup", "restore", "--undo", "--yes", "--no-smoke")
    assert changes(before, census(place)) == []
