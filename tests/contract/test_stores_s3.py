"""What S3 has that other stores don't: buckets, credentials, clocks, versions, object lock, pages."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from backups.stores.s3 import S3Store
from backups.stores.s3_upload import SMALLEST_PART
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from tests.contract.s3_server import S3Server, running_s3_server
from tests.contract.stored import FAR, content, get, nothing_is_there, put

SMALL, DATA = content(1000), content(2 * SMALLEST_PART + 12_345)
TIMEOUT = 3.0


def test_a_store_that_nobody_answers_for_is_unreachable(s3_server: S3Server) -> None:
    settings = s3_server.settings("s3://bucket/p", endpoint="http://127.0.0.1:1", timeout=TIMEOUT)
    with pytest.raises(LettaOpsError) as failure:
        list(S3Store(settings).entries())
    assert failure.value.code == "store-unreachable"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"endpoint": "127.0.0.1:9000"}, "'127.0.0.1:9000' is no URL"),
        ({"region": "not a region"}, "not a region"),
        ({"url": "s3://not_a bucket/p"}, "not_a bucket"),
    ],
)
def test_a_setting_that_can_mean_nothing_is_named(
    s3_server: S3Server, change: dict[str, Any], words: str
) -> None:
    settings = dataclasses.replace(s3_server.settings("s3://bucket/p"), **change)
    with pytest.raises(LettaOpsError, match=words) as failure:
        list(S3Store(settings).entries())
    assert failure.value.code == "store-failed"


def test_a_bucket_that_is_gone_is_missing_for_every_operation(s3_server: S3Server) -> None:
    store = S3Store(s3_server.settings("s3://no-such-bucket/p"))
    for use in (
        lambda: put(store, "part", SMALL),
        lambda: put(store, "part", DATA, exclusive=True),
        lambda: get(store, "part"),
        lambda: list(store.entries()),
        lambda: store.delete("part"),
        lambda: list(store.unfinished(FAR, remove=False)),
    ):
        with pytest.raises(LettaOpsError) as failure:
            use()
        assert failure.value.code == "store-missing"


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
def test_wrong_credentials_are_told_and_not_shown(
    s3_server: S3Server, bucket: str, wrong: str
) -> None:
    change: dict[str, Any] = {wrong: Sensitive("not-the-right-one")}
    settings = dataclasses.replace(s3_server.settings(f"s3://{bucket}/p"), **change)
    for use in (lambda: put(S3Store(settings), "part", SMALL), lambda: get(S3Store(settings), "a")):
        with pytest.raises(LettaOpsError) as failure:
            use()
        assert failure.value.code == "store-denied"
        assert "not-the-right-one" not in str(failure.value)
        assert s3_server.secret_key.reveal() not in str(failure.value)


def test_absent_credentials_are_told_with_the_ways_to_give_them(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    settings = dataclasses.replace(
        s3_server.settings(f"s3://{bucket}/p"), access_key_id=None, secret_access_key=None
    )
    with pytest.raises(LettaOpsError, match=r"store\.access_key_id.*AWS_ACCESS_KEY_ID") as failure:
        list(S3Store(settings).entries())
    assert failure.value.code == "store-denied"
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    put(S3Store(settings), "part", SMALL)
    assert get(S3Store(settings), "part") == SMALL


def test_a_clock_that_is_wrong_is_told_with_both_times(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = dt.datetime.now(dt.UTC)
    ours = now - dt.timedelta(hours=3)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: ours)
    with pytest.raises(LettaOpsError, match=f"{now:%Y-%m-%dT%H}.*{ours:%Y%m%dT%H}") as failure:
        list(S3Store(s3_server.settings(f"s3://{bucket}/p")).entries())
    assert failure.value.code == "store-denied"
    assert "clock" in failure.value.hint


def test_a_versioned_bucket_keeps_what_was_deleted(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket(f"versions-{uuid.uuid4().hex[:12]}", versioned=True)
    store = S3Store(s3_server.settings(f"s3://{bucket}/p"))
    put(store, "part", DATA)
    put(store, "part", SMALL)
    store.delete("part")
    assert nothing_is_there(store)
    versions = s3_server.client().list_object_versions(Bucket=bucket)
    of_it = [each for each in versions["Versions"] if each["Key"] == "p/part"]
    assert sorted(each["Size"] for each in of_it) == [len(SMALL), len(DATA)]
    assert [each["Key"] for each in versions["DeleteMarkers"]].count("p/part") == 1


def test_a_bucket_that_locks_its_objects_is_written_and_read(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket(f"locked-{uuid.uuid4().hex[:12]}", locked_days=1)
    store = S3Store(s3_server.settings(f"s3://{bucket}/p"))
    for name, data in (("small", SMALL), ("large", DATA)):
        put(store, name, data, exclusive=True)
        assert get(store, name) == data
        store.delete(name)  # hides it: the versions stay until they may go
    assert nothing_is_there(store)
    kept = s3_server.client().list_object_versions(Bucket=bucket)["Versions"]
    assert sorted(each["Key"] for each in kept if "/." not in each["Key"]) == ["p/large", "p/small"]


def test_what_object_lock_holds_is_told_with_its_end(tmp_path: Path) -> None:
    with running_s3_server(tmp_path, versioning=False) as server:
        bucket = server.make_bucket("locked", locked_days=1)
        store = S3Store(server.settings(f"s3://{bucket}/p"))
        put(store, "part", SMALL)
        with pytest.raises(LettaOpsError, match="as long as its bucket says") as failure:
            store.delete("part")
        assert failure.value.code == "object-locked"
        until = dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
        server.client().put_object_retention(
            Bucket=bucket,
            Key="p/part",
            Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until},
        )
        with pytest.raises(LettaOpsError, match=f"until {until:%Y-%m-%d}") as failure:
            store.delete("part")
        assert failure.value.code == "object-locked"
        assert get(store, "part") == SMALL


def test_a_listing_has_as_many_pages_as_it_needs(s3_server: S3Server, bucket: str) -> None:
    folder = s3_server.folder / "data" / bucket / "p"
    folder.mkdir()
    names = [f"{number:05d}" for number in range(2345)]
    for name in names:
        (folder / name).touch()
    store = S3Store(s3_server.settings(f"s3://{bucket}/p"))
    assert [entry.name for entry in store.entries()] == names
