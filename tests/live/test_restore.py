"""What a restore brings back is what was there, wherever it came from; and what fails changes nothing."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backups.catalog import Backup, write_object
from backups.contents import compare, read_sequences
from backups.create import create
from backups.crypto import new_identity
from backups.layout import move_extension, move_schema
from backups.manifest import DATABASE, MANIFEST
from backups.restoring.journal import names_of, read_journal
from backups.side_database import SideDatabase, drop_database, restore_database
from backups.signing import own_key, signed
from backups.sources.memory_files import MemoryPlace
from infra.api import api
from infra.files import write_private
from infra.sensitive import Sensitive
from infra.servers import start_server, stop_server
from infra.stack.backup_settings import BackupSection, BackupSettings
from infra.stack.deployment import SERVICE_MODEL, Deployment, Role
from infra.stack.fingerprint import key_fingerprint
from infra.targets import host
from tests.live.kept import (
    OF_A_MOVE,
    OF_A_START,
    Kept,
    assert_same,
    damaged_copy,
    git_problems,
    kept,
    make_agent,
    talk,
    write_memory,
)
from tests.live.machine import Machine, Stack

COMMITS = 3
ODD = "Tables of Letta"  # a schema whose name has to be quoted


@pytest.fixture(scope="module")
def place(own_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """The stack that is backed up, with an agent called `first` and git memory."""
    made = kept(own_stack, tmp_path_factory.mktemp("restore"))
    make_agent(made.deployment, "first")
    write_memory(made.deployment, tmp_path_factory.mktemp("memory"), COMMITS)
    return made


@pytest.fixture(scope="module")
def backup(place: Kept) -> Backup:
    return place.create()


def another_machine(target: str | None = None) -> Iterator[Machine]:
    root = Path(tempfile.mkdtemp(prefix="letta-ops other-"))
    root.chmod(0o755)
    made = Machine(root) if target is None else Machine(root, target=target)
    yield made
    made.clean()


@pytest.fixture(scope="module")
def elsewhere(place: Kept) -> Iterator[Kept]:
    """A brand-new stack on another machine, with agents of its own, and the same store and identity."""
    for machine in another_machine():
        stack = machine.stack("recovered")
        stack.up("--no-smoke")
        made = Kept(stack, place.root, place.environment)
        make_agent(made.deployment, "of-the-other-machine")
        yield made


def agents(here: Kept) -> set[str]:
    with api(here.deployment) as client:
        return {agent.name for agent in client.agents.list()}


def findings(here: Kept) -> dict[str, str]:
    answer = here.run("--json", "check")
    return {each["name"]: each["state"] for each in answer.json["findings"]}


def test_a_restore_brings_back_everything_and_keeps_what_it_replaces(
    place: Kept, backup: Backup, tmp_path: Path
) -> None:
    before, vectors = place.tables(), place.sql(VECTORS)
    assert vectors
    (first,) = [row[0] for row in place.sql("SELECT id FROM agents WHERE name = 'first'")]
    ((highest,),) = place.sql("SELECT max(sequence_id) FROM messages")
    talk(place.deployment, first, "newer than the backup")
    make_agent(place.deployment, "newer")
    write_memory(place.deployment, tmp_path / "newer", COMMITS + 2)
    newer = place.tables()

    plan = place.json("backup", "restore", backup.id, "--dry-run")
    assert plan["expected_down_seconds"] is None
    changed = {line.split()[1] for line in plan["goes_back"] if line.startswith("table ")}
    assert {"public.agents", "public.messages", "public.archival_passages"} <= changed
    assert plan["newer_than_backup"]["agents"] == 1
    assert plan["newer_than_backup"]["messages"] > 2
    assert plan["of_other_deployment"] is plan["takes_over_key"] is plan["secrets_lost"] is False
    assert place.refused("backup", "restore", backup.id) == "not-confirmed"
    assert place.tables() == newer

    done = place.json("backup", "restore", backup.id, "--yes")
    assert done["previous"] == "letta_previous"
    assert agents(place) == {"first"}
    assert_same(place, before, OF_A_START)
    assert place.sql(VECTORS) == vectors
    assert git_problems(place.deployment, tmp_path / "read") == ["", str(COMMITS)]
    talk(place.deployment, first, "after the restore")
    ((now,),) = place.sql("SELECT max(sequence_id) FROM messages")
    assert now > highest
    assert place.sql("SELECT count(*) FROM messages WHERE agent_id = %s", first)[0][0] > 2
    assert {findings(place)[name] for name in OF_THE_DATABASE} == {"OK"}

    kept_there = place.tables("letta_previous")
    assert kept_there == newer
    assert MemoryPlace.of(place.deployment).has_previous()
    assert place.json("backup", "restore", "--drop-previous", "--yes")["dropped"] is not None
    assert place.databases() == {"letta"}
    assert not MemoryPlace.of(place.deployment).has_previous()


@pytest.mark.long
def test_a_restore_that_was_a_mistake_is_undone(
    place: Kept, backup: Backup, tmp_path: Path
) -> None:
    undo, again = ("backup", "restore", "--undo"), ("backup", "restore", backup.id)
    assert place.refused(*undo, "--yes") == "nothing-to-undo"
    newest = make_agent(place.deployment, "newest")
    write_memory(place.deployment, tmp_path / "newest", COMMITS + 1)
    before = place.tables()
    assert place.json(*again, "--dry-run")["drops"] == []
    place.stack.stop(SERVICE_MODEL)  # that says nothing of the data: what was restored stays
    answer = place.run("--json", *again, "--yes")
    assert answer.code == 0, answer.err
    assert answer.json["proven"]
    assert "not decisive: message" in answer.err
    host(place.deployment).start(SERVICE_MODEL)
    rows = {"agents": 2, "messages": before["public.messages"].rows}
    plan = place.json(*again, "--dry-run")
    assert plan["drops"] == [{"database": "letta_previous", **rows}]
    assert plan["expected_down_seconds"] > 1

    plan = place.json(*undo, "--dry-run")
    assert plan["brings"] == rows
    assert plan["replaces"]["agents"] == 1
    assert place.refused(*undo) == "not-confirmed"
    assert agents(place) == {"first"}
    place.json(*undo, "--yes")
    assert agents(place) == {"first", "newest"}
    assert_same(place, before, OF_A_START)
    assert git_problems(place.deployment, tmp_path / "read") == ["", str(COMMITS + 1)]
    talk(place.deployment, newest, "after all")
    assert place.databases() == {"letta", "letta_undone"} == {"letta", plan["kept"]}
    assert "undone already" in place.json(*undo, "--yes", code=1)["error"]["message"]
    (drops,) = place.json(*again, "--dry-run")["drops"]
    assert drops["database"] == "letta_undone"
    trail = [event["command"] for event in place.json("audit", "list", "--limit", "2")]
    assert trail == ["backup restore --undo", "backup restore"]
    assert {findings(place)[name] for name in OF_THE_DATABASE} == {"OK"}

    answer = place.run("--json", *again, "--yes", "--drop-previous", "--no-smoke")
    assert "smoke:" not in answer.err
    assert "proof: archival: passed" in answer.err
    done = answer.json
    assert (done["previous"], done["dropped"]) == (None, "letta_previous, memory")
    assert agents(place) == {"first"}
    assert place.databases() == {"letta"}
    assert git_problems(place.deployment, tmp_path / "last") == ["", str(COMMITS)]


def test_a_restore_that_was_killed_when_it_had_taken_effect_is_on_record(place: Kept) -> None:
    """Its last lines are missing: what it replaced is still there, and so is its journal."""
    names, identifier = names_of(place.deployment), uuid.uuid4()
    before, file = place.tables(), place.stack.folder.root / "restore.json"
    replace(names, backup="of-that-time", proven=True, record=str(identifier)).write(file)
    answer = place.run("backup", "create")
    assert answer.code == 0, answer.err
    assert "was killed after it had taken effect" in answer.err
    assert not file.exists()
    assert place.tables() == before
    (found,) = [each for each in place.json("audit", "list") if each["id"] == str(identifier)]
    assert (found["command"], found["target"], found["result"]) == (
        "backup restore",
        "of-that-time",
        "done",
    )


@pytest.mark.target("local", reason="no port of a docker stack's database is open to a profile")
@pytest.mark.long
def test_a_server_that_is_not_ours_is_stopped_and_started_by_its_owner(
    place: Kept, backup: Backup, tmp_path: Path
) -> None:
    """By a hand-written profile: a restore and its undoing wait for the server to be stopped."""
    make_agent(place.deployment, "theirs")
    before, deployment = place.databases(), place.deployment
    words = ("--profile", str(_by_hand(deployment, tmp_path)), "backup", "restore")
    place.sql("DROP SCHEMA letta_ops CASCADE")  # ours, and not for this role
    with place.access() as access, access.connect("template1") as link:
        link.execute("ALTER ROLE letta CREATEDB")
        link.execute("GRANT CONNECT ON DATABASE postgres, template1 TO letta")
        link.execute("CREATE EXTENSION vector")
    try:
        assert place.refused(*words, backup.id, "--yes") == "server-runs"
        assert agents(place) == {"first", "theirs"}
        stop_server(deployment)
        assert place.json(*words, backup.id, "--yes")["proven"] is False
        start_server(deployment)
        assert agents(place) == {"first"}
        assert place.refused(*words, "--undo", "--yes") == "server-runs"
        place.json(*words[:-1], "create")  # nothing waits to be done at a better moment
        assert agents(place) == {"first"}
        stop_server(deployment)
        assert place.json(*words, "--undo", "--yes")["proven"] is False
        start_server(deployment)
        assert agents(place) == {"first", "theirs"}
        assert place.databases() == {*before, "letta_undone"}
    finally:
        with place.access() as access, access.connect("template1") as link:
            link.execute("ALTER ROLE letta NOCREATEDB")
            link.execute("REVOKE CONNECT ON DATABASE postgres, template1 FROM letta")
            link.execute("DROP EXTENSION vector")
    place.json("backup", "restore", backup.id, "--yes", "--drop-previous")


def _by_hand(deployment: Deployment, folder: Path) -> Path:
    server, database = deployment.server, deployment.database
    assert database is not None
    assert server.password is not None
    assert server.encryption_key is not None
    assert database.owner.password is not None
    assert deployment.signing_key is not None
    profile = folder / "profile.toml"
    write_private(
        profile,
        f"""id = "{deployment.id}"
release = "{deployment.release}"
[server]
url = "{server.url}"
password = "{server.password.reveal()}"
encryption_key = "{server.encryption_key.reveal()}"
[database]
host = "127.0.0.1"
port = {database.port}
name = "letta"
owner = "letta"
owner_password = "{database.owner.password.reveal()}"
[backup]
scope = "database"
[signing]
key = "{deployment.signing_key.reveal()}"
""",
    )
    return profile


VECTORS = "SELECT id, text, embedding::text FROM archival_passages ORDER BY id"
OF_THE_DATABASE = ("api", "database", "identity", "extension", "revision", "encryption")


def test_what_must_not_be_restored_is_refused_before_anything_is_touched(
    place: Kept, backup: Backup, tmp_path: Path
) -> None:
    before, pids, databases = place.tables(), place.stack.pids(), place.databases()
    (tmp_path / "other").write_text(new_identity()[0].reveal())
    wrong = ("--identity", f"file:{tmp_path / 'other'}")
    words = ("backup", "restore", backup.id, "--yes")
    assert place.refused(*words, *wrong) == "wrong-identity"
    missing = {"LETTA_OPS_BACKUP_IDENTITY": ""}
    assert place.refused(*words, environment=missing) == "identity-missing"
    part = backup.manifest.part(DATABASE)
    assert part is not None
    damaged = damaged_copy(place, backup, part.object, "middle", tmp_path / "store")
    assert damaged.refused(*words) == "part-damaged"
    manifest, database = backup.manifest, backup.manifest.database
    cases = {
        "backup-newer-postgres": replace(manifest, database=replace(database, postgres="99.1")),
        "backup-newer-schema": replace(
            manifest, release="0.99.0", database=replace(database, revision="f00")
        ),
        "wrong-encryption-key": replace(manifest, key_fingerprint="0" * 16),
    }
    key = own_key(place.deployment)
    assert key is not None
    for code, changed in cases.items():
        write_object(damaged.store, backup.object(MANIFEST), changed.as_text())
        assert damaged.refused(*words) == "backup-forged"
        ours = replace(changed, signature=signed(changed, key))
        write_object(damaged.store, backup.object(MANIFEST), ours.as_text())
        assert damaged.refused(*words) == code
    assert place.tables() == before
    assert place.stack.pids() == pids
    assert place.databases() == databases


@pytest.mark.long
def test_a_backup_of_another_deployment_is_refused_unless_it_is_wanted(
    place: Kept, backup: Backup, elsewhere: Kept
) -> None:
    for word in (backup.id, "latest"):
        error = elsewhere.json("backup", "restore", word, "--yes", code=1)["error"]
        assert error["code"] == "foreign-backup"
        assert "--into-other" in error["hint"]
    assert agents(elsewhere) == {"of-the-other-machine"}


@pytest.mark.long
def test_a_restore_that_fails_after_the_switch_leaves_everything_as_it_was(
    elsewhere: Kept, backup: Backup, tmp_path: Path
) -> None:
    """The harder case: by then the server has taken over the backup's encryption key."""
    write_memory(elsewhere.deployment, tmp_path / "memory", 1)
    before, profile = elsewhere.tables(), elsewhere.stack.folder.profile.read_text()
    locked_out = {"LETTA_OPS_SERVER_PASSWORD": "not-the-server's"}
    words = ("backup", "restore", backup.id, "--into-other", "--yes")
    answer = elsewhere.run("--json", *words, environment=locked_out)
    assert answer.json["error"]["code"] == "smoke-failed", answer.out + answer.err
    assert "did not succeed" not in answer.err
    assert_same(elsewhere, before, OF_A_START)
    assert agents(elsewhere) == {"of-the-other-machine"}
    assert git_problems(elsewhere.deployment, tmp_path / "read") == ["", "1"]
    assert not (elsewhere.stack.folder.root / "restore.json").exists()
    key = elsewhere.deployment.server.encryption_key
    assert key is not None
    assert key.reveal() in profile
    assert {findings(elsewhere)[name] for name in OF_THE_DATABASE} == {"OK"}


def test_only_the_store_and_the_identity_recover_a_lost_machine(
    place: Kept, backup: Backup, elsewhere: Kept, tmp_path: Path
) -> None:
    answer = elsewhere.json("backup", "restore", backup.id, "--into-other", "--yes")
    assert answer["of_other_deployment"] is answer["takes_over_key"] is True
    nobody = {"LETTA_OPS_BACKUP_RECIPIENTS": ""}  # whom nobody has told to the new machine yet
    assert elsewhere.refused("backup", "create", environment=nobody) == "backup-unencrypted"
    assert agents(elsewhere) == {"first"}
    assert_same(elsewhere, backup.manifest.database.tables, OF_A_MOVE)
    assert elsewhere.sql(VECTORS) == place.sql(VECTORS)
    with api(elsewhere.deployment) as client:
        (agent,) = client.agents.list(include=["agent.secrets"])
        assert [(each.key, each.value) for each in agent.secrets or []] == [
            ("TOKEN", "the-secret-of-first")
        ]
    talk(elsewhere.deployment, agent.id, "are you there?")
    assert git_problems(elsewhere.deployment, tmp_path / "read") == ["", str(COMMITS)]
    assert {findings(elsewhere)[name] for name in OF_THE_DATABASE} == {"OK"}
    key, original = elsewhere.deployment.server.encryption_key, place.deployment.server
    assert key is not None
    assert original.encryption_key is not None
    assert key_fingerprint(key) == key_fingerprint(original.encryption_key)
    assert set(elsewhere.stack.json("up", "--no-smoke")["changes"]) <= {"same"}


@pytest.mark.long
def test_undoing_gives_the_data_its_own_encryption_key_back(elsewhere: Kept) -> None:
    taken_over = elsewhere.deployment.server.encryption_key
    assert taken_over is not None
    elsewhere.json("backup", "restore", "--undo", "--yes")
    key = elsewhere.deployment.server.encryption_key
    assert key is not None
    assert key_fingerprint(key) != key_fingerprint(taken_over)
    with api(elsewhere.deployment) as client:
        (agent,) = client.agents.list(include=["agent.secrets"])
        assert [(each.key, each.value) for each in agent.secrets or []] == [
            ("TOKEN", "the-secret-of-of-the-other-machine")
        ]
    assert {findings(elsewhere)[name] for name in OF_THE_DATABASE} == {"OK"}
    assert set(elsewhere.stack.json("up", "--no-smoke")["changes"]) <= {"same"}


@pytest.mark.long
def test_tables_go_where_the_target_has_them(elsewhere: Kept, backup: Backup) -> None:
    """The target has a schema of its own, with the extension in it, and a search path."""
    with elsewhere.access() as access, access.connect("letta") as link:
        stop_server(elsewhere.deployment)
        move_schema(link, "public", ODD, "letta")
        move_extension(link, ODD)
        link.execute(f'ALTER DATABASE letta SET search_path TO "{ODD}", public')
    elsewhere.json("backup", "restore", backup.id, "--into-other", "--yes")
    assert agents(elsewhere) == {"first"}
    assert_same(elsewhere, backup.manifest.database.tables, OF_A_MOVE, ODD)
    with elsewhere.access() as access, access.connect("letta") as link:
        assert f"{ODD}.message_seq_id" in read_sequences(link)
    assert elsewhere.sql(HOME) == [(ODD,)]
    assert {findings(elsewhere)[name] for name in OF_THE_DATABASE} == {"OK"}


HOME = (
    "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
    " WHERE e.extname = 'vector'"
)


@pytest.mark.long
def test_a_database_that_is_gone_comes_back_from_one_with_another_name_owner_and_layout(
    place: Kept, backup: Backup
) -> None:
    """Its tables lie in a schema of their own with the extension in it, its key is another one."""
    deployment = place.deployment
    stop_server(deployment)
    while_down = place.create("--label", "the server is down")
    assert while_down.manifest.database.rows("agents") == 1
    _make_source(place)
    assert deployment.database is not None
    other = replace(
        deployment,
        server=replace(deployment.server, encryption_key=Sensitive("another key")),
        database=replace(deployment.database, name="source", owner=Role("somebody")),
        backups=BackupSettings(backup=BackupSection(escrow=False)),
    )
    closed = create(other, place.store, None, print, allow_plain=True)
    place.sql("DROP PUBLICATION everything", name="source")
    made = create(other, place.store, None, print, allow_plain=True)
    assert made.database.schema == made.database.pgvector_schema == ODD
    place.sql("DROP DATABASE source WITH (FORCE)", name="postgres")
    place.sql("DROP DATABASE letta WITH (FORCE)", name="postgres")

    words = ("backup", "restore", made.id, "--yes")
    assert place.refused(*words) == "wrong-encryption-key"
    # Postgres lets nobody delete from a table without a key whose deletions are published: found by the
    # proof, and to go back to nothing takes no longer than to stop the server.
    again = ("backup", "restore", closed.id, "--yes", "--accept-lost-secrets")
    assert place.refused(*again) == "smoke-failed"
    assert read_journal(deployment) is None
    answer = place.json(*words, "--accept-lost-secrets")
    assert (answer["secrets_lost"], answer["replaces"], answer["previous"]) == (True, None, None)
    assert agents(place) == {"first"}
    assert place.sql(OWNERS) == [("letta", "public")]
    assert place.sql(HOME) == [("public",)]
    assert {findings(place)[name] for name in OF_THE_DATABASE} == {"OK"}
    assert place.sql("SELECT has_database_privilege('public', 'letta', 'CONNECT')") == [(False,)]


OWNERS = (
    "SELECT DISTINCT c.relowner::regrole::text, c.relnamespace::regnamespace::text FROM pg_class c"
    " WHERE c.relkind IN ('r', 'S', 'i', 'v') AND c.relnamespace::regnamespace::text"
    " NOT IN ('letta_ops', 'pg_catalog', 'information_schema', 'pg_toast')"
)


def _make_source(place: Kept) -> None:
    """A copy of Letta's database as others have it: nothing in it is called as it is here."""
    place.sql("CREATE ROLE somebody", name="postgres")
    place.sql("CREATE DATABASE source TEMPLATE letta", name="postgres")
    with place.access() as access, access.connect("source") as link:
        link.execute("DROP SCHEMA letta_ops CASCADE")
        link.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        move_schema(link, "public", ODD, "letta")
        move_extension(link, ODD)
        link.execute("REASSIGN OWNED BY letta TO somebody")
        link.execute("ALTER DATABASE source OWNER TO somebody")
        link.execute(f'ALTER DATABASE source SET search_path TO "{ODD}", public')


@pytest.mark.target("docker", reason="its PostgreSQL is older than that of the target local")
@pytest.mark.long
def test_a_backup_goes_to_a_newer_postgres_and_not_back(place: Kept, backup: Backup) -> None:
    for machine in another_machine("local"):
        stack = machine.stack("newer")
        stack.up("--no-smoke")
        here = Kept(stack, place.root, place.environment)
        here.json("backup", "restore", backup.id, "--into-other", "--yes")
        assert agents(here) == {"first"}
        assert {findings(here)[name] for name in OF_THE_DATABASE} == {"OK"}
        back = here.create()
        words = ("backup", "restore", back.id, "--into-other", "--yes")
        assert place.refused(*words) == "backup-newer-postgres"


def test_options_of_columns_that_no_server_here_knows_are_left_out_and_told(
    place: Kept, tmp_path: Path
) -> None:
    """As those that a later release writes into every table, which an older pg_dump takes along."""
    tables = (
        "UPDATE pg_attribute SET attoptions = {} WHERE attrelid = 'agents'::regclass"
        " AND attname IN ('id', 'name')"
    )
    place.sql(tables.format("'{n_distinct=5,of_a_later_release=1}'"))
    try:
        backup = place.create()
    finally:
        place.sql(tables.format("NULL"))
    told: list[str] = []
    side = SideDatabase("left_out", "letta")
    with place.access() as access, host(place.deployment).owner() as owner:
        restore_database(
            access, owner, side, place.store, backup, place.key, tmp_path, told.append, trusted=True
        )
        try:
            with access.connect("left_out") as link:
                assert compare(link, backup.manifest.database) == []
                # Debian's PostgreSQL has options of its own there, from 17.12 on.
                options = (
                    "SELECT option FROM pg_attribute, unnest(attoptions) option"
                    " WHERE attrelid = 'public.agents'::regclass AND option NOT LIKE 'pg_attver=%'"
                )
                assert link.execute(options).fetchall() == [("n_distinct=5",)] * 2
        finally:
            drop_database(access, "left_out")
    assert [line for line in told if line.endswith("does not know: of_a_later_release (2x)")]
