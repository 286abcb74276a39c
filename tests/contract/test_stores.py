"""What every store promises, asked of each: a folder, S3 (a real versitygw), and memory."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path

import pytest

from backups.stores.folder import FolderStore
from backups.stores.s3 import S3Store
from backups.stores.s3_upload import SMALLEST_PART
from backups.stores.store import Store
from infra.errors import LettaOpsError
from tests.contract.s3_server import S3Server
from tests.contract.stored import FAR, content, get, put
from tests.memory_store import MemoryStore

SIZES = (0, 1, 70_000, SMALLEST_PART - 1, SMALLEST_PART, SMALLEST_PART + 1, 3 * SMALLEST_PART + 5)
WRITERS = 6
LARGE = SMALLEST_PART + 1  # more than one request on S3


@pytest.fixture(params=["folder", "s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    if request.param == "memory":
        return MemoryStore()
    server: S3Server = request.getfixturevalue("s3_server")
    return S3Store(server.settings(f"s3://{request.getfixturevalue('bucket')}/a/pre%20fix"))


def names(store: Store, prefix: str = "") -> list[str]:
    return [entry.name for entry in store.entries(prefix)]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read_back(store: Store, size: int) -> None:
    data = content(size)
    with store.write("stack/backup/part") as sink:
        for start in range(0, size, 1_000_003):
            piece = data[start : start + 1_000_003]
            assert sink.write(piece) == len(piece)
        sink.flush()
    assert get(store, "stack/backup/part") == data
    before = dt.datetime.now(dt.UTC)
    (entry,) = store.entries()
    assert (entry.name, entry.size) == ("stack/backup/part", size)
    assert abs(before - entry.modified) < dt.timedelta(minutes=1)


def test_an_object_is_read_in_pieces_and_its_end_stays_the_end(store: Store) -> None:
    put(store, "part", b"0123456789")
    with store.read("part") as source:
        pieces = [source.read(4) for _ in range(5)]
    assert pieces == [b"0123", b"4567", b"89", b"", b""]


@pytest.mark.parametrize("size", [10, LARGE])
def test_nobody_sees_an_object_before_it_is_whole(store: Store, size: int) -> None:
    with store.write("new") as sink:
        sink.write(content(size))
        sink.flush()
        assert names(store) == []
        with pytest.raises(LettaOpsError) as failure:
            get(store, "new")
        assert failure.value.code == "object-missing"
    assert names(store) == ["new"]


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("error", [OSError(28, "of the block"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(
    store: Store, error: BaseException, size: int
) -> None:
    put(store, "stack/old", b"old")

    def fail(name: str) -> None:
        with store.write(name) as sink:
            sink.write(content(size))
            raise error

    for name in ("stack/old", "stack/backup/new"):
        with pytest.raises(type(error)) as failure:
            fail(name)
        assert failure.value is error, "the error of the block is not the store's"
    assert names(store) == ["stack/old"]
    assert get(store, "stack/old") == b"old"
    assert list(store.unfinished(FAR, remove=False)) == []


@pytest.mark.parametrize("size", [10, LARGE])
def test_an_object_is_replaced_as_a_whole(store: Store, size: int) -> None:
    put(store, "part", content(size, seed=1))
    put(store, "part", content(size - 5, seed=2))
    assert get(store, "part") == content(size - 5, seed=2)


@pytest.mark.parametrize("size", [10, LARGE])
def test_an_exclusive_write_refuses_a_name_that_is_taken(store: Store, size: int) -> None:
    put(store, "lock", content(size, seed=1), exclusive=True)
    with pytest.raises(LettaOpsError, match="already") as failure:
        put(store, "lock", content(size, seed=2), exclusive=True)
    assert failure.value.code == "object-exists"
    assert get(store, "lock") == content(size, seed=1)
    assert list(store.unfinished(FAR, remove=False)) == []
    store.delete("lock")
    put(store, "lock", content(size, seed=3), exclusive=True)
    assert get(store, "lock") == content(size, seed=3)


@pytest.mark.parametrize("size", [10, LARGE])
def test_of_many_exclusive_writers_at_once_exactly_one_wins(store: Store, size: int) -> None:
    outcomes: dict[int, str] = {}
    all_have_written = threading.Barrier(WRITERS, timeout=60)

    def write(seed: int) -> None:
        try:
            with store.write("lock", exclusive=True) as sink:
                sink.write(content(size, seed))
                all_have_written.wait()
        except LettaOpsError as error:
            outcomes[seed] = error.code
        else:
            outcomes[seed] = "won"

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes.values()) == ["object-exists"] * (WRITERS - 1) + ["won"]
    (winner,) = (seed for seed, outcome in outcomes.items() if outcome == "won")
    assert get(store, "lock") == content(size, winner)
    assert list(store.unfinished(FAR, remove=False)) == []


def test_entries_come_in_the_order_of_whole_names(store: Store) -> None:
    given = ["a/b/c", "a-b", "a.b/c", "a/b-c/d", "a0", "ä/ü", "with space/a+b%20c&d", "Z", "a/b.c"]
    for name in given:
        put(store, name, name.encode())
    assert names(store) == sorted(given)
    assert [get(store, name).decode() for name in names(store)] == sorted(given)


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("", ["one/a", "one/b/c", "one/bc", "two"]),
        ("one/", ["one/a", "one/b/c", "one/bc"]),
        ("one/b", ["one/b/c", "one/bc"]),
        ("one/b/", ["one/b/c"]),
        ("one/b/c", ["one/b/c"]),
        ("one/b/c/", []),
        ("t", ["two"]),
        ("three/", []),
        ("../", []),
    ],
)
def test_entries_are_those_whose_names_begin_so(
    store: Store, prefix: str, found: list[str]
) -> None:
    for name in ("one/a", "one/b/c", "one/bc", "two"):
        put(store, name, b"")
    assert names(store, prefix) == found


def test_what_is_deleted_is_gone_and_deleting_nothing_is_no_error(store: Store) -> None:
    for name in ("stack/backup/a", "stack/backup/b"):
        put(store, name, b"x")
    for _ in range(2):
        store.delete("stack/backup/a")
        assert names(store) == ["stack/backup/b"]
    store.delete("stack/backup/b/c")
    with pytest.raises(LettaOpsError) as failure:
        get(store, "stack/backup/a")
    assert failure.value.code == "object-missing"


def test_a_store_that_was_never_written_is_empty(store: Store) -> None:
    assert names(store) == []
    assert list(store.unfinished(FAR, remove=True)) == []
    store.delete("nothing")
    with pytest.raises(LettaOpsError) as failure:
        get(store, "stack/nothing")
    assert failure.value.code == "object-missing"


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/.", ".draft-1", "a\nb", "a\0", "\udc80"]
)  # fmt: skip
def test_a_name_that_leads_astray_is_refused_by_every_method(store: Store, name: str) -> None:
    for use in (
        lambda: put(store, name, b""),
        lambda: get(store, name),
        lambda: store.delete(name),
    ):
        with pytest.raises(LettaOpsError) as failure:
            use()
        assert failure.value.code == "object-name"


def test_threads_may_share_a_store(store: Store) -> None:
    wrong: list[str] = []

    def use(number: int) -> None:
        put(store, f"stack/{number}/part", content(1000, number))
        if get(store, f"stack/{number}/part") != content(1000, number):
            wrong.append(f"{number}")
        store.delete(f"stack/{number}/part")

    threads = [threading.Thread(target=use, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert names(store) == []
