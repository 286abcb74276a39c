"""The S3 store before servers of other makes: what they don't know, ignore, or have elsewhere."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backups.stores.s3 import S3Store
from backups.stores.s3_abilities import COMPARES_NOTHING, KNOWS_NO_CONDITION, is_amazon
from backups.stores.s3_protection import NOTHING
from backups.stores.s3_upload import SMALLEST_PART
from backups.stores.store import Store
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from tests.contract.faulty_proxy import EVERY, FaultyProxy, faulty_proxy
from tests.contract.s3_server import REGION, S3Server, running_s3_server
from tests.contract.stored import FAR, content, get, nothing_is_there, put

DATA = content(2 * SMALLEST_PART + 12_345)  # three parts
SMALL = DATA[:1000]
WRITERS = 6
CRC32 = "x-amz-checksum-crc32"
CHECKSUMS = "x-amz-checksum-.*|x-amz-sdk-checksum-.*"
TRAITS = {  # what a server ignores; what it refuses; what it compares, and what is told
    "amazon": ("", (), "crc32", ()),
    "refuses-checksums": ("", (CRC32,), "md5", ()),
    "ignores-checksums": (CHECKSUMS, (), "md5", ()),
    "ignores-any-checksum": (f"{CHECKSUMS}|content-md5", (), "none", (COMPARES_NOTHING,)),
    "permanent": ("x-amz-security-token", (), "crc32", ()),  # credentials: ours knows no others
    "ignores-conditions": ("if-none-match", (), "crc32", (KNOWS_NO_CONDITION,)),
    "refuses-conditions": ("", ("If-None-Match",), "crc32", (KNOWS_NO_CONDITION,)),
    "knows-nothing": (
        f"{CHECKSUMS}|content-md5|if-none-match",
        (),
        "none",
        (COMPARES_NOTHING, KNOWS_NO_CONDITION),
    ),
}


@pytest.fixture(params=TRAITS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def server_of(kind: str, s3_server: S3Server) -> Iterator[FaultyProxy]:
    ignored, refused, _, _ = TRAITS[kind]
    keys = (s3_server.access_key, s3_server.secret_key.reveal())
    with faulty_proxy(s3_server.url, keys=keys, ignored=ignored) as proxy:
        for header in refused:
            proxy.harm("", "answer", status=501, code="NotImplemented", header=header, last=EVERY)
        yield proxy


def store_at(proxy: FaultyProxy, s3_server: S3Server, bucket: str, **changed: Any) -> S3Store:
    settings = s3_server.settings(f"s3://{bucket}/p", endpoint=proxy.url)
    return S3Store(dataclasses.replace(settings, **changed))


def test_what_a_server_can_do_is_found_out_once_and_told(
    kind: str, s3_server: S3Server, bucket: str
) -> None:
    _, _, checksums, limits = TRAITS[kind]
    with server_of(kind, s3_server) as proxy:
        store = store_at(proxy, s3_server, bucket)
        for name, data in (("small", SMALL), ("large", DATA)):
            put(store, name, data, exclusive=True)
            assert get(store, name) == data
        assert store.limits() == limits
        assert [entry.name for entry in store.entries()] == ["large", "small"]
        assert list(store.unfinished(FAR, remove=False)) == []
        proxy.requests.clear()
        again = store_at(proxy, s3_server, bucket)
        put(again, "another", SMALL)
        assert again.limits() == limits
    assert not any("probe" in request for request in proxy.requests), "it was noted"
    note = s3_server.client().get_object(Bucket=bucket, Key="p/.abilities.json")["Body"].read()
    assert json.loads(note)["checksums"] == checksums


def test_what_is_there_is_never_overwritten(kind: str, s3_server: S3Server, bucket: str) -> None:
    with server_of(kind, s3_server) as proxy:
        store = store_at(proxy, s3_server, bucket)
        for data in (SMALL, DATA):
            put(store, "part", data)
            with pytest.raises(LettaOpsError) as failure:
                put(store, "part", data[::-1], exclusive=True)
            assert failure.value.code == "object-exists"
            assert get(store, "part") == data
        store.delete("part")
        assert nothing_is_there(store)


@pytest.mark.parametrize("kind", ["amazon", "ignores-conditions", "refuses-conditions"])
def test_of_many_who_write_at_once_one_at_most_does(
    kind: str, s3_server: S3Server, bucket: str
) -> None:
    with server_of(kind, s3_server) as proxy, ThreadPoolExecutor(WRITERS) as pool:
        stores = [store_at(proxy, s3_server, bucket) for _ in range(WRITERS)]
        stores[0].limits()
        for name in [f"lock-{turn}" for turn in range(10)]:
            start = threading.Barrier(WRITERS)
            writing = [pool.submit(_write, store, name, start) for store in stores]
            results = [future.result() for future in writing]
            written = [data for data, code in results if code is None]
            assert {code for _, code in results} <= {None, "object-exists"}
            assert len(written) <= 1
            assert [entry.name for entry in stores[0].entries(name)] == [name] * len(written)
            if written:
                assert get(stores[0], name) == written[0]
        assert list(stores[0].unfinished(FAR, remove=False)) == []


def _write(store: Store, name: str, start: threading.Barrier) -> tuple[bytes, str | None]:
    """What was to be written, and why it was not."""
    data = secrets.token_bytes(8)
    start.wait()
    try:
        put(store, name, data, exclusive=True)
    except LettaOpsError as error:
        return data, error.code
    return data, None


def test_a_claim_of_one_who_died_stands_in_the_way_for_a_while_only(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server_of("ignores-conditions", s3_server) as proxy:
        store = store_at(proxy, s3_server, bucket)
        dead = f".claim-part-{'d' * 32}"
        s3_server.client().put_object(Bucket=bucket, Key=f"p/{dead}", Body=b"")
        with pytest.raises(LettaOpsError, match="somebody else is writing") as failure:
            put(store, "part", SMALL, exclusive=True)
        assert failure.value.code == "object-exists"
        time.sleep(1.1)  # the server's times are whole seconds
        monkeypatch.setattr("backups.stores.s3_claims.DEAD_AFTER", dt.timedelta(seconds=1))
        put(store, "part", SMALL, exclusive=True)
        assert [left.name for left in store.unfinished(FAR, remove=True)] == [dead]
        store.delete("part")
        assert nothing_is_there(store)


OF_OTHERS = (
    ".git/HEAD",
    "home/.ssh/config",
    "site/.htaccess",
    ".claim-x",
    ".probe-1",
    "p2/.x-right",
)


def test_hidden_objects_of_others_are_nobodys_helpers(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    for key in OF_OTHERS:
        client.put_object(Bucket=bucket, Key=key, Body=b"precious")
    store = S3Store(s3_server.settings(f"s3://{bucket}"))
    put(store, "part", SMALL, exclusive=True)
    assert list(store.unfinished(FAR, remove=True)) == []
    assert {entry.name for entry in store.entries()} == {"part", *OF_OTHERS}


@pytest.mark.parametrize("status", [400, 403])
def test_what_may_be_there_and_cannot_be_looked_at_is_not_overwritten(
    s3_server: S3Server, bucket: str, status: int
) -> None:
    with server_of("ignores-conditions", s3_server) as proxy:
        store = store_at(proxy, s3_server, bucket, timeout=3.0)
        put(store, "part", SMALL)
        store.limits()
        proxy.harm("HEAD .*part$", "answer", status=status, code="Refused", last=EVERY)
        with pytest.raises(LettaOpsError):
            put(store, "part", b"another", exclusive=True)
        proxy.heal()
        assert get(store, "part") == SMALL
        assert [entry.name for entry in store.entries()] == ["part"]


def test_a_claim_stays_while_its_request_may_still_arrive(s3_server: S3Server, bucket: str) -> None:
    with server_of("ignores-conditions", s3_server) as proxy:
        store = store_at(proxy, s3_server, bucket, timeout=2.0)
        put(store, "first", SMALL)
        proxy.harm("PUT .*/part$", "hang", last=EVERY)
        with pytest.raises(LettaOpsError) as failure:
            put(store, "part", SMALL, exclusive=True)
        assert failure.value.code == "store-unreachable"
        with pytest.raises(LettaOpsError, match="somebody else is writing"):
            put(store_at(proxy, s3_server, bucket), "part", b"another", exclusive=True)
        (left,) = store.unfinished(FAR, remove=True)
        assert left.name.startswith(".claim-part-")


def test_a_claim_that_took_too_long_is_given_up(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server_of("ignores-conditions", s3_server) as proxy:
        store = store_at(proxy, s3_server, bucket)
        put(store, "first", SMALL)
        seconds = iter((0.0, 301.0))
        monkeypatch.setattr("backups.stores.s3_claims._now", lambda: next(seconds))
        with pytest.raises(LettaOpsError, match="could not be claimed in time"):
            put(store, "part", SMALL, exclusive=True)
        assert [entry.name for entry in store.entries()] == ["first"]
        assert list(store.unfinished(FAR, remove=False)) == []


def test_claims_of_other_names_do_not_count(s3_server: S3Server, bucket: str) -> None:
    with server_of("ignores-conditions", s3_server) as proxy:
        store = store_at(proxy, s3_server, bucket)
        s3_server.client().put_object(Bucket=bucket, Key=f"p/.claim-part-2-{'a' * 32}", Body=b"")
        put(store, "part", SMALL, exclusive=True)
        assert get(store, "part") == SMALL


def test_a_condition_that_holds_for_whole_objects_only_is_not_relied_on_for_parts(
    s3_server: S3Server, bucket: str
) -> None:
    keys = (s3_server.access_key, s3_server.secret_key.reveal())
    with faulty_proxy(s3_server.url, keys=keys, ignored="if-none-match", ignoring="POST") as proxy:
        store = store_at(proxy, s3_server, bucket)
        put(store, "part", DATA)
        assert store.limits() == ()
        seen = proxy.harm(
            "HEAD .*part$", "answer", status=404, code="NoSuchKey"
        )  # at its beginning
        with pytest.raises(LettaOpsError, match="there already"):
            put(store, "part", DATA[::-1], exclusive=True)
        assert seen.seen > 1
        assert get(store, "part") == DATA


def test_a_note_that_came_with_a_copied_store_says_nothing(
    s3_server: S3Server, bucket: str
) -> None:
    put(S3Store(s3_server.settings(f"s3://{bucket}/p")), "part", SMALL)
    with server_of("ignores-conditions", s3_server) as proxy:
        store = store_at(proxy, s3_server, bucket)
        with pytest.raises(LettaOpsError):
            put(store, "part", b"another", exclusive=True)
        assert store.limits() == (KNOWS_NO_CONDITION,)


def test_who_may_write_below_a_folder_only_may_write_there(
    s3_server: S3Server, bucket: str
) -> None:
    with server_of("amazon", s3_server) as proxy:
        proxy.harm(r"/p/\.", "answer", status=403, code="AccessDenied", last=EVERY)
        store = store_at(proxy, s3_server, bucket)
        put(store, "deployment/part", SMALL, exclusive=True)
        assert get(store, "deployment/part") == SMALL
        assert [entry.name for entry in store.entries()] == ["deployment/part"]


@pytest.mark.parametrize("status", [304, 412])
@pytest.mark.parametrize("refusal", [403, 405, 422])
def test_other_ways_to_refuse_are_understood(
    s3_server: S3Server, bucket: str, status: int, refusal: int
) -> None:
    with server_of("amazon", s3_server) as proxy:
        proxy.harm("PUT", "answer", status=refusal, code="No", header=CRC32, last=EVERY)
        proxy.harm("PUT .*probe", "answer", status=status, code="There", header="If-None-Match")
        store = store_at(proxy, s3_server, bucket)
        put(store, "part", SMALL, exclusive=True)
        assert get(store, "part") == SMALL
        assert store.limits() == ()


def test_what_object_lock_holds_of_ours_is_nobodys_trouble(tmp_path: Path) -> None:
    with running_s3_server(tmp_path, versioning=False) as server:
        bucket = server.make_bucket("locked", locked_days=1)
        for name in ("first", "second"):
            store = S3Store(server.settings(f"s3://{bucket}/p"))
            put(store, name, SMALL, exclusive=True)
        assert list(store.unfinished(FAR, remove=True)) == []
        keys = [each["Key"] for each in server.client().list_objects_v2(Bucket=bucket)["Contents"]]
        assert len([key for key in keys if "probe" in key]) == 1, "asked once"


@pytest.mark.parametrize(
    ("host", "amazon"),
    [
        ("s3.amazonaws.com", True),
        ("s3.eu-central-1.amazonaws.com", True),
        ("bucket.s3.dualstack.us-west-2.amazonaws.com", True),
        ("s3.cn-north-1.amazonaws.com.cn", True),
        ("s3-fips.us-gov-west-1.amazonaws.com", True),
        ("bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com", True),
        ("ec2-1-2-3-4.compute-1.amazonaws.com", False),
        ("garage-123.eu-west-1.elb.amazonaws.com", False),
        ("vpce-svc-1.us-east-1.vpce.amazonaws.com", False),
        ("s3.amazonaws.com.example.org", False),
        ("notreallys3.amazonaws.com", False),
    ],
)
def test_amazons_own_are_known_by_their_names(host: str, amazon: bool) -> None:
    client = SimpleNamespace(meta=SimpleNamespace(endpoint_url=f"https://{host}/"))
    assert is_amazon(client) is amazon


@pytest.mark.parametrize("checksums", ["crc32", "md5", "none"])
def test_a_kind_of_checksum_that_is_set_is_the_one_that_is_sent(
    s3_server: S3Server, bucket: str, checksums: str
) -> None:
    unwanted = {"crc32": "Content-MD5", "md5": CRC32, "none": CRC32}[checksums]
    with server_of("amazon", s3_server) as proxy:
        fault = proxy.harm("", "answer", status=501, header=unwanted, last=EVERY)
        mode = proxy.harm("GET .*part", "answer", header="x-amz-checksum-mode", last=EVERY)
        store = store_at(proxy, s3_server, bucket, checksums=checksums)
        put(store, "part", DATA, exclusive=True)
        if checksums == "crc32":
            proxy.heal()
        assert get(store, "part") == DATA
        assert fault.seen == 0
        assert mode.seen == 0


@pytest.mark.parametrize("checksums", ["crc32", "md5"])
def test_what_arrives_altered_is_refused(s3_server: S3Server, bucket: str, checksums: str) -> None:
    """The server compares: what we say of a body is said of what we meant to send."""
    with server_of("amazon", s3_server) as proxy:
        store = store_at(proxy, s3_server, bucket, checksums=checksums)
        put(store, "first", SMALL)
        client = store._client
        client.meta.events.register_first("before-sign.s3.PutObject", _alter)
        with pytest.raises(LettaOpsError) as failure:
            put(store, "part", SMALL)
        assert failure.value.code == "store-failed"
        assert [entry.name for entry in store.entries()] == ["first"]


def _alter(request: Any, **_: Any) -> None:
    request.data = b"altered" + bytes(request.data)[7:]


def test_a_refused_mode_of_reading_is_left_out(s3_server: S3Server, bucket: str) -> None:
    with server_of("amazon", s3_server) as proxy:
        store = store_at(proxy, s3_server, bucket)
        put(store, "part", SMALL)
        proxy.harm("GET", "answer", status=400, code="InvalidArgument", header="x-amz-checksum-mode",
                   last=EVERY)  # fmt: skip
        assert get(store, "part") == SMALL


def test_temporary_credentials_are_sent_and_their_end_is_told(
    s3_server: S3Server, bucket: str
) -> None:
    token = Sensitive("temporary-token-of-a-test")
    with server_of("permanent", s3_server) as proxy:
        seen = proxy.harm("", "none", header="X-Amz-Security-Token", last=EVERY)
        store = store_at(proxy, s3_server, bucket, session_token=token)
        put(store, "part", SMALL)
        assert seen.seen > 0
        proxy.heal()
        proxy.harm("partNumber=2", "answer", status=400, code="ExpiredToken", last=EVERY)
        with pytest.raises(LettaOpsError, match="temporary credentials have expired") as failure:
            put(store, "large", DATA)
        assert failure.value.code == "store-denied"
        assert "store.session_token" in failure.value.hint
        assert token.reveal() not in f"{failure.value} {failure.value.hint}"
        assert [entry.name for entry in store.entries()] == ["part"]
        assert list(store.unfinished(FAR, remove=False)) == []


@pytest.mark.parametrize(
    ("status", "code", "body"),
    [
        (301, "PermanentRedirect", "<Region>eu-north-1</Region>"),
        (400, "AuthorizationHeaderMalformed", "<Region>eu-north-1</Region>"),
        (400, "AuthorizationHeaderMalformed", ""),
    ],
)
def test_the_region_that_a_bucket_is_in_is_named(
    s3_server: S3Server, bucket: str, status: int, code: str, body: str
) -> None:
    with server_of("amazon", s3_server) as proxy:
        message = "the region 'us-east-1' is wrong; expecting 'eu-north-1'"
        proxy.harm("", "answer", status=status, code=code, body=body, message=message, last=EVERY)
        store = store_at(proxy, s3_server, bucket)
        for use in (lambda: list(store.entries()), lambda: put(store, "part", SMALL)):
            with pytest.raises(LettaOpsError, match="in the region eu-north-1") as failure:
                use()
            assert "store.region=eu-north-1" in failure.value.hint


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("below", ["", "/storage/v1/s3"])
@pytest.mark.parametrize("end", ["", "/"])
def test_an_endpoint_is_any_url(
    s3_server: S3Server, bucket: str, address: str, below: str, end: str
) -> None:
    keys = (s3_server.access_key, s3_server.secret_key.reveal())
    with faulty_proxy(s3_server.url, address, keys=keys, below=below) as proxy:
        store: Store = store_at(proxy, s3_server, bucket, endpoint=f"{proxy.url}{below}{end}")
        put(store, "a name/ä+%41", DATA, exclusive=True)
        assert get(store, "a name/ä+%41") == DATA
        assert [entry.name for entry in store.entries()] == ["a name/ä+%41"]
        assert all(re.match(rf"\w+ {below}/{bucket}[/?]", each) for each in proxy.requests)


def test_it_is_said_what_keeps_a_bucket_from_losing_what_is_deleted(s3_server: S3Server) -> None:
    names = {
        "plain": s3_server.make_bucket("protection-plain"),
        "versioned": s3_server.make_bucket("protection-versioned", versioned=True),
        "locked": s3_server.make_bucket("protection-locked", locked_days=1),
    }
    said = {
        kind: S3Store(s3_server.settings(f"s3://{name}/p")).protection()
        for kind, name in names.items()
    }
    assert said == {
        "plain": f"no versions, no object lock: {NOTHING}",
        "versioned": "versions, no object lock",
        "locked": "versions, object lock",
    }
    with server_of("amazon", s3_server) as proxy:
        store = store_at(proxy, s3_server, names["plain"])
        proxy.harm("versioning", "answer", status=403, code="AccessDenied", last=EVERY)
        proxy.harm("object-lock", "answer", status=501, code="NotImplemented", last=EVERY)
        assert store.protection() == "versions not known (it doesn't say), no object lock"


def test_a_bucket_may_have_dots_and_another_region_be_set(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket("backups.of.letta")
    store = S3Store(dataclasses.replace(s3_server.settings(f"s3://{bucket}/p"), region=REGION))
    put(store, "part", SMALL, exclusive=True)
    assert get(store, "part") == SMALL
