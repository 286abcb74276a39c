"""Parts of the stores that need no server: files and folders, sizes of parts, errors in words."""

from __future__ import annotations

import datetime as dt
import errno
import os
import stat
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from backups.stores.folder import FolderStore
from backups.stores.s3_errors import explained
from backups.stores.s3_upload import part_size
from backups.stores.store import open_store
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.backup_settings import StoreSettings

FAR = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
TIB, GIB, MIB = 1 << 40, 1 << 30, 1 << 20


def put(store: FolderStore, name: str, data: bytes = b"x", *, exclusive: bool = False) -> None:
    with store.write(name, exclusive=exclusive) as sink:
        sink.write(data)


def names(store: FolderStore) -> list[str]:
    return [entry.name for entry in store.entries()]


def test_folders_and_files_are_for_their_owner_only_from_the_first_byte(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = FolderStore(tmp_path / "store")
        with store.write("stack/backup/part") as sink:
            sink.write(b"x")
            modes = {
                path.is_dir(): stat.S_IMODE(path.stat().st_mode)
                for path in (tmp_path / "store").rglob("*")
            }
    finally:
        os.umask(before)
    assert modes == {True: 0o700, False: 0o600}
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "store/stack/backup/part").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("url", "folder"),
    [("file:///x%41y", "/xAy"), ("file:///a%20b/c", "/a b/c"), ("file:///a b", "/a b")],
)
def test_a_url_of_a_folder_means_what_urls_mean(url: str, folder: str) -> None:
    store = open_store(StoreSettings(url))
    assert isinstance(store, FolderStore)
    assert store.root == Path(folder)


def test_a_link_is_listed_and_not_followed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    put(store, "stack/backup/part")
    (tmp_path / "elsewhere").write_text("of somebody else")
    (store.root / "stack/backup/linked").symlink_to(tmp_path / "elsewhere")
    assert names(store) == ["stack/backup/linked", "stack/backup/part"]
    with (
        pytest.raises(LettaOpsError, match="symbolic link") as refused,
        store.read("stack/backup/linked"),
    ):
        pass
    assert refused.value.code == "object-is-link"
    store.delete("stack/backup/linked")
    assert (tmp_path / "elsewhere").read_text() == "of somebody else"


def test_a_folder_whose_disk_is_not_mounted_is_missing_and_not_made(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "mount" / "store")
    for use in (
        lambda: put(store, "part"),
        lambda: names(store),
        lambda: store.delete("part"),
        lambda: list(store.unfinished(FAR, remove=True)),
    ):
        with pytest.raises(LettaOpsError, match="mount") as failure:
            use()
        assert failure.value.code == "store-missing"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "store-full"),
        (errno.EDQUOT, "store-full"),
        (errno.EROFS, "store-denied"),
        (errno.ESTALE, "store-unreachable"),
        (errno.EIO, "store-failed"),
    ],
)
def test_a_disk_that_refuses_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str, exclusive: bool
) -> None:
    store = FolderStore(tmp_path)
    put(store, "old")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    (tmp_path / "stack").mkdir()
    with pytest.raises(LettaOpsError, match=os.strerror(number)) as failure:
        put(store, "stack/new", exclusive=exclusive)
    assert failure.value.code == code
    assert names(store) == ["old"]
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]


def test_a_file_system_without_hard_links_is_told_for_exclusive_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)

    def refuse(*_: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    put(store, "part")
    with pytest.raises(LettaOpsError, match="only one writer wins") as failure:
        put(store, "lock", exclusive=True)
    assert failure.value.code == "store-failed"
    assert names(store) == ["part"]


def test_files_that_are_none_of_ours_are_left_alone(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    put(store, "stack/part")
    (tmp_path / ".snapshot").mkdir()
    (tmp_path / ".snapshot" / "copy").touch()
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "#1").touch()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "stack")
    assert names(store) == ["elsewhere", "stack/part"]  # a link is no folder
    assert list(store.unfinished(FAR, remove=True)) == []
    assert (tmp_path / ".DS_Store").exists()


def test_the_last_object_of_a_folder_takes_the_folder_with_it(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    put(store, "stack/one/part")
    put(store, "stack/two/drills/part")
    store.delete("stack/two/drills/part")
    assert [path.name for path in (tmp_path / "stack").iterdir()] == ["one"]
    store.delete("stack/one/part")
    assert list(tmp_path.iterdir()) == []


def test_a_draft_that_is_being_written_keeps_its_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    put(store, "stack/backup/a")
    with store.write("stack/backup/b") as sink:
        sink.write(b"x")
        store.delete("stack/backup/a")
    assert names(store) == ["stack/backup/b"]


def test_a_url_with_escapes_opens_the_folder_that_it_means(tmp_path: Path) -> None:
    folder = tmp_path / "with space & ü"
    store = open_store(StoreSettings(folder.as_uri()))
    assert isinstance(store, FolderStore)
    assert store.root == folder
    assert store.url == folder.as_uri()


def test_ten_thousand_parts_hold_the_largest_object_of_s3() -> None:
    sizes = [part_size(number) for number in range(1, 10_001)]
    assert sum(sizes) >= 5 * TIB
    assert max(sizes) <= 5 * GIB
    assert set(sizes[:1000]) == {8 * MIB}
    assert sum(sizes[:4000]) >= 100 * GIB
    assert max(sizes[:4000]) <= 64 * MIB, "memory stays small for what people have"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchBucket", "store-missing"),
        (404, "NoSuchKey", "object-missing"),
        (412, "PreconditionFailed", "object-exists"),
        (409, "ConditionalRequestConflict", "object-exists"),
        (403, "AccessDenied", "store-denied"),
        (403, "InvalidAccessKeyId", "store-denied"),
        (400, "ExpiredToken", "store-denied"),
        (403, "RequestTimeTooSkewed", "store-denied"),
        (403, "QuotaExceeded", "store-full"),
        (507, "InsufficientStorage", "store-full"),
        (507, "AnythingElse", "store-full"),
        (503, "SlowDown", "store-unreachable"),
        (502, "502", "store-unreachable"),
        (429, "TooManyRequests", "store-unreachable"),
        (400, "AuthorizationHeaderMalformed", "store-failed"),
        (301, "PermanentRedirect", "store-failed"),
    ],
)
def test_every_answer_of_a_store_has_a_code_and_shows_no_secret(
    status: int, code: str, expected: str
) -> None:
    settings = StoreSettings(
        "s3://bucket/p",
        access_key_id=Sensitive("the-access-key"),
        secret_access_key=Sensitive("the-secret-key"),
    )
    answer = {
        "Error": {"Code": code, "Message": "the-secret-key of the-access-key"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    error = explained(ClientError(answer, "PutObject"), settings)
    assert error.code == expected
    assert error.message.startswith("s3://bucket/p: ")
    assert error.hint
    assert "the-secret-key" not in str(error)
    assert "the-access-key" not in str(error)
