"""The lock: one at a time, by name; the dead are taken over, the living never."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backups import lock as lock_module
from backups import lock_in_store
from backups.catalog import read_catalog, read_object, write_object
from backups.lock import locked
from backups.lock_in_database import holder_of, session_name
from backups.lock_in_store import DEAD_AFTER, NAME, Claim, new_claim, take
from backups.stores.folder import FolderStore
from backups.stores.store import Entry, Store
from infra.errors import LettaOpsError
from infra.identity import Process, this_process
from infra.stack.deployment import Deployment, Server
from infra.stack.locations import StackFolder
from tests.memory_store import MemoryStore

ID = "0b9f6a52-7f0c-4a57-b1d1-2c6a0f1f3f11"
OBJECT = f"{ID}/{NAME}"
ELSEWHERE = Process("ann", "other-host", "another life", 4711, "1")


@pytest.fixture
def deployment() -> Deployment:
    return Deployment("prod", "external", Server("http://127.0.0.1:8283"), id=ID)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def said() -> list[str]:
    return []


def leave(store: Store, process: Process, database: str | None = None) -> Claim:
    """Leave the lock of `process` in the store, as if it had been killed or were still at work."""
    claim = new_claim(process, "backup create", database)
    write_object(store, OBJECT, claim.as_text())
    return claim


def age(store: FolderStore, name: str, by: dt.timedelta) -> None:
    moment = time.time() - by.total_seconds()
    os.utime(store.root / name, (moment, moment))


def dead_process() -> Process:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        pass
    return replace(this_process(), pid=child.pid)


def names(store: Store) -> list[str]:
    return [entry.name for entry in store.entries()]


def test_the_second_is_told_who_does_what_since_when(
    deployment: Deployment, store: FolderStore, said: list[str]
) -> None:
    ours = this_process()
    with (
        locked(deployment, store, "backup create", said.append),
        pytest.raises(LettaOpsError) as caught,
        locked(deployment, store, "backup restore", said.append),
    ):
        pytest.fail("two at once")
    assert caught.value.code == "locked"
    message = caught.value.message
    assert f"{ours} is doing `backup create`" in message
    assert f"UTC (pid {ours.pid})" in message
    assert said == []


def test_nothing_is_left_of_it_in_the_end_also_after_an_error(
    deployment: Deployment, store: FolderStore, said: list[str]
) -> None:
    with locked(deployment, store, "prune", said.append) as lock:
        lock.ensure_held()
        assert names(store) == [OBJECT]
        assert read_catalog(store, None).incomplete == {}, "it is no unfinished backup"
    assert names(store) == []
    with pytest.raises(ZeroDivisionError), locked(deployment, store, "prune", said.append):
        raise ZeroDivisionError
    assert names(store) == []


def test_the_file_of_the_stack_is_held_so_that_up_stays_out(
    deployment: Deployment, tmp_path: Path, said: list[str]
) -> None:
    from infra.files import held

    folder = StackFolder(tmp_path, "prod")
    folder.root.mkdir()
    here = replace(deployment, folder=folder)
    with (
        locked(here, None, "backup restore", said.append),
        pytest.raises(LettaOpsError, match="with `backup restore` since") as caught,
        held(folder.lock, "letta-ops up"),
    ):
        pytest.fail("two at once")
    assert caught.value.code == "locked"
    with (
        held(folder.lock, "letta-ops up"),
        pytest.raises(LettaOpsError, match="letta-ops up"),
        locked(here, None, "backup restore", said.append),
    ):
        pytest.fail("two at once")


def test_a_dead_process_of_this_host_is_taken_over_at_once(
    deployment: Deployment, store: FolderStore, said: list[str]
) -> None:
    dead = dead_process()
    leave(store, dead)
    with locked(deployment, store, "backup create", said.append):
        assert json.loads(read_object(store, OBJECT))["pid"] == os.getpid()
    assert said == [f"took over the lock of {dead} (backup create): its process {dead.pid} is gone"]
    assert names(store) == []


LIVING = [
    ("this process", {}),
    ("another host", {"host": "elsewhere"}),
    ("another container of this host", {"boot": "pid:[1]", "pid": 4_000_000}),
]


@pytest.mark.parametrize(("_who", "change"), LIVING, ids=[who for who, _ in LIVING])
def test_who_may_be_alive_is_never_taken_over(
    _who: str,
    change: dict[str, Any],
    deployment: Deployment,
    store: FolderStore,
    said: list[str],
) -> None:
    leave(store, replace(this_process(), **change))
    age(store, OBJECT, DEAD_AFTER - dt.timedelta(seconds=30))
    with (
        pytest.raises(LettaOpsError) as caught,
        locked(deployment, store, "prune", said.append),
    ):
        pytest.fail("two at once")
    assert caught.value.code == "locked"
    assert names(store) == [OBJECT]


def test_a_pid_that_another_process_has_now_is_not_the_holder(
    deployment: Deployment, store: FolderStore, said: list[str]
) -> None:
    leave(store, replace(this_process(), started="1"))
    with locked(deployment, store, "prune", said.append) as lock:
        lock.ensure_held()
    assert "is gone" in said[0]


def test_a_lock_that_nobody_renewed_is_dead(
    deployment: Deployment, store: FolderStore, said: list[str]
) -> None:
    leave(store, ELSEWHERE)
    age(store, OBJECT, DEAD_AFTER + dt.timedelta(seconds=30))
    with locked(deployment, store, "prune", said.append):
        pass
    assert said == [
        "took over the lock of ann@other-host (backup create): it was not renewed for 10 minutes"
    ]


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_is_wrong_makes_nobody_dead(
    hours: int, deployment: Deployment, said: list[str]
) -> None:
    class WrongClock(MemoryStore):
        def entries(self, prefix: str = "") -> Iterator[Entry]:
            for entry in super().entries(prefix):
                yield replace(entry, modified=entry.modified + dt.timedelta(hours=hours))

    store = WrongClock()
    leave(store, ELSEWHERE)
    with (
        pytest.raises(LettaOpsError, match="ann@other-host"),
        locked(deployment, store, "prune", said.append),
    ):
        pytest.fail("two at once")
    assert names(store) == [OBJECT], "nor is anything left of finding out"


def test_who_has_the_lock_of_the_same_database_takes_over_the_store_of_its_last_holder(
    store: FolderStore, said: list[str]
) -> None:
    leave(store, ELSEWHERE, database="one")
    with pytest.raises(LettaOpsError, match="ann@other-host"):
        take(store, ID, new_claim(this_process(), "prune", "two"), said.append)
    take(store, ID, new_claim(this_process(), "prune", "one"), said.append)
    assert "lost the database's lock" in said[0]


def test_of_many_who_take_over_at_once_one_does(said: list[str]) -> None:
    dead = dead_process()
    for _ in range(30):
        store = MemoryStore()
        leave(store, dead)
        start = threading.Barrier(6)
        taken: list[Claim] = []
        refused: list[str] = []

        def run(
            store: Store = store, start: Any = start, taken: Any = taken, refused: Any = refused
        ) -> None:
            claim = new_claim(this_process(), "prune", None)
            start.wait()
            try:
                taken.append(take(store, ID, claim, said.append).claim)
            except LettaOpsError as error:
                refused.append(error.code)

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        assert refused == ["locked"] * 5
        assert json.loads(read_object(store, OBJECT))["token"] == taken[0].token
        assert names(store) == [OBJECT]


def test_who_died_while_taking_over_is_taken_over_too(store: FolderStore, said: list[str]) -> None:
    dead = leave(store, dead_process())
    mark = f"{ID}/{lock_in_store.TAKING}{dead.token}.json"
    write_object(store, mark, new_claim(ELSEWHERE, "prune", None).as_text())
    with pytest.raises(LettaOpsError, match="ann@other-host"):
        take(store, ID, new_claim(this_process(), "prune", None), said.append)
    age(store, mark, lock_in_store.TAKEN_WITHIN + dt.timedelta(seconds=1))
    take(store, ID, new_claim(this_process(), "prune", None), said.append)
    assert names(store) == [OBJECT]


def test_it_is_renewed_while_the_work_goes_on(
    deployment: Deployment, store: FolderStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "RENEW_SECONDS", 0.01)
    with locked(deployment, store, "backup create", said.append):
        age(store, OBJECT, DEAD_AFTER)
        deadline = time.monotonic() + 60
        while time.time() - (store.root / OBJECT).stat().st_mtime > 60:
            assert time.monotonic() < deadline, "it was never renewed"
            time.sleep(0.01)
    assert names(store) == []
    time.sleep(0.1)
    assert names(store) == [], "the renewing has ended"


@pytest.mark.parametrize("taken_over", [True, False])
def test_who_lost_it_is_told_before_the_next_step_and_leaves_it_alone(
    taken_over: bool, deployment: Deployment, store: FolderStore, said: list[str]
) -> None:
    with locked(deployment, store, "backup restore", said.append) as lock:
        store.delete(OBJECT)
        if taken_over:
            leave(store, ELSEWHERE)
        lock.renew()
        with pytest.raises(LettaOpsError) as caught:
            lock.ensure_held()
        assert caught.value.code == "lock-lost"
    assert names(store) == ([OBJECT] if taken_over else [])


class Unreachable(MemoryStore):
    """A store that can go away."""

    away = False

    def read(self, name: str) -> Any:
        if self.away:
            raise LettaOpsError("store-unreachable", "no answer", "wait")
        return super().read(name)


def test_a_store_that_is_away_for_a_moment_loses_nobody_the_lock(
    deployment: Deployment, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Unreachable()
    with locked(deployment, store, "backup restore", said.append) as lock:
        store.away = True
        lock.ensure_held()
        monkeypatch.setattr(lock_module, "DEAD_AFTER", dt.timedelta(0))
        with pytest.raises(LettaOpsError) as caught:
            lock.ensure_held()
        assert caught.value.code == "lock-lost"
    assert "the lock in the store stays" in said[0]


def test_waiting_ends_when_the_holder_has_ended_and_tells_once_for_whom(
    deployment: Deployment, store: FolderStore, said: list[str]
) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(deployment, store, "backup create", lambda _: None):
            held.set()
            release.wait()

    def report(line: str) -> None:
        said.append(line)
        threading.Timer(1.5, release.set).start()  # it has tried twice by then

    first = threading.Thread(target=hold)
    first.start()
    held.wait()
    with locked(deployment, store, "prune", report, wait=30):
        first.join()
    assert len(said) == 1
    assert said[0].startswith("waiting: ")
    assert "`backup create`" in said[0]


def test_waiting_has_an_end(deployment: Deployment, store: FolderStore, said: list[str]) -> None:
    leave(store, ELSEWHERE)
    began = time.monotonic()
    with (
        pytest.raises(LettaOpsError, match="ann@other-host"),
        locked(deployment, store, "prune", said.append, wait=1.2),
    ):
        pytest.fail("two at once")
    assert 1.0 < time.monotonic() - began < 60


def test_a_lock_that_nobody_understands_is_left_to_a_person(
    deployment: Deployment, store: FolderStore, said: list[str]
) -> None:
    write_object(store, OBJECT, '{"of": "something newer"}')
    with (
        pytest.raises(LettaOpsError) as caught,
        locked(deployment, store, "prune", said.append),
    ):
        pytest.fail("two at once")
    assert caught.value.code == "lock-damaged"
    assert OBJECT in caught.value.message


USERS = [("root", "db1"), ("u" * 60, "h" * 60), ("josé (as root)", "häst")]


@pytest.mark.parametrize(("user", "host"), USERS)
def test_a_session_is_named_after_its_holder_within_what_postgres_keeps(
    user: str, host: str
) -> None:
    process = replace(this_process(), who=user, host=host, pid=4_194_304)
    name = session_name(process, "backup create", dt.datetime(2026, 11, 21, 20, 15, tzinfo=dt.UTC))
    assert len(name.encode()) <= 63
    message = holder_of(name).message
    assert message.startswith(user[:9].encode("ascii", "replace").decode())
    assert message.endswith(
        "is doing `backup create` on this deployment since 20:15 UTC (pid 4194304)"
    )


def test_a_holder_with_another_name_is_somebody() -> None:
    assert holder_of("psql").message == "somebody is doing something on this deployment"
