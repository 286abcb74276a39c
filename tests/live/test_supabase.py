"""A Postgres as Supabase lays it out: one database called postgres, in which others own schemas, event
triggers and policies. What is Letta's is backed up, proven and restored; theirs stays to the byte."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backups.verdicts import PASSED, overall
from backups.verify import verify
from infra.api import api
from infra.stack.releases import RELEASES
from infra.targets.docker.images.recipes import BuildSettings, build
from tests.live.census import changes, taken
from tests.live.docker_stack import BASE_VARIABLE
from tests.live.external_postgres import PASSWORD, External, external
from tests.live.faults import GUARD_SECONDS, start
from tests.live.kept import Kept, kept, make_agent, talk
from tests.live.machine import Machine, wait_until
from tests.live.test_external import ensure_no_secret_is_seen, settings, stack_on

BASE = os.environ.get(BASE_VARIABLE) or "letta-ops-base:trixie"
pytestmark = pytest.mark.long
OF_ADMINISTRATOR = "of-the-service"
ROLES = ("anon", "authenticated", "service_role", "supabase_auth_admin", "supabase_storage_admin")
LAYOUT = """
CREATE SCHEMA extensions;
CREATE EXTENSION vector SCHEMA extensions; CREATE EXTENSION pg_trgm SCHEMA extensions;
CREATE EXTENSION pgcrypto SCHEMA extensions; CREATE EXTENSION "uuid-ossp" SCHEMA extensions;
CREATE ROLE letta LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {password};
GRANT CONNECT, CREATE ON DATABASE postgres TO letta;
GRANT USAGE ON SCHEMA extensions TO PUBLIC; GRANT USAGE, CREATE ON SCHEMA public TO letta;
CREATE SCHEMA letta AUTHORIZATION letta;
ALTER ROLE letta IN DATABASE postgres SET search_path = letta, extensions;
CREATE SCHEMA auth AUTHORIZATION supabase_auth_admin;
CREATE SCHEMA storage AUTHORIZATION supabase_storage_admin;
SET ROLE supabase_auth_admin;
CREATE TABLE auth.users (id uuid PRIMARY KEY, email text UNIQUE, created_at timestamptz DEFAULT now());
INSERT INTO auth.users SELECT md5(n::text)::uuid, n || '@example.org' FROM generate_series(1, 50) n;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
  $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, letta;
GRANT EXECUTE ON FUNCTION auth.uid() TO PUBLIC;
SET ROLE supabase_storage_admin;
CREATE TABLE storage.objects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, owner uuid);
ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_objects ON storage.objects FOR SELECT TO authenticated USING (owner IS NOT NULL);
INSERT INTO storage.objects (id, name)
  SELECT md5(n::text)::uuid, 'file ' || n FROM generate_series(1, 50) n;
CREATE INDEX by_words ON storage.objects USING gin (name extensions.gin_trgm_ops);
RESET ROLE;
CREATE ROLE supabase_admin SUPERUSER LOGIN PASSWORD {administrator};
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public
  GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE letta IN SCHEMA public GRANT SELECT ON TABLES TO service_role;
CREATE TABLE public.profiles (id uuid PRIMARY KEY REFERENCES auth.users, secret bytea);
ALTER TABLE public.profiles ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_profile ON public.profiles TO authenticated USING (auth.uid() = id);
INSERT INTO public.profiles SELECT id, extensions.digest(email, 'sha256') FROM auth.users;
CREATE FUNCTION extensions.grant_pg_cron_access() RETURNS event_trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM 1; END $$;
CREATE EVENT TRIGGER issue_pg_cron_access ON ddl_command_end WHEN TAG IN ('CREATE EXTENSION')
  EXECUTE FUNCTION extensions.grant_pg_cron_access();
CREATE FUNCTION extensions.pgrst_ddl_watch() RETURNS event_trigger LANGUAGE plpgsql AS
  $$ BEGIN NOTIFY pgrst, 'reload schema'; END $$;
CREATE EVENT TRIGGER pgrst_ddl_watch ON ddl_command_end EXECUTE FUNCTION extensions.pgrst_ddl_watch();
CREATE EVENT TRIGGER pgrst_drop_watch ON sql_drop EXECUTE FUNCTION extensions.pgrst_ddl_watch();
CREATE PUBLICATION supabase_realtime FOR TABLE public.profiles;
"""
# As the project's own application would, when Letta's tables are there.
HUNG = """
SET ROLE letta;
CREATE TABLE public.app_agents (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id varchar REFERENCES letta.agents(id) ON DELETE CASCADE);
CREATE POLICY own_agents ON letta.agents FOR SELECT TO authenticated
  USING (auth.uid()::text = _created_by_id);
ALTER TABLE letta.agents ENABLE ROW LEVEL SECURITY;
CREATE VIEW public.app_names WITH (security_invoker=on) AS SELECT id, name FROM letta.agents;
GRANT SELECT ON public.app_names TO anon;
"""
ROWS = (
    "SELECT * FROM auth.users",
    "SELECT * FROM storage.objects",
    "SELECT * FROM public.profiles",
    "SELECT * FROM public.app_agents",
)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@pytest.fixture(scope="module")
def postgres() -> Iterator[External]:
    own = build("postgres", RELEASES["0.16.8"], BuildSettings(base=BASE), print)
    with external(own, BASE, ("letta",), named=True) as found:
        for role in ROLES:
            found.sql("postgres", f"CREATE ROLE {role} NOLOGIN")
        found.sql(
            "postgres",
            LAYOUT.format(password=quoted(PASSWORD), administrator=quoted(OF_ADMINISTRATOR)),
        )
        yield found


@pytest.fixture(scope="module")
def place(postgres: External, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    root = Path(tempfile.mkdtemp(prefix="letta-ops test-"))
    root.chmod(0o755)  # drills run as another account
    machine = Machine(root, target="docker")
    authority = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.write_text(postgres.authority)
    query = f"sslmode=verify-full&sslrootcert={authority}"
    url = postgres.url("letta", query).replace("/letta?", "/postgres?")
    try:
        made = stack_on(machine, "supabase", url=url)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in machine.extra.items():
                patch.setenv(name, value)
            made.json("up", *settings(made, postgres, "url"))
            postgres.sql("postgres", HUNG)
            yield kept(made, tmp_path_factory.mktemp("store"))
    finally:
        machine.clean()


def census(postgres: External) -> list[Any]:
    """As the administrator of that service sees it."""
    url = postgres.url("supabase_admin", "sslmode=require", password=OF_ADMINISTRATOR)
    url = url.replace("/supabase_admin?", "/postgres?")
    with psycopg.connect(url, autocommit=True) as link:
        return taken(link, *ROWS)


def agents(here: Kept) -> set[str]:
    with api(here.deployment) as client:
        return {str(agent.name) for agent in client.agents.list()}


def test_what_is_lettas_comes_back_and_what_is_others_stays_to_the_byte(
    place: Kept, postgres: External
) -> None:
    first = make_agent(place.deployment, "first")
    postgres.sql("postgres", "INSERT INTO public.app_agents (agent_id) SELECT id FROM letta.agents")
    before = census(postgres)
    older = place.create()
    assert older.manifest.database.scope == "letta"
    assert not [name for name in older.manifest.database.tables if not _is_lettas(name)]
    assert (
        overall([each.verdict for each in verify(place.store, older, place.key, print)]) == PASSED
    )
    assert place.json("backup", "drill", older.id)["verdict"] == "passed"
    assert changes(before, census(postgres)) == []

    for number in range(5):  # a day of messages
        talk(place.deployment, first, f"message {number}")
    make_agent(place.deployment, "newer")
    place.create()
    assert changes(before, census(postgres)) == []

    plan = place.json("backup", "restore", older.id, "--dry-run")
    assert plan["newer_than_backup"]["agents"] == 1
    answer = place.run("--json", "backup", "restore", older.id, "--yes", "--no-smoke")
    assert answer.code == 0, answer.err
    assert (answer.json["previous"], answer.json["proven"]) == ("letta_previous", True)
    assert (agents(place), changes(before, census(postgres))) == ({"first"}, [])
    talk(place.deployment, first, "after the restore")
    findings = {
        each["name"]: each["state"] for each in place.run("--json", "check").json["findings"]
    }
    for name in ("database", "identity", "extension", "revision", "encryption"):
        assert findings[name] == "OK", name

    place.json("backup", "restore", "--undo", "--yes", "--no-smoke")
    assert (agents(place), changes(before, census(postgres))) == ({"first", "newer"}, [])
    place.json("backup", "restore", "--drop-previous", "--yes")
    assert changes(before, census(postgres)) == []
    ensure_no_secret_is_seen(place.stack, answer.out, answer.err)  # type: ignore[arg-type]


def test_a_restore_that_is_killed_is_undone_there_too(
    place: Kept, postgres: External, tmp_path: Path
) -> None:
    backup, before, now = place.find(), census(postgres), agents(place)
    command = start(
        place, "restore", backup.id, "--yes", "--no-smoke", "--stop-first", log=tmp_path / "log"
    )
    assert command.wait_for("switching: the server is started"), command.said
    command.kill(alone=False)
    journal = place.stack.folder.root / "restore.json"
    wait_until("the guard has finished", lambda: not journal.exists(), GUARD_SECONDS)
    assert (agents(place), changes(before, census(postgres))) == (now, [])


def test_what_belongs_to_another_role_is_named_and_nothing_begins(
    place: Kept, postgres: External
) -> None:
    postgres.sql(
        "postgres",
        "CREATE VIEW auth.of_lettas AS SELECT id FROM letta.agents;"
        " REVOKE CREATE ON DATABASE postgres FROM letta",
    )
    try:
        error = place.json("backup", "restore", "latest", "--dry-run", code=1)["error"]
        assert "for 2 reasons" in error["message"]
        assert "auth.of_lettas: it belongs to postgres" in error["message"]
        assert "may not make a schema" in error["message"]
    finally:
        postgres.sql(
            "postgres", "DROP VIEW auth.of_lettas; GRANT CREATE ON DATABASE postgres TO letta"
        )


def _is_lettas(name: str) -> bool:
    schema, _, table = name.partition(".")
    known = RELEASES["0.16.8"].tables
    return (schema == "letta" and table in known) or schema == "letta_ops"
