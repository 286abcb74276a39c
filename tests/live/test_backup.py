"""Backups of a real stack: complete, consistent, without a secret, and known for damaged if they are."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from backups.catalog import Backup, read_catalog
from backups.contents import compare
from backups.crypto import new_identity
from backups.lock import locked
from backups.manifest import DATABASE, FORMAT, MANIFEST, parse_manifest
from backups.opening import Key, opened_part
from backups.restoring.generations import generations_of
from backups.restoring.plan import Options, make_plan
from backups.restoring.restore import restore
from backups.scope import scope_of
from backups.side_database import SideDatabase, drop_database, restore_database
from backups.streams import chunks_of
from backups.table_of_contents import reader_of
from backups.verdicts import FAILED, PASSED, UNVERIFIED, overall
from backups.verify import verify
from infra.errors import LettaOpsError
from infra.files import is_held
from infra.targets import host
from ops_cli.auditing import Operation
from tests.contract.s3_server import S3Server, running_s3_server
from tests.live.kept import OF_THE_STORE, Kept, damaged_copy, kept, make_agent, talk
from tests.live.machine import LETTA_OPS, ROOT, Stack, wait_until

POSITIONS = ("header", "middle", "tail")
PARTS = ("database", "rows-1", "rows-2", "memory-files", "config", "encryption-key")
# One of each kind of part is enough for every change.
FIRST_PARTS = [
    pytest.param(part, marks=pytest.mark.long if part in ("rows-2", "config") else ())
    for part in PARTS
]


@pytest.fixture(scope="module")
def place(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """The shared stack with an agent that has talked, and a store of the tests' own."""
    from infra.api import api

    made = kept(stack, tmp_path_factory.mktemp("backup"))
    agent = make_agent(stack.deployment, "backed-up")
    yield made
    with api(stack.deployment) as client:
        client.agents.delete(agent)


@pytest.fixture(scope="module")
def backup(place: Kept) -> Backup:
    return place.create("--label", "before the tests")


def plain(place: Kept, folder: Path) -> Kept:
    """The same stack with a store of its own that is not encrypted."""
    return Kept(place.stack, folder, {"LETTA_OPS_STORE_URL": folder.as_uri()})


def test_create_tells_what_it_made_and_list_and_show_find_it(place: Kept, backup: Backup) -> None:
    counts = dict.fromkeys(("agents", "messages"), 0)
    for name in counts:
        counts[name] = place.sql(f"SELECT count(*) FROM {name}")[0][0]  # noqa: S608
    (listed,) = [each for each in place.json("backup", "list") if each["id"] == backup.id]
    assert {name: listed[name] for name in counts} == counts
    assert listed["label"] == "before the tests"
    assert listed["encrypted"] is True
    assert listed["size"] == sum(
        path.stat().st_size for path in place.folder(backup).iterdir() if path.name != MANIFEST
    )
    shown = place.json("backup", "show", backup.id)
    assert {part["name"] for part in shown["parts"]} == set(PARTS)
    assert shown["key_escrowed"] is True
    assert shown["database"]["revision"] == backup.manifest.database.revision is not None
    answer = place.run("backup", "show", backup.id[:16])
    assert backup.id in answer.out


def test_a_dry_run_makes_nothing_and_text_says_what_was_made(place: Kept, tmp_path: Path) -> None:
    here = plain(place, tmp_path / "store")
    told = here.json("backup", "create", "--dry-run")
    assert told["dry_run"] is True
    assert told["encryption"] is None
    assert not here.root.exists()
    answer = here.run("backup", "create")
    assert answer.code == 0, answer.err
    made = here.find()
    assert f"backup {made.id} is complete" in answer.out
    assert "warning: no recovery copy of the server's encryption key" in answer.err
    assert not made.manifest.encrypted
    assert not made.manifest.key_escrowed


def test_verify_passes_with_the_identity_and_is_unverified_without_it(
    place: Kept, backup: Backup
) -> None:
    passed = place.json("backup", "verify", backup.id)
    assert {check["name"]: check["verdict"] for check in passed["checks"]} == dict.fromkeys(
        ("signature", *PARTS), PASSED
    )
    without = {"LETTA_OPS_BACKUP_IDENTITY": ""}
    answer = place.json("backup", "verify", backup.id, code=3, environment=without)
    assert answer["verdict"] == UNVERIFIED
    parts = [check for check in answer["checks"] if check["name"] != "signature"]
    assert {check["verdict"] for check in parts} == {UNVERIFIED}


def test_another_identity_verifies_nothing(place: Kept, backup: Backup, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(new_identity()[0].reveal())
    words = ("backup", "verify", backup.id, "--identity", f"file:{tmp_path / 'other'}")
    assert place.json(*words, code=3)["verdict"] == UNVERIFIED


@OF_THE_STORE
def test_a_passphrase_closes_and_opens_a_backup(place: Kept, tmp_path: Path) -> None:
    here = plain(place, tmp_path / "store")
    phrase = {"LETTA_OPS_BACKUP_PASSPHRASE": "env:PHRASE", "PHRASE": "correct horse"}
    here.json("backup", "create", environment=phrase)
    assert here.find().manifest.encryption == "age-passphrase"
    assert here.json("backup", "verify", environment=phrase)["verdict"] == PASSED
    assert here.json("backup", "verify", code=3)["verdict"] == UNVERIFIED
    assert b"correct horse" not in stored(here.root)


@OF_THE_STORE
@pytest.mark.parametrize("part", FIRST_PARTS)
def test_one_altered_byte_anywhere_in_a_part_is_seen_by_verify_and_by_restore(
    part: str, place: Kept, backup: Backup, tmp_path: Path
) -> None:
    found = backup.manifest.part(part)
    assert found is not None
    pids = place.stack.pids()
    for position in POSITIONS:
        copy = damaged_copy(place, backup, found.object, position, tmp_path / "store")
        verdicts = {
            check.name: check.verdict for check in verify(copy.store, backup, copy.key, print)
        }
        assert verdicts == {**dict.fromkeys(PARTS, PASSED), part: FAILED}, position
        without = [check.verdict for check in verify(copy.store, backup, Key(), print)]
        assert overall(without) == FAILED, position
        with pytest.raises(LettaOpsError) as caught:
            restored(copy, backup)
        assert caught.value.code in ("part-damaged", "wrong-identity"), position
    assert place.stack.pids() == pids
    assert not [name for name in place.databases() if name.endswith("_restoring")]
    assert not (place.stack.folder.root / "restore.json").exists()


def restored(here: Kept, backup: Backup) -> None:
    """Restore as the command does, up to where the damage has to be seen."""

    def confirm_server(*_: object) -> None:
        pytest.fail("a damaged backup was put into the place of the live database")

    deployment, key = here.deployment, here.key
    with (
        locked(deployment, here.store, "test", print) as lock,
        generations_of(deployment, scope_of(deployment)) as generations,
    ):
        plan = make_plan(deployment, generations, here.store, backup, key, Options())
        record = Operation("test")
        restore(
            deployment,
            generations,
            here.store,
            plan,
            key,
            lock,
            confirm_server,
            print,
            record=record,
        )


@OF_THE_STORE
@pytest.mark.parametrize("position", POSITIONS)
def test_an_altered_manifest_is_no_backup(
    position: str, place: Kept, backup: Backup, tmp_path: Path
) -> None:
    copy = damaged_copy(place, backup, MANIFEST, position, tmp_path / "store")
    for words in (["verify", backup.id], ["restore", backup.id, "--yes"]):
        assert copy.refused("backup", *words) == "manifest-damaged"
    assert [each["id"] for each in copy.json("backup", "list") if "damaged" in each] == [backup.id]


@OF_THE_STORE
def test_a_manifest_of_a_newer_format_is_said_to_be_one(
    place: Kept, backup: Backup, tmp_path: Path
) -> None:
    copy = damaged_copy(place, backup, MANIFEST, "middle", tmp_path / "store")
    text = (place.folder(backup) / MANIFEST).read_text()
    (copy.folder(backup) / MANIFEST).write_text(
        re.sub(r'"format": \d+', f'"format": {FORMAT + 1}', text)
    )
    assert copy.refused("backup", "restore", backup.id, "--yes") == "manifest-newer"


@OF_THE_STORE
@pytest.mark.parametrize("part", FIRST_PARTS)
def test_a_part_that_is_missing_or_cut_fails(
    part: str, place: Kept, backup: Backup, tmp_path: Path
) -> None:
    found = backup.manifest.part(part)
    assert found is not None
    copy = damaged_copy(place, backup, found.object, "tail", tmp_path / "store")
    path = copy.folder(backup) / found.object
    whole = (place.folder(backup) / found.object).read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0", None):
        path.unlink() if content is None else path.write_bytes(content)
        verdicts = {
            check.name: check.verdict for check in verify(copy.store, backup, copy.key, print)
        }
        assert verdicts == {**dict.fromkeys(PARTS, PASSED), part: FAILED}
        with pytest.raises(LettaOpsError, match=found.object):
            restored(copy, backup)


def test_what_is_counted_is_what_the_dump_holds_while_a_client_writes_all_the_time(
    place: Kept,
) -> None:
    from infra.api import api

    agent = make_agent(place.deployment, "never-silent")
    ended = threading.Event()
    written: list[None] = []

    def write() -> None:
        while not ended.is_set():
            talk(place.deployment, agent, f"message {len(written)}")
            written.append(None)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until("it writes", lambda: len(written) > 2)
        before = len(written)
        made = place.create()
        wait_until("it has written on", lambda: len(written) > before + 1)
    finally:
        ended.set()
        writer.join()
        with api(place.deployment) as client:
            client.agents.delete(agent)
    deployment, side = place.deployment, SideDatabase("letta_compared", "letta")
    scratch = place.root
    with place.access() as access, host(deployment).owner() as owner:
        restore_database(
            access, owner, side, place.store, made, place.key, scratch, print, trusted=True
        )
        try:
            with access.connect(side.name) as link:
                assert compare(link, made.manifest.database) == []
                (rows,) = link.execute("SELECT count(*) FROM public.messages").fetchall()
        finally:
            drop_database(access, side.name)
    assert deployment.database is not None
    assert rows[0] == made.manifest.database.rows("messages")
    newest = made.manifest.newest_message_at
    assert newest is not None
    assert newest <= made.manifest.created_at


@pytest.mark.target("local", reason="its programs and its socket are at hand")
def test_the_documents_say_how_to_restore_without_us(
    place: Kept, backup: Backup, tmp_path: Path
) -> None:
    """Run as printed, but for age and zstd: there is what they would write."""
    text = (ROOT / "docs/restore.md").read_text().partition("## Without letta-ops")[2]
    script = text.partition("```text\n")[2].partition("```")[0]
    script = re.sub(r"age -d -i identity\.txt (\S+) \| zstd -d", r"cat \1", script)
    script = re.sub(r"((?:psql|psql -At|-d) )letta ", r"\1by_hand ", script)
    assert script.count("by_hand") == 4
    for part in backup.manifest.parts:
        if part.of_database:
            with opened_part(place.store, backup, part.name, place.key) as source:
                (tmp_path / part.object).write_bytes(b"".join(chunks_of(source)))
    with place.access() as access:
        place.sql("CREATE DATABASE by_hand TEMPLATE template0", name="postgres")
        try:
            programs = reader_of(backup.manifest).path.parent
            environment = {**access.environment("postgres"), "PATH": f"{programs}:/usr/bin:/bin"}
            done = subprocess.run(
                ["sh", "-eu", "-c", script], cwd=tmp_path, env=environment,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, "")
            with access.connect("by_hand") as link:
                assert compare(link, backup.manifest.database) == []
        finally:
            place.sql("DROP DATABASE by_hand WITH (FORCE)", name="postgres")
    assert backup.manifest.database.rows("archival_passages") == 1


def stored(folder: Path) -> bytes:
    """Everything in a store, as it lies there and decompressed."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found.append(data)
            if path.suffix == ".zst":
                found.append(zstandard.ZstdDecompressor().decompressobj().decompress(data))
    return b"\n".join(found)


def test_no_secret_of_the_stack_is_stored_logged_or_said(place: Kept, tmp_path: Path) -> None:
    here = plain(place, tmp_path / "store")
    # Said twice in its --json and -v, once in text.
    answers = [here.run("-v", "backup", "create"), here.run("--json", "-v", "backup", "create")]
    answers += [here.run("-v", "backup", "verify"), here.run("--json", "backup", "show")]
    assert [answer.code for answer in answers] == [0] * len(answers)
    folder = place.stack.folder
    logs = [path.read_bytes() for path in folder.logs.glob("*.log")]
    logs += [path.read_bytes() for path in folder.logs.glob("audit*")]
    said = [(answer.out + answer.err).encode() for answer in answers]
    everything = b"\n".join([stored(here.root), *logs, *said])
    assert b"PostgreSQL database dump" in everything or b"PGDMP" in everything
    for name, secret in place.stack.deployment.named_secrets.items():
        assert secret is not None
        assert secret.reveal().encode() not in everything, name


def test_the_second_of_two_is_told_who_is_at_work(place: Kept, tmp_path: Path) -> None:
    from dataclasses import replace

    machine = replace(place.stack.machine, extra=place.environment)
    log = tmp_path / "first.log"
    first = machine.start(LETTA_OPS, "--stack", place.stack.name, "backup", "create", log=log)
    try:
        wait_until("it works", lambda: is_held(place.stack.folder.lock) or first.poll() is not None)
        os.kill(first.pid, signal.SIGSTOP)
        assert first.poll() is None, log.read_text()
        error = place.json("backup", "create", code=1)["error"]
        assert error["code"] == "locked"
        assert str(first.pid) in error["message"]
        assert "backup create" in error["message"]
    finally:
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait(60) == 0, log.read_text()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("backups")
        yield server


def in_bucket(place: Kept, server: S3Server, name: str = "backups") -> Kept:
    """The shared stack with its store in a bucket; the credentials stand in a variable and a file."""
    secret = place.root.parent / "secret-key"
    secret.write_text(f"{server.secret_key.reveal()}\n")
    return Kept(
        place.stack,
        place.root,
        {
            **place.environment,
            "LETTA_OPS_STORE_URL": f"s3://{name}/of/tests",
            "LETTA_OPS_STORE_ENDPOINT": server.url,
            "LETTA_OPS_STORE_ACCESS_KEY_ID": "env:TEST_ACCESS_KEY",
            "LETTA_OPS_STORE_SECRET_ACCESS_KEY": f"file:{secret}",
            "LETTA_OPS_STORE_TIMEOUT": "10",
            "TEST_ACCESS_KEY": server.access_key,
        },
    )


def test_a_bucket_holds_a_backup_as_a_folder_does(place: Kept, bucket: S3Server) -> None:
    here = in_bucket(place, bucket)
    answer = here.run("--json", "-v", "backup", "create")
    assert answer.code == 0, answer.out + answer.err
    made = answer.json["id"]
    assert here.json("backup", "verify", made)["verdict"] == PASSED
    assert [each["id"] for each in here.json("backup", "list")] == [made]
    plan = here.json("backup", "restore", made, "--dry-run")
    assert plan["brings"]["agents"] == answer.json["agents"]
    for secret in (bucket.secret_key.reveal(), bucket.access_key):
        assert secret not in answer.out + answer.err


def test_nothing_leaves_the_machine_in_the_clear_unless_it_was_said(
    place: Kept, bucket: S3Server
) -> None:
    here = in_bucket(place, bucket)
    clear = {"LETTA_OPS_BACKUP_RECIPIENTS": "", "LETTA_OPS_STORE_URL": "s3://backups/clear"}
    assert here.refused("backup", "create", environment=clear) == "backup-unencrypted"
    said = {**clear, "LETTA_OPS_BACKUP_ENCRYPTION": "none"}
    assert here.json("backup", "create", environment=said)["encrypted"] is False


CASES: dict[str, tuple[dict[str, str], str]] = {
    "bucket gone": ({"LETTA_OPS_STORE_URL": "s3://no-such-bucket/x"}, "store-missing"),
    "denied": ({"TEST_ACCESS_KEY": "somebody-else"}, "store-denied"),
    "nobody there": ({"LETTA_OPS_STORE_ENDPOINT": "http://127.0.0.1:9"}, "store-unreachable"),
    "no credential": ({"TEST_ACCESS_KEY": ""}, "configuration"),
}


@OF_THE_STORE
@pytest.mark.parametrize("case", CASES)
def test_a_store_that_refuses_is_named_with_the_next_step(
    case: str, place: Kept, bucket: S3Server
) -> None:
    environment, code = CASES[case]
    here = in_bucket(place, bucket)
    # Whoever isn't there is tried again and again: once is enough.
    ways = (["create"], ["list"], ["restore", "latest", "--yes"])
    for words in ways[:1] if code == "store-unreachable" else ways:
        error = here.json("backup", *words, code=1, environment=environment)["error"]
        assert (error["code"], bool(error["hint"])) == (code, True)
        assert bucket.secret_key.reveal() not in json.dumps(error)


@OF_THE_STORE
def test_recipients_that_are_kept_in_the_configuration_are_used(
    place: Kept, tmp_path: Path
) -> None:
    """The way that people set them: `up --config`."""
    recipient = place.environment["LETTA_OPS_BACKUP_RECIPIENTS"]
    try:
        place.stack.json("up", "--no-smoke", "--config", f"backup.recipients={recipient}")
        here = plain(place, tmp_path / "store")
        here.json("backup", "create")
        assert here.find().manifest.recipients == (recipient,)
    finally:
        place.stack.json("up", "--no-smoke", "--config", "backup.recipients=")


def document(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_failed_backup_leaves_nothing_that_is_listed(place: Kept, tmp_path: Path) -> None:
    """A store that can't be written to any more."""
    blocked = tmp_path / "store"
    blocked.write_text("a file in the place of the folder")
    here = plain(place, blocked)
    assert here.refused("backup", "create").startswith("store-")
    assert blocked.read_text() == "a file in the place of the folder"
    catalog = read_catalog(place.store, None)
    assert all(parse_manifest(each.manifest.as_text().encode(), "x") for each in catalog.backups)
    assert DATABASE in {part.name for part in catalog.backups[0].manifest.parts}


@pytest.mark.target("docker", reason="only there is Postgres in a container")
def test_a_database_in_a_container_is_dumped_by_the_program_beside_it(place: Kept) -> None:
    """Whatever this machine has: nothing else is sure to know the server's release."""
    made = place.create()
    assert made.manifest.tools["pg_dump"] == made.manifest.database.postgres
    (postgres,) = [
        name for name in made.manifest.packages if name.startswith("letta-ops/postgres:")
    ]
    version = f"postgresql-17={made.manifest.database.postgres}-"
    assert version in made.manifest.packages[postgres]
    checks = verify(place.store, made, place.key, print)
    assert overall([each.verdict for each in checks]) == PASSED
