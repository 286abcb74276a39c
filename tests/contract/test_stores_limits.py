"""Stores at the limits of a machine: a writer that is killed, memory, a full disk."""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backups.stores.folder import FolderStore
from backups.stores.s3 import S3Store
from backups.stores.s3_upload import SMALLEST_PART
from backups.stores.store import Store
from tests.contract.s3_server import S3Server
from tests.contract.stored import FAR, nothing_is_there

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import sys
from backups.stores.store import open_store
from infra.stack.backup_settings import StoreSettings
store = open_store(StoreSettings(sys.argv[1], sys.argv[2] or None, path_style=True))
with store.write("stack/backup/part") as sink:
    for _ in range(40):
        sink.write(bytes(1 << 20))
    sink.flush()
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_writer_that_is_killed_leaves_what_is_found_and_removed(
    s3_server: S3Server, bucket: str, tmp_path: Path, kind: str
) -> None:
    store: Store
    if kind == "folder":
        store, endpoint = FolderStore(tmp_path / "store"), ""
    else:
        store, endpoint = S3Store(s3_server.settings(f"s3://{bucket}/p")), s3_server.url
    before = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, store.url, endpoint],
        cwd=ROOT,
        env=os.environ | s3_server.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.kill()
    assert list(store.entries()) == []
    assert list(store.unfinished(before, remove=True)) == [], "it is younger"
    (left,) = store.unfinished(FAR, remove=False)
    (removed,) = store.unfinished(FAR, remove=True)
    assert removed == left
    assert left.name.startswith("stack/backup/")
    assert SMALLEST_PART <= left.size <= 40 << 20
    assert nothing_is_there(store)
    if kind == "folder":
        assert list((tmp_path / "store").iterdir()) == [], "no empty folders are left either"


MEASURED = """
import re, sys
from backups.stores.store import open_store
from infra.stack.backup_settings import StoreSettings
store = open_store(StoreSettings(sys.argv[1], sys.argv[2], path_style=True))
piece = bytes(range(256)) * 4096
with store.write("part") as sink:
    for _ in range(400):
        sink.write(piece)
with store.read("part") as source:
    for _ in range(400):
        assert source.read(len(piece)) == piece
    assert source.read(1) == b""
# Not getrusage: what that says begins with the memory of the process that started this one.
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def test_memory_does_not_grow_with_the_object(s3_server: S3Server, bucket: str) -> None:
    url = f"s3://{bucket}/p"
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, url, s3_server.url],
        cwd=ROOT,
        env=os.environ | s3_server.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 150 * 1024, f"{done.stdout} KiB for an object of 400 MiB"
    S3Store(s3_server.settings(url)).delete("part")


FULL = """
import sys
from pathlib import Path
from backups.stores.folder import FolderStore
from infra.errors import LettaOpsError
store = FolderStore(Path(sys.argv[1]))
with store.write("old") as sink:
    sink.write(b"old")
for size in (1 << 20, 3 << 20):  # the first fails when it is synced, the other one while written
    try:
        with store.write("stack/new") as sink:
            for _ in range(size >> 16):
                sink.write(bytes(1 << 16))
    except LettaOpsError as error:
        print(error.code, [entry.name for entry in store.entries()], list(store.root.iterdir()))
"""


def test_a_disk_that_is_full_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=900k none {tmp_path}"
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*alone, mount], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system of their own")
    done = subprocess.run(
        [*alone, f'{mount} && exec "$0" -c "$1" "$2"', sys.executable, FULL, tmp_path / "store"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    line = re.escape(f"store-full ['old'] [PosixPath('{tmp_path}/store/old')]\n")
    assert re.fullmatch(f"({line}){{2}}", done.stdout), done.stdout + done.stderr
