"""The fault table: whatever happens to a command in the middle, no data is lost, the next one works."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backups.catalog import deployment_id, read_catalog
from backups.create import create
from backups.manifest import MANIFEST
from infra.api import api
from infra.embedded import supervisor
from infra.errors import LettaOpsError
from tests.contract.faulty_proxy import EVERY, FaultyProxy, Harm, faulty_proxy
from tests.contract.s3_server import S3Server, running_s3_server
from tests.live.docker_stack import DockerStack
from tests.live.faults import (
    BALLAST,
    GUARD_SECONDS,
    SEED,
    Command,
    Phase,
    State,
    again,
    agents,
    assert_complete,
    assert_nothing_left,
    assert_unharmed,
    assert_whole,
    draft_is_growing,
    end_started,
    fill,
    guards,
    in_folder,
    interrupt,
    interrupted,
    measured,
    small_disk,
    start,
    state,
    undo_what_took_effect,
)
from tests.live.kept import OF_THE_STORE, Kept, kept, make_agent
from tests.live.machine import Answer, Machine, wait_until

# In the usual run the tenth is the restore that dies together with its guard.
KILLS = {"usual": {"create": 2, "restore": 2, "prune": 2, "drill": 1},
         "long": {"create": 40, "restore": 35, "prune": 20, "drill": 8}}  # fmt: skip
MANY = pytest.param("long", id="many", marks=[pytest.mark.long, pytest.mark.timeout(4 * 3600)])
HOW_MANY = [pytest.param("usual", id="a-few"), MANY]
RARER = [pytest.param("usual", id="a-few", marks=pytest.mark.long), MANY]
SERVED = "switching: the server is started"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the stack lives: for root a file system that a test may fill."""
    folder = Path(tempfile.mkdtemp(prefix="letta-ops test-"))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        with small_disk(folder, "2304m"):
            yield folder
        folder.rmdir()  # of the mount, nobody else could
    else:
        yield folder


@pytest.fixture(scope="module", params=["database", pytest.param("letta", marks=pytest.mark.long)])
def place(
    request: pytest.FixtureRequest, disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kept]:
    """A stack with an agent in a backup, and one that is newer than it: a restore would lose it."""
    machine = Machine(disk)
    try:
        made = kept(machine.stack("faults"), tmp_path_factory.mktemp("faults"))
        made.environment["LETTA_OPS_BACKUP_SCOPE"] = request.param
        made.stack.up("--no-smoke")
        make_agent(made.deployment, "backed-up")
        made.sql(BALLAST)
        made.json("backup", "create")
        newer(made)
        yield made
    finally:
        machine.clean()


def newer(place: Kept) -> None:
    """What a restore would lose: the sign that it was undone."""
    model = place.deployment.model
    with api(place.deployment) as client:
        client.agents.create(name="newer", model=model.handle, embedding=model.embedding)


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")  # noqa: S311  # no secret


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    end_started()


@pytest.fixture
def before(place: Kept) -> State:
    return state(place)


def ids(place: Kept) -> set[str]:
    return {each["id"] for each in place.json("backup", "list")}


def elsewhere(place: Kept, folder: Path, **environment: str) -> Kept:
    """The same stack with another, empty folder of backups."""
    there = place.at(folder)
    return replace(there, environment={**there.environment, **environment})


def assert_refused(place: Kept, answer: Answer, *codes: str) -> dict[str, str]:
    """Exit code 1, one of these errors with a next step, no traceback, and no secret. Returns it."""
    assert answer.code == 1, answer.out + answer.err
    everything = answer.out + answer.err
    assert "Traceback" not in everything
    for name, secret in place.deployment.named_secrets.items():
        assert secret is None or secret.reveal() not in everything, name
    error: dict[str, str] = answer.json["error"]
    print(f"{error['code']}: {error['message']}\n  next: {error['hint']}")
    assert error["code"] in codes, error
    assert error["hint"]
    return error


def refused(place: Kept, words: Sequence[str], *codes: str) -> dict[str, str]:
    return assert_refused(place, place.run("--json", *words), *codes)


@pytest.mark.parametrize("many", HOW_MANY)
def test_create_killed_at_any_moment_leaves_no_half_backup(
    many: str, place: Kept, before: State, chance: random.Random, tmp_path: Path
) -> None:
    here = elsewhere(place, tmp_path / "store")
    names, killed, known = in_folder(place.stack), [], set[str]()
    phases = measured(here, "create", log=tmp_path / "log")
    for number in range(KILLS[many]["create"]):
        phase = phases[1:][number % (len(phases) - 1)]
        killed.append(interrupted(here, phase, "create", chance=chance, log=tmp_path / "log"))
        assert_unharmed(here, before, known)
        known.add(json.loads(again(here, "create").out)["id"])
        assert_nothing_left(here, names, killed)
    known.clear()
    assert_complete(here, known)


@pytest.mark.parametrize("many", HOW_MANY)
def test_restore_killed_at_any_moment_is_undone_by_its_guard(
    many: str, place: Kept, before: State, chance: random.Random, tmp_path: Path
) -> None:
    """In the short run the next restore goes on until it is killed, too; the last one succeeds."""
    names, killed, known = in_folder(place.stack), [], ids(place)
    words, log = ("restore", "latest", "--yes"), tmp_path / "log"
    phases = restoring(measured(place, *words, log=log))
    newer(place)
    before = state(place)
    for number in range(KILLS[many]["restore"]):
        phase = phases[number * len(phases) // KILLS[many]["restore"]]
        killed.append(interrupted(place, phase, *words, chance=chance, log=log))
        undo_what_took_effect(place, before)
        assert_unharmed(place, before, known)
        if many == "long":
            before = restored(place)
            assert_nothing_left(place, names, killed)
    restored(place)
    assert_nothing_left(place, names, killed)
    assert place.stack.json("smoke")["passed"]


def restoring(phases: list[Phase]) -> list[Phase]:
    """Those with work in them: not the start of Python, and not what follows when all is proven."""
    lines = [phase.line or "" for phase in phases]
    first = next(number for number, line in enumerate(lines) if line.startswith("database:"))
    last = max(number for number, line in enumerate(lines) if line.startswith("smoke:"))
    return phases[first:last]


def restored(place: Kept) -> State:
    """The next restore succeeds; the stack is then as before it, but for what a smoke test leaves."""
    again(place, "restore", "latest", "--yes")
    assert agents(place.stack) == 1
    newer(place)
    return state(place)


@pytest.mark.long
def test_a_restore_that_dies_with_its_guard_is_undone_by_up(
    place: Kept, before: State, tmp_path: Path
) -> None:
    """As by a power failure: both are gone, and the machine comes up with what was never proven."""
    command = start(place, "restore", "latest", "--yes", log=tmp_path / "log")
    assert command.wait_for(SERVED), command.said
    found = guards(place.stack)
    assert len(found) == 1
    found[0].kill()
    command.kill(alone=False)
    assert (place.stack.folder.root / "restore.json").exists()
    place.stack.json("up", "--no-smoke")
    assert_unharmed(place, before, ids(place))


@pytest.mark.long
def test_an_undo_that_is_killed_is_finished_or_never_was(
    place: Kept, before: State, tmp_path: Path
) -> None:
    """Until the databases change places it is forgotten, from there on the guard finishes it."""
    again(place, "restore", "latest", "--yes")
    restored_one, words = state(place), ("restore", "--undo", "--yes")
    assert restored_one.agents == 1
    journal = place.stack.folder.root / "restore.json"
    for has_begun in (False, True):
        command = start(place, *words, log=tmp_path / "log")
        assert command.wait_for("going back: the server is stopped"), command.said
        if has_begun:
            wait_until("it has begun", lambda: "letta_undone" in set_aside(place), 60)
        command.kill(alone=False)
        wait_until("the guard has ended it", lambda: not journal.exists(), GUARD_SECONDS)
        assert_unharmed(place, before if has_begun else restored_one, ids(place))
    assert "undone already" in refused(place, ["backup", *words], "nothing-to-undo")["message"]


def set_aside(place: Kept) -> set[str]:
    """Databases, or schemas, that restores have made."""
    return place.databases() | place.schemas()


def drills(place: Kept) -> list[Path]:
    return list(place.stack.folder.root.glob("drill-*"))


@pytest.mark.parametrize("many", RARER)
def test_a_drill_killed_at_any_moment_is_cleared_away_by_its_guard(
    many: str, place: Kept, before: State, chance: random.Random, tmp_path: Path
) -> None:
    names, killed, known = in_folder(place.stack), [], ids(place)
    log = tmp_path / "log"
    times = measured(place, "drill", log=log) if many == "long" else [Phase("starting Letta", 10)]
    for number in range(KILLS[many]["drill"]):
        phase = times[number * len(times) // KILLS[many]["drill"]]
        killed.append(interrupted(place, phase, "drill", chance=chance, log=log))
        assert_unharmed(place, before, known)
        wait_until("its guard has cleared up", lambda: not drills(place), GUARD_SECONDS)
        again(place, "drill")
        assert_nothing_left(place, names, killed)


@pytest.mark.parametrize("many", RARER)
def test_prune_killed_at_any_moment_leaves_complete_backups(
    many: str, place: Kept, before: State, chance: random.Random, tmp_path: Path
) -> None:
    here = elsewhere(place, tmp_path / "store", LETTA_OPS_RETENTION="last=3")
    names, killed, words = in_folder(place.stack), [], ("prune", "--yes")
    here.create()
    multiply(here, 200)
    phases = [phase for phase in measured(here, *words, log=tmp_path / "log") if phase.line]
    phase = Phase("removing", sum(phase.seconds for phase in phases[:-1]))
    for _ in range(KILLS[many]["prune"]):
        for _ in range(5):  # a machine that is busier or idler than before is missed at first
            killed.append(
                interrupted(
                    here,
                    phase,
                    *words,
                    chance=chance,
                    log=tmp_path / "log",
                    prepare=lambda: multiply(here, 200),
                )
            )
            left = read_catalog(here.store, deployment_id(here.deployment))
            if 3 < len(left.backups) < 203:
                break
        assert 3 < len(left.backups) < 203, "it was killed in the middle"
        for backup in left.backups:
            sizes = {part.object: part.size for part in backup.manifest.parts}
            there = {path.name: path.stat().st_size for path in here.folder(backup).iterdir()}
            assert {name: there.get(name) for name in sizes} == sizes
        again(here, *words)
        kept_ones = read_catalog(here.store, deployment_id(here.deployment))
        assert len(kept_ones.backups) == 3
        assert_unharmed(here, before, set())
        assert_nothing_left(here, names, killed)


def multiply(place: Kept, count: int) -> None:
    """Make a year's backups of the newest: the same content, from earlier days."""
    import datetime as dt

    newest = place.find()
    folder = place.folder(newest)
    for number in range(1, count + 1):
        at = newest.manifest.created_at - dt.timedelta(hours=number)
        copy = replace(newest.manifest, id=f"{at:%Y%m%dT%H%M%SZ}-{number:04x}", created_at=at)
        target = folder.with_name(copy.id)
        if target.exists():
            continue
        target.mkdir(0o700)
        for part in copy.parts:
            os.link(folder / part.object, target / part.object)
        (target / MANIFEST).write_text(copy.as_text())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_create_that_is_interrupted_takes_back_what_it_stored(
    number: signal.Signals, code: int, place: Kept, before: State, tmp_path: Path
) -> None:
    here = elsewhere(place, tmp_path / "store")
    command = start(here, "create", log=tmp_path / "log")
    with command.stopped(lambda: draft_is_growing(here)):
        interrupt(command, number)
    assert command.process.wait(120) == code, command.said
    assert "Traceback" not in command.said
    assert [path for path in here.root.rglob("*") if path.is_file()] == []
    assert command.leftovers() == []
    assert_unharmed(here, before, set())


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        pytest.param(signal.SIGINT, 130, "database: restoring", marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, 129, SERVED, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 143, SERVED, marks=pytest.mark.long),
    ],
    ids=["ctrl-c", "sighup", "sigterm"],
)
def test_restore_that_is_interrupted_goes_back_before_it_ends(
    number: signal.Signals, code: int, line: str, place: Kept, before: State, tmp_path: Path
) -> None:
    """And while it switches, everybody else is told that it is at work."""
    names = in_folder(place.stack)
    command = start(place, "restore", "latest", "--yes", log=tmp_path / "log")
    assert command.wait_for(line), command.said
    if line == SERVED:
        for words in (("backup", "create"), ("up", "--no-smoke")):
            assert_locked(place.json(*words, code=1), command, "backup restore")
    interrupt(command, number)
    assert command.process.wait(300) == code, command.said
    assert "Traceback" not in command.said
    assert not (place.stack.folder.root / "restore.json").exists()
    assert_unharmed(place, before, ids(place))
    assert_nothing_left(place, names, [command])


def assert_locked(answer: Any, holder: Command, purpose: str) -> None:
    error = answer["error"]
    assert error["code"] == "locked", error
    assert str(holder.process.pid) in error["message"]
    assert purpose in error["message"]
    assert error["hint"]


def test_while_a_backup_waits_for_a_table_nobody_else_changes_anything(
    place: Kept, before: State, tmp_path: Path
) -> None:
    here = elsewhere(place, tmp_path / "store")
    with table_locked(place):
        command = start(here, "create", log=tmp_path / "log")
        assert command.wait_for("database: taking a snapshot"), command.said
        for words in (("backup", "restore", "latest", "--yes"), ("up", "--no-smoke")):
            assert_locked(place.json(*words, code=1), command, "backup create")
    assert command.process.wait(120) == 0, command.said
    assert_unharmed(here, before, set())


@contextmanager
def table_locked(place: Kept) -> Iterator[None]:
    with place.access() as access, access.connect("letta") as link, link.transaction():
        link.execute("LOCK TABLE prompts")
        yield


def test_a_table_that_stays_locked_is_named_as_the_cause(
    place: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the code that the command runs, with less patience than its minute."""
    monkeypatch.setattr("backups.sources.postgres.LOCK_SECONDS", 1)
    here = elsewhere(place, tmp_path / "store")
    with table_locked(place), pytest.raises(LettaOpsError) as caught:
        create(here.deployment, here.store, None, lambda _: None)
    assert caught.value.code == "table-locked"
    assert "pg_stat_activity" in caught.value.hint
    assert list(here.store.entries()) == []


def test_a_dump_program_that_dies_half_way_makes_no_backup(
    place: Kept, before: State, tmp_path: Path
) -> None:
    here = elsewhere(place, tmp_path / "store")
    command = start(here, "create", log=tmp_path / "log")
    with command.stopped(lambda: draft_is_growing(here)):
        # In a container it is no child of the command.
        running = [*command.children("pg_dump"), *place.stack.processes()]
        (dumping,) = [each for each in running if each.name() == "pg_dump"]
        dumping.kill()
    assert "SIGKILL" in assert_refused(place, command.answer(), "dump-failed")["message"]
    assert not list(here.store.entries())
    assert_unharmed(here, before, set())


def test_a_database_that_dies_while_it_is_dumped_makes_no_backup(
    place: Kept, before: State, tmp_path: Path
) -> None:
    here = elsewhere(place, tmp_path / "store")
    command = start(here, "create", log=tmp_path / "log")
    with command.stopped(lambda: draft_is_growing(here)):
        place.stack.kill("postgres")
    # Which one depends on whether somebody was connected at that moment, or about to be.
    codes = ("dump-failed", "database-refused", "database-lost", "database-unreachable")
    assert_refused(place, command.answer(), *codes)
    wait_until("the database is back", lambda: works(place), 120)
    assert_unharmed(here, before, set())
    again(here, "create")


def works(place: Kept) -> bool:
    with suppress(LettaOpsError):
        return place.sql("SELECT 1") == [(1,)]
    return False


def test_without_its_database_nothing_is_begun(place: Kept, before: State, tmp_path: Path) -> None:
    place.stack.stop("postgres")
    try:
        for words in (("create",), ("restore", "latest", "--yes")):
            refused(place, ["backup", *words], "database-unreachable")
    finally:
        place.stack.json("up", "--no-smoke")
    assert_unharmed(place, before, ids(place))


@OF_THE_STORE
def test_a_store_that_is_full_keeps_nothing_of_a_backup(
    place: Kept, before: State, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "store", "4m") as folder:
        here = elsewhere(place, folder)
        refused(here, ["backup", "create"], "store-full")
        assert [path for path in folder.rglob("*") if path.is_file()] == []
        assert_unharmed(here, before, set())


@OF_THE_STORE
def test_a_disk_that_fills_up_while_restoring_loses_nothing(
    place: Kept, disk: Path, before: State, tmp_path: Path
) -> None:
    """The dump is laid down, and on the target local restored, on the disk of the stack."""
    if not os.path.ismount(disk):
        pytest.skip("a file system of a size of its own can only be mounted by root")
    names, room = in_folder(place.stack), fill(disk, "room", leave=400 << 20)
    command = start(place, "restore", "latest", "--yes", log=tmp_path / "log")
    try:
        with command.stopped(lambda: laid_down(place)):
            rest = fill(disk, "rest")
        assert rest.stat().st_size > 0
        assert_refused(place, command.answer(), "disk-full", "restore-failed")
    finally:
        room.unlink()
        (disk / "rest").unlink(missing_ok=True)
    assert_unharmed(place, before, ids(place))
    place.json("backup", "create")
    assert_nothing_left(place, names, [command])


@pytest.mark.target("local", reason="containers are kept by the engine")
def test_a_disk_that_is_full_for_a_while_ends_no_service_for_good(
    place: Kept, disk: Path, before: State
) -> None:
    """What can't be logged is lost, but not whoever starts the services again."""
    if not os.path.ismount(disk):
        pytest.skip("a file system of a size of its own can only be mounted by root")
    keeper, everything = supervisor.process(place.stack.folder), fill(disk, "everything")
    try:
        for _ in range(10):
            with suppress(LettaOpsError):  # each is a traceback in the server's log
                newer(place)
        for service in ("postgres", "letta"):
            place.stack.kill(service)
        with suppress(AssertionError):
            wait_until("the API answers", lambda: agents(place.stack) is not None, 5)
        assert supervisor.process(place.stack.folder) == keeper
    finally:
        everything.unlink()
    now = state(place)  # what found room is there, too
    assert (now.agents or 0) >= (before.agents or 0)
    assert [name for name, each in before.tables.items() if now.tables[name].rows < each.rows] == []
    place.json("backup", "create")


def laid_down(place: Kept) -> bool:
    return any(place.stack.folder.root.glob("restoring.*/restoring-*"))


@OF_THE_STORE
def test_a_disk_without_room_for_a_restore_is_told_before_it_begins(
    place: Kept, disk: Path, before: State
) -> None:
    if not os.path.ismount(disk):
        pytest.skip("a file system of a size of its own can only be mounted by root")
    room = fill(disk, "room", leave=30 << 20)
    try:
        error = refused(place, ["backup", "restore", "latest", "--yes"], "disk-full")
    finally:
        room.unlink()
    assert str(place.stack.folder.root) in error["message"]
    assert_unharmed(place, before, ids(place))


@OF_THE_STORE
def test_a_folder_of_backups_that_is_gone_is_named(place: Kept, tmp_path: Path) -> None:
    gone = elsewhere(place, tmp_path / "not mounted" / "store")
    for words in (("create",), ("restore", "latest", "--yes"), ("prune", "--yes"), ("list",)):
        error = refused(gone, ["backup", *words], "store-missing")
        assert str(gone.root) in error["message"]
    assert not gone.root.parent.exists()


@OF_THE_STORE
def test_a_folder_that_goes_away_while_it_is_written_makes_no_backup(
    place: Kept, before: State, tmp_path: Path
) -> None:
    here = elsewhere(place, tmp_path / "mounted" / "store")
    here.root.parent.mkdir()
    command = start(here, "create", log=tmp_path / "log")
    with command.stopped(lambda: draft_is_growing(here)):
        here.root.parent.rename(tmp_path / "away")
    assert_refused(place, command.answer(), "store-missing")
    (tmp_path / "away").rename(here.root.parent)
    assert_unharmed(here, before, set())


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("backups")
        yield server


@pytest.fixture
def proxy(bucket: S3Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(bucket.url) as running:
        yield running


def in_bucket(place: Kept, server: S3Server, proxy: FaultyProxy, folder: str) -> Kept:
    """Backups in S3 behind the proxy; a store that is asked in the test goes straight to the server."""
    settings = {
        "LETTA_OPS_STORE_URL": f"s3://backups/{folder}",
        "LETTA_OPS_STORE_ENDPOINT": proxy.url,
        "LETTA_OPS_STORE_TIMEOUT": "4",
        **server.environment(),
    }
    return replace(place, environment={**place.environment, **settings})


@OF_THE_STORE
def test_a_bucket_that_fails_now_and_then_gets_the_backup_all_the_same(
    place: Kept, bucket: S3Server, proxy: FaultyProxy
) -> None:
    here = in_bucket(place, bucket, proxy, "now-and-then")
    faults = [
        proxy.harm(r"POST .*database.*\?uploads", "answer", status=503, code="SlowDown", last=2),
        proxy.harm(r"PUT .*database.*partNumber=1", "answer", status=500),
        proxy.harm(r"PUT .*database.*partNumber=2", "reset-upload"),
        proxy.harm(r"POST .*database.*\?uploadId", "lost-answer"),
        proxy.harm(r"PUT .*manifest\.json", "reset-upload"),
    ]
    made = here.json("backup", "create")["id"]
    assert all(fault.seen > 1 for fault in faults), "each was met, and done again"
    proxy.heal()
    assert here.json("backup", "verify", made)["verdict"] == "passed"


@OF_THE_STORE
@pytest.mark.parametrize(
    ("harm", "status", "code"), [("answer", 503, "SlowDown"), ("hang", 0, "")], ids=["503", "hang"]
)
def test_a_bucket_that_fails_for_good_in_mid_upload_gets_no_half_backup(
    harm: Harm, status: int, code: str, place: Kept, bucket: S3Server, proxy: FaultyProxy
) -> None:
    here = in_bucket(place, bucket, proxy, "for-good")
    proxy.harm(r"PUT .*partNumber=2", harm, status=status, code=code, last=EVERY)
    answer = here.run("--json", "backup", "create")
    assert_refused(here, answer, "store-unreachable")
    for secret in (bucket.secret_key.reveal(), bucket.access_key):
        assert secret not in answer.out + answer.err
    proxy.heal()
    assert here.json("backup", "list") == []
    client = bucket.client()
    left = client.list_objects_v2(Bucket="backups", Prefix="for-good")["Contents"]
    assert [each["Key"] for each in left] == ["for-good/.abilities.json"]
    assert not client.list_multipart_uploads(Bucket="backups").get("Uploads")


@OF_THE_STORE
def test_a_clock_that_is_wrong_is_told_as_that(
    place: Kept, bucket: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, whose clock for signing is put forward; the server is a real one."""
    import datetime as dt

    import botocore.auth
    from botocore.compat import get_current_datetime

    from backups.stores.s3 import S3Store

    def later(*words: Any, **named: Any) -> dt.datetime:
        now: dt.datetime = get_current_datetime(*words, **named)
        return now + dt.timedelta(minutes=20)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", later)
    store = S3Store(bucket.settings("s3://backups/skew"))
    with pytest.raises(LettaOpsError, match="clock") as caught:
        create(place.deployment, store, None, lambda _: None)
    assert caught.value.code == "store-denied"
    assert "NTP" in caught.value.hint


# The command, killed by itself when all parts are stored and the manifest is to be written.
KILLED_BEFORE_THE_MANIFEST = """
import os, signal
from contextlib import contextmanager
from backups.stores.folder import FolderStore
from ops_cli.main import main
write = FolderStore.write
@contextmanager
def deadly(self, name, **settings):
    if name.endswith("manifest.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    with write(self, name, **settings) as sink:
        yield sink
FolderStore.write = deadly
main()
"""


@OF_THE_STORE
def test_without_its_manifest_a_backup_is_none(place: Kept, before: State, tmp_path: Path) -> None:
    here = elsewhere(place, tmp_path / "store")
    words = [sys.executable, "-c", KILLED_BEFORE_THE_MANIFEST, "--stack", here.stack.name]
    done = here.stack.machine.run(*words, "backup", "create", environment=here.environment)
    assert done.code == -signal.SIGKILL, done.out + done.err
    catalog = read_catalog(here.store, deployment_id(here.deployment))
    assert catalog.backups == ()
    (folder,) = catalog.incomplete
    assert len(list(here.store.entries(folder))) == 6, "all parts are there"
    assert_unharmed(here, before, set())
    again(here, "create")
    assert_whole(here, here.find())


@OF_THE_STORE
def test_a_manifest_whose_answer_is_lost_keeps_its_parts(
    place: Kept, bucket: S3Server, proxy: FaultyProxy
) -> None:
    """The command says that it failed; what is listed then can be restored all the same."""
    here = in_bucket(place, bucket, proxy, "lost")
    proxy.harm(r"PUT .*manifest\.json", "lost-answer", last=EVERY)
    proxy.harm(r"HEAD .*manifest\.json", "answer", status=503, code="SlowDown", first=2, last=EVERY)
    refused(here, ["backup", "create"], "store-unreachable")
    proxy.heal()
    (made,) = here.json("backup", "list")
    assert here.json("backup", "verify", made["id"])["verdict"] == "passed"


@OF_THE_STORE
def test_a_wrong_password_of_the_database_is_told_without_it(place: Kept, tmp_path: Path) -> None:
    host, port = address(place)
    profile = tmp_path / "profile.toml"
    server = place.deployment.server
    assert server.password is not None
    profile.write_text(
        f'version = 1\nid = "another"\ntarget = "external"\n'
        f'release = "{place.deployment.release}"\n[server]\nurl = "{server.url}"\n'
        f'password = "{server.password.reveal()}"\n[database]\n'
        f'url = "postgresql://letta:not-the-password@{host}:{port}/letta?sslmode=disable"\n'
    )
    profile.chmod(0o600)
    words = ["--profile", str(profile), "backup"]
    for command in (["create"], ["restore", "latest", "--yes", "--into-other"]):
        answer = place.run("--json", *words, *command)
        assert_refused(place, answer, "database-unreachable")
        assert "not-the-password" not in answer.out + answer.err


def address(place: Kept) -> tuple[str, int]:
    if isinstance(place.stack, DockerStack):
        networks = place.stack.container("postgres")["NetworkSettings"]["Networks"]
        return next(str(each["IPAddress"]) for each in networks.values()), 5432
    return "127.0.0.1", place.stack.ports["database.port"]


@OF_THE_STORE
def test_the_journal_of_another_deployment_is_left_alone(place: Kept, before: State) -> None:
    """Stacks of other machines may have the same name here, and so the same folder."""
    journal = place.stack.folder.root / "restore.json"
    other = {"deployment": "another", "backup": "b", "name": "letta", "side_oid": 1,
             "had_database": True, "had_memory": True, "old_keys": None}  # fmt: skip
    journal.write_text(json.dumps(other))
    try:
        place.json("backup", "create")
        refused(place, ["backup", "restore", "latest", "--yes"], "restore-unfinished")
        assert json.loads(journal.read_text()) == other
    finally:
        journal.unlink()
    assert_unharmed(place, before, ids(place))


def test_the_stack_works_after_all_of_this(place: Kept) -> None:
    assert place.stack.json("smoke")["passed"]
    assert guards(place.stack) == []
