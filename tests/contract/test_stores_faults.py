"""The S3 store before a server that fails, breaks off or hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from backups.stores.s3 import S3Store
from backups.stores.s3_upload import SMALLEST_PART
from infra.errors import LettaOpsError
from tests.contract.faulty_proxy import EVERY, FaultyProxy, Harm, faulty_proxy
from tests.contract.s3_server import S3Server
from tests.contract.stored import FAR, content, get, nothing_is_there, put

TIMEOUT = 3.0
DATA = content(2 * SMALLEST_PART + 12_345)  # three parts
SMALL = DATA[:1000]
PART = r"PUT .*partNumber=2"
COMPLETE = r"POST .*\?uploadId="
GET = r"GET .*part"


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server.url) as running:
        yield running


@pytest.fixture
def store(s3_server: S3Server, bucket: str, proxy: FaultyProxy) -> S3Store:
    """The store as it looks through the proxy. It is known what it can do: that is asked only once."""
    there = S3Store(s3_server.settings(f"s3://{bucket}/p", endpoint=proxy.url, timeout=TIMEOUT))
    put(there, "first", SMALL)
    there.delete("first")
    return there


@pytest.mark.parametrize("data", [SMALL, DATA], ids=["small", "large"])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize(
    ("harm", "status", "code"),
    [
        ("answer", 500, "InternalError"),
        ("answer", 503, "SlowDown"),
        ("reset-upload", 0, ""),
        ("lost-answer", 0, ""),
    ],
)
def test_a_write_survives_a_failure_of_any_of_its_requests(
    store: S3Store, proxy: FaultyProxy, harm: Harm, status: int, code: str, exclusive: bool, data: bytes
) -> None:  # fmt: skip
    requests = (r"POST .*\?uploads", PART, COMPLETE) if data is DATA else ("PUT .*/part",)
    faults = [proxy.harm(request, harm, status=status, code=code) for request in requests]
    put(store, "part", data, exclusive=exclusive)
    assert [fault.seen for fault in faults] == [2] * len(faults), "each was met, and done again"
    assert get(store, "part") == data
    # Of an upload that began without our being told nobody knows but the store.
    left = list(store.unfinished(FAR, remove=True))
    assert len(left) == (harm == "lost-answer" and data is DATA)
    assert [entry.name for entry in store.entries()] == ["part"]
    assert list(store.unfinished(FAR, remove=False)) == []


@pytest.mark.parametrize("data", [SMALL, DATA], ids=["small", "large"])
@pytest.mark.parametrize("harm", ["answer", "truncate", "reset-download"])
def test_a_read_goes_on_where_it_was_broken_off(
    store: S3Store, proxy: FaultyProxy, harm: Harm, data: bytes
) -> None:
    put(store, "part", data)
    fault = proxy.harm(GET, harm, last=2)
    assert get(store, "part") == data
    assert fault.seen == 3


def test_a_read_goes_on_after_a_server_that_stopped_sending(
    store: S3Store, proxy: FaultyProxy
) -> None:
    put(store, "part", DATA)
    fault = proxy.harm(GET, "stall")
    assert get(store, "part") == DATA
    assert fault.seen == 2


def test_an_object_that_changes_while_it_is_read_is_never_mixed(
    s3_server: S3Server, bucket: str, store: S3Store, proxy: FaultyProxy
) -> None:
    put(store, "part", DATA)
    proxy.harm(GET, "truncate")
    with store.read("part") as source:
        assert source.read(10) == DATA[:10]
        put(S3Store(s3_server.settings(f"s3://{bucket}/p")), "part", DATA[::-1])
        with pytest.raises(LettaOpsError, match="changed while it was read") as failure:
            source.read()
    assert failure.value.code == "store-failed"


@pytest.mark.parametrize("operation", ["entries", "delete", "unfinished"])
def test_other_operations_survive_a_failure_too(
    store: S3Store, proxy: FaultyProxy, operation: str
) -> None:
    put(store, "part", SMALL)
    fault = proxy.harm("", "answer", last=2)
    if operation == "delete":
        store.delete("part")
    else:
        found = store.entries() if operation == "entries" else store.unfinished(FAR, remove=True)
        assert len(list(found)) == (operation == "entries")
    assert fault.seen >= 3


@pytest.mark.parametrize(
    ("request_pattern", "harm", "status", "code", "expected"),
    [
        (PART, "answer", 500, "InternalError", "store-unreachable"),
        (PART, "answer", 503, "SlowDown", "store-unreachable"),
        (PART, "answer", 403, "AccessDenied", "store-denied"),
        (PART, "answer", 403, "QuotaExceeded", "store-full"),
        (PART, "answer", 507, "InsufficientStorage", "store-full"),
        (PART, "answer", 400, "BadDigest", "store-failed"),
        (PART, "reset-upload", 0, "", "store-unreachable"),
        (COMPLETE, "answer", 500, "InternalError", "store-unreachable"),
        (COMPLETE, "answer", 400, "InvalidPart", "store-failed"),
        (PART, "hang", 0, "", "store-unreachable"),
    ],
)
def test_a_write_that_fails_for_good_leaves_nothing(
    store: S3Store, proxy: FaultyProxy, request_pattern: str, harm: Harm, status: int, code: str,
    expected: str,
) -> None:  # fmt: skip
    proxy.harm(request_pattern, harm, status=status, code=code, last=EVERY)
    with pytest.raises(LettaOpsError) as failure:
        put(store, "part", DATA)
    assert failure.value.code == expected
    assert nothing_is_there(store)


def test_what_could_not_be_taken_back_is_told_and_found_later(
    store: S3Store, proxy: FaultyProxy
) -> None:
    proxy.harm(PART, "answer", last=EVERY)
    proxy.harm("DELETE", "answer", last=EVERY)
    with pytest.raises(LettaOpsError) as failure:
        put(store, "part", DATA)
    assert "did not take back" in "".join(failure.value.__notes__)
    proxy.heal()
    assert list(store.entries()) == []
    (left,) = store.unfinished(FAR, remove=True)
    assert left.name == "part"
    assert 0 < left.size < len(DATA)
    assert nothing_is_there(store)


@pytest.mark.parametrize("operation", ["write", "read", "entries", "delete", "unfinished"])
def test_a_store_that_hangs_is_given_up_after_the_time_out(
    store: S3Store, proxy: FaultyProxy, operation: str
) -> None:
    put(store, "part", SMALL)
    proxy.harm("", "hang", last=EVERY)
    use: dict[str, Any] = {
        "write": lambda: put(store, "other", SMALL),
        "read": lambda: get(store, "part"),
        "entries": lambda: list(store.entries()),
        "delete": lambda: store.delete("part"),
        "unfinished": lambda: list(store.unfinished(FAR, remove=False)),
    }
    started = time.monotonic()
    with pytest.raises(LettaOpsError, match="no answer within 3 s") as failure:
        use[operation]()
    assert failure.value.code == "store-unreachable"
    assert TIMEOUT / 2 < time.monotonic() - started < TIMEOUT * 1.5
    proxy.heal()
    assert get(store, "part") == SMALL


def test_a_large_write_to_a_store_that_hangs_ends_too(store: S3Store, proxy: FaultyProxy) -> None:
    proxy.harm(f"{PART}|{COMPLETE}|DELETE", "hang", last=EVERY)
    started = time.monotonic()
    with pytest.raises(LettaOpsError) as failure:
        put(store, "part", DATA)
    assert failure.value.code == "store-unreachable"
    assert time.monotonic() - started < 3 * TIMEOUT, "once for the parts, once for taking back"
