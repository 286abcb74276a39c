"""A database in which others live, too: what is theirs comes back, and nothing of it runs with more
rights than the database's owner has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from backups.catalog import write_object
from backups.manifest import MANIFEST
from infra.stack.deployment import SERVICE_POSTGRES
from infra.targets import host
from tests.live.census import taken
from tests.live.kept import OF_A_START, Kept, assert_same, kept
from tests.live.machine import Stack, wait_until

ROLES = ("app_owner", "dashboard", "authenticated")
THEIRS = """
CREATE ROLE app_owner NOLOGIN; CREATE ROLE dashboard LOGIN; CREATE ROLE authenticated NOLOGIN;
CREATE SCHEMA auth AUTHORIZATION app_owner;
COMMENT ON SCHEMA auth IS 'who may log in';
CREATE TABLE auth.users (id bigint PRIMARY KEY, mail text);
ALTER TABLE auth.users OWNER TO app_owner;
INSERT INTO auth.users VALUES (1, 'a@example.org');
GRANT USAGE ON SCHEMA public TO dashboard;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO dashboard;
GRANT UPDATE (mail) ON auth.users TO dashboard WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE letta IN SCHEMA public GRANT SELECT ON TABLES TO dashboard;
ALTER DEFAULT PRIVILEGES FOR ROLE app_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE TABLE app_profiles (id bigint PRIMARY KEY, agent_id varchar);
ALTER TABLE app_profiles OWNER TO letta;
ALTER TABLE app_profiles ENABLE ROW LEVEL SECURITY; ALTER TABLE app_profiles FORCE ROW LEVEL SECURITY;
CREATE POLICY app_own ON app_profiles TO authenticated USING (true);
COMMENT ON POLICY app_own ON app_profiles IS 'each his own';
INSERT INTO app_profiles VALUES (1, 'agent-0');
CREATE TYPE public.vector AS (x int, y text);
CREATE TABLE app_odd ("a name, with ""quotes"" in it" public.vector, "line
end" inet);
ALTER TABLE app_odd OWNER TO letta;
INSERT INTO app_odd VALUES (ROW(1, 'it''s'), '10.0.0.1'), (ROW(NULL, NULL), NULL), (NULL, '::1/64');
ALTER TYPE public.vector OWNER TO letta;
CREATE FUNCTION app_plus(int, int) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'int4pl';
COMMENT ON FUNCTION app_plus(int, int) IS 'of the server''s own code';
ALTER FUNCTION app_plus(int, int) OWNER TO letta;
REVOKE EXECUTE ON FUNCTION app_plus(int, int) FROM PUBLIC;
CREATE TABLE app_sums (a int, b int GENERATED ALWAYS AS (app_plus(a, 1)) STORED);
ALTER TABLE app_sums OWNER TO letta;
INSERT INTO app_sums (a) VALUES (1), (2);
CREATE MATERIALIZED VIEW app_counted AS SELECT count(*) AS n FROM app_sums;
ALTER MATERIALIZED VIEW app_counted OWNER TO letta;
SELECT lo_from_bytea(70001, 'a large object');
ALTER LARGE OBJECT 70001 OWNER TO app_owner;
CREATE SEQUENCE app_numbers; ALTER SEQUENCE app_numbers OWNER TO app_owner;
CREATE PUBLICATION app_changes FOR TABLE app_sums;
CREATE PUBLICATION app_all FOR ALL TABLES WITH (publish = 'insert');
CREATE FUNCTION app_on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE EVENT TRIGGER app_ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
  EXECUTE FUNCTION app_on_ddl();
COMMENT ON EVENT TRIGGER app_ddl IS 'as hosted services have';
ALTER EVENT TRIGGER app_ddl DISABLE;
"""
# Written by the role letta: whatever reads or loads this must not be led to an administrator's rights.
TRAPS = """
CREATE TABLE app_seen (place text, who text, super boolean);
CREATE FUNCTION app_look(place text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE super boolean;
BEGIN
  BEGIN
    RESET ROLE; RESET SESSION AUTHORIZATION;
    SELECT rolsuper INTO super FROM pg_catalog.pg_roles WHERE rolname = current_user;
    IF super THEN EXECUTE 'CREATE ROLE app_has_been_superuser'; END IF;
    IF (SELECT shobj_description(oid, 'pg_database') LIKE '%[kept by letta-ops]%'
        FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) THEN
      EXECUTE pg_catalog.format('ALTER DATABASE %I SET search_path = evil, pg_catalog, public',
        pg_catalog.current_database());
    END IF;
  EXCEPTION WHEN OTHERS THEN NULL;
  END;
  RETURN true;
END $$;
CREATE SCHEMA evil;
CREATE VIEW evil.pg_roles AS SELECT * FROM pg_catalog.pg_roles WHERE public.app_look('view');
CREATE VIEW evil.pg_namespace AS SELECT * FROM pg_catalog.pg_namespace WHERE public.app_look('view');
CREATE TABLE app_trap (n int CHECK (public.app_look('check')));
INSERT INTO app_trap VALUES (1);
CREATE FUNCTION app_stable(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
  $$ BEGIN PERFORM public.app_look('index'); RETURN n; END $$;
CREATE INDEX app_trapped ON app_trap (public.app_stable(n));
CREATE TYPE app_mood AS ENUM ('good', 'bad');
CREATE FUNCTION app_in_words(app_mood) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN PERFORM public.app_look('cast'); RETURN 'x'; END $$;
CREATE CAST (app_mood AS text) WITH FUNCTION app_in_words(app_mood);
CREATE TABLE app_moods (mood app_mood);
INSERT INTO app_moods VALUES ('good'), (NULL);
CREATE FUNCTION app_on_change() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM public.app_look('trigger'); RETURN NEW; END $$;
CREATE TRIGGER app_on_change BEFORE INSERT OR UPDATE ON agents
  FOR EACH ROW EXECUTE FUNCTION app_on_change();
CREATE TABLE app_vectors (v extensions.vector(2) CHECK (public.app_look('rows')));
INSERT INTO app_vectors VALUES ('[1,2]');
"""
RELIES_ON_A_SEARCH_PATH = """
CREATE FUNCTION app_shelf(title text) RETURNS text LANGUAGE sql IMMUTABLE AS
  $$ SELECT 'shelf ' || length(title) $$;
CREATE FUNCTION app_label(title text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
  $$ BEGIN RETURN app_shelf(title); END $$;
CREATE TABLE app_books (title text, label text GENERATED ALWAYS AS (app_label(title)) STORED);
INSERT INTO app_books (title) VALUES ('atlas');
"""
ROWS = (
    "SELECT * FROM auth.users",
    "SELECT app_odd::text FROM app_odd",
    "SELECT * FROM app_sums",
    "SELECT * FROM app_counted",
    "SELECT * FROM app_moods",
)
APP_PLUS = "app_plus(integer,"


@pytest.fixture(scope="module")
def place(own_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    made = kept(own_stack, tmp_path_factory.mktemp("shared"))
    made.sql(
        "CREATE SCHEMA extensions AUTHORIZATION letta; ALTER EXTENSION vector SET SCHEMA extensions;"
        ' ALTER DATABASE letta SET search_path = "$user", public, extensions'
    )
    made.sql(THEIRS)
    with host(made.deployment).owner() as owner, owner.connect("letta") as link:
        link.execute(TRAPS)
    return made


def census(here: Kept, name: str = "letta") -> list[Any]:
    with here.access() as access, access.connect(name) as link:
        return taken(link, *ROWS)


@pytest.mark.long
def test_what_others_have_in_the_database_is_proven_and_comes_back_whole(place: Kept) -> None:
    place.sql("COMMENT ON DATABASE letta IS 'of the app'; ALTER DATABASE letta CONNECTION LIMIT 77")
    before, tables = census(place), place.tables()
    backup = place.create()
    drill = place.json("backup", "drill", backup.id)
    assert drill["verdict"] == "passed"
    answer = place.run("--json", "backup", "restore", backup.id, "--yes", "--no-smoke")
    assert answer.code == 0, answer.err
    assert (answer.json["missing_roles"], answer.json["signed"]) == ([], True)
    assert "leaving out" not in answer.err
    assert_same(place, tables, OF_A_START)
    assert census(place) == before
    assert place.sql("SELECT 1 FROM pg_roles WHERE rolname = 'app_has_been_superuser'") == []
    assert properties(place, "letta") == ("of the app", 77)
    assert properties(place, "letta_previous")[0] == "of the app [kept by letta-ops]"
    place.json("backup", "restore", "--undo", "--yes", "--no-smoke")
    assert census(place) == before
    assert properties(place, "letta") == ("of the app", 77)


@pytest.mark.long
def test_what_can_not_come_back_is_told_before_and_databases_of_others_stay(
    place: Kept, tmp_path: Path
) -> None:
    """A forged backup, a role that is gone, and a database that has a name which a restore needs."""
    backup = place.create()
    place.json("backup", "restore", "--drop-previous", "--yes")
    place.sql("DROP OWNED BY dashboard; DROP ROLE dashboard")
    place.sql("CREATE DATABASE letta_restoring", name="postgres")
    place.sql("CREATE TABLE precious AS SELECT 1 AS n", name="letta_restoring")
    copy = place.at(tmp_path / "store")
    shutil.copytree(place.root, copy.root)
    made = backup.manifest
    text = replace(made, created_at=made.created_at.replace(year=2027)).as_text()
    write_object(copy.store, backup.object(MANIFEST), text)

    found = copy.json("backup", "verify", backup.id, code=1)["checks"][0]
    assert (found["name"], found["verdict"]) == ("signature", "failed")
    words = ("backup", "restore", backup.id, "--dry-run")
    error = copy.json(*words, code=1)["error"]
    assert error["code"] == "backup-forged"
    assert "for 2 reasons" in error["message"]
    assert "letta_restoring" in error["message"]
    assert copy.refused(*words, "--accept-unsigned") == "database-foreign"
    assert place.sql("SELECT n FROM precious", name="letta_restoring") == [(1,)]
    place.sql("ALTER DATABASE letta_restoring RENAME TO letta_previous", name="postgres")
    assert place.refused("backup", "restore", "--undo", "--yes") == "database-foreign"
    assert place.refused("backup", "restore", "--drop-previous", "--yes") == "database-foreign"
    assert place.sql("SELECT n FROM precious", name="letta_previous") == [(1,)]
    place.sql("DROP DATABASE letta_previous", name="postgres")

    # What only an administrator may make is not made of it: here a table needs it.
    before = census(place)
    unsigned = ("backup", "restore", backup.id, "--accept-unsigned", "--yes", "--no-smoke")
    answer = copy.run("--json", *unsigned)
    assert (answer.code, answer.json["error"]["code"]) == (1, "restore-failed")
    assert "app_plus" in answer.json["error"]["message"]
    told = [line for line in answer.err.splitlines() if "of a signed backup" in line]
    assert [line.split(" leaving out ")[1].split()[2] for line in told] == [APP_PLUS, "app_all"]
    assert census(place) == before

    plan = place.json(*words)
    assert (plan["missing_roles"], plan["signed"]) == (["dashboard"], True)
    answer = place.run("--json", "backup", "restore", backup.id, "--yes", "--no-smoke")
    assert answer.code == 0, answer.err
    (left_out,) = [line for line in answer.err.splitlines() if "leaving out" in line]
    assert "what role dashboard owns or may do" in left_out
    # What a role that went had been granted leaves the owner's own rights, written out.
    explicit = "'{app_owner=arwdDxtm/app_owner}'"
    assert repr(census(place)) == repr(before).replace(explicit, "None")


@pytest.mark.long
def test_what_a_restore_will_fail_by_is_told_while_it_is_backed_up(place: Kept) -> None:
    with host(place.deployment).owner() as owner, owner.connect("letta") as link:
        link.execute(RELIES_ON_A_SEARCH_PATH)
    try:
        answer = place.json("backup", "create")
        (warning,) = [line for line in answer["warnings"] if "app_label" in line]
        assert "app_books" in warning
        assert "names app_shelf without a schema" in warning
        drill = place.json("backup", "drill", code=1)
        (failed,) = [check for check in drill["checks"] if check["name"] == "database"]
        assert failed["verdict"] == "failed"
        assert "app_books" in failed["summary"]
        assert "app_label" in failed["summary"]
    finally:
        place.sql("DROP TABLE app_books")


@pytest.mark.long
def test_who_reads_by_a_slot_is_named_and_keeps_nobody_from_a_restore(place: Kept) -> None:
    """A slot of logical replication stays with the database that it was made in."""
    place.sql("ALTER SYSTEM SET wal_level = 'logical'", name="postgres")
    try:
        restart_postgres(place)
        place.sql("SELECT pg_create_logical_replication_slot('app_slot', 'pgoutput')")
        backup = place.create()
        words = ("backup", "restore", backup.id)
        assert place.json(*words, "--dry-run")["replication_slots"] == ["app_slot"]
        with reading(place, "letta"):
            place.json(*words, "--yes", "--no-smoke")
        found = place.run("--json", "check").json["findings"]
        (seen,) = [check for check in found if check["name"] == "replication"]
        assert (seen["state"], "app_slot" in seen["summary"]) == ("WARNING", True)
        with reading(place, "letta_previous"):
            error = place.json("backup", "restore", "--drop-previous", "--yes", code=1)["error"]
            assert (error["code"], "app_slot" in error["message"]) == ("database-in-use", True)
        with reading(place, "letta_previous"):
            # What it replaces would have to go.
            done = place.run("--json", *words, "--yes", "--no-smoke")
            assert done.code == 0, done.err
        place.json(*words, "--yes", "--no-smoke")
        place.json("backup", "restore", "--drop-previous", "--yes")
        assert place.sql("SELECT slot_name FROM pg_replication_slots") == []
    finally:
        place.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        place.sql("ALTER SYSTEM RESET wal_level", name="postgres")
        restart_postgres(place)


def restart_postgres(place: Kept) -> None:
    where = host(place.deployment)
    where.stop(SERVICE_POSTGRES)
    where.start(SERVICE_POSTGRES)
    wait_until("the stack is well", lambda: place.run("smoke").code == 0)


@contextmanager
def reading(place: Kept, name: str) -> Iterator[None]:
    """Somebody reads from the slot, as a subscription or a change feed does."""
    with place.access() as access:
        words = {**access.settings, "dbname": name, "replication": "database"}
        link = psycopg.pq.PGconn.connect(make_conninfo("", **words).encode())
    try:
        answer = link.exec_(
            b"START_REPLICATION SLOT app_slot LOGICAL 0/0"
            b" (proto_version '1', publication_names 'app_all')"
        )
        assert answer.status == psycopg.pq.ExecStatus.COPY_BOTH, link.error_message
        yield
    finally:
        link.finish()


def properties(here: Kept, name: str) -> tuple[str, int]:
    ((comment, limit),) = here.sql(
        "SELECT shobj_description(oid, 'pg_database'), datconnlimit FROM pg_database WHERE datname = %s",
        name,
    )
    return comment, limit
