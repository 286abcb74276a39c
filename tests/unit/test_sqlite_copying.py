"""A copy of a SQLite file: of one moment, of whatever state it was left in, and nothing written there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import LettaOpsError
from ops_cli.migrations.sqlite import copying
from ops_cli.migrations.sqlite.copying import opened_copy

# A server that dies with a transaction in its journal (or log), and one that goes on.
DIES = """
import os, sqlite3, sys
link = sqlite3.connect(sys.argv[1], isolation_level=None)
link.execute("PRAGMA journal_mode = " + sys.argv[2])
link.execute("PRAGMA cache_size = 5")
link.execute("BEGIN")
link.execute("INSERT INTO t SELECT 'more ' || x FROM t")
if sys.argv[2] == "WAL":
    link.execute("COMMIT")
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "sqlite.db"
    path.parent.mkdir()
    link = sqlite3.connect(path)
    link.execute("CREATE TABLE t (x TEXT)")
    link.executemany(
        "INSERT INTO t VALUES (?)", [(f"row {n:05} " + "x" * 90,) for n in range(2000)]
    )
    link.commit()
    link.close()
    return path


def state(file: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in file.parent.iterdir()}


def count(file: Path, folder: Path) -> int:
    folder.mkdir(exist_ok=True)
    with opened_copy(file, folder) as link:
        return int(link.execute("SELECT count(*) FROM t").fetchone()[0])


def test_a_file_is_copied_and_left_alone(file: Path, tmp_path: Path) -> None:
    before = state(file)
    assert count(file, tmp_path / "copy") == 2000
    assert state(file) == before


def test_a_file_that_may_only_be_read_is_copied(file: Path, tmp_path: Path) -> None:
    file.chmod(0o400)
    file.parent.chmod(0o500)
    assert count(file, tmp_path / "copy") == 2000
    file.parent.chmod(0o700)


def test_a_file_in_use_is_copied_as_of_one_moment(file: Path, tmp_path: Path) -> None:
    for mode in ("DELETE", "WAL"):
        link = sqlite3.connect(file, isolation_level=None)
        link.execute(f"PRAGMA journal_mode = {mode}")
        link.execute("BEGIN")
        link.execute("INSERT INTO t VALUES ('not yet')")
        before = state(file)
        assert count(file, tmp_path / mode) == 2000
        link.execute("COMMIT")
        assert before.keys() >= {"sqlite.db"}
        assert count(file, tmp_path / f"{mode}-later") == 2001
        link.execute("DELETE FROM t WHERE x = 'not yet'")
        link.close()


@pytest.mark.parametrize(("mode", "rows"), [("DELETE", 2000), ("WAL", 4000)])
def test_what_a_server_that_died_has_left_is_read(
    file: Path, tmp_path: Path, mode: str, rows: int
) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(file), mode], check=False)
    left = sorted(each.name for each in file.parent.iterdir())
    assert len(left) > 1  # a journal, or a log
    before = state(file)
    assert count(file, tmp_path / "copy") == rows
    after = state(file)
    after.pop("sqlite.db-shm", None), before.pop("sqlite.db-shm", None)
    assert after == before


def test_what_lies_beside_the_file_that_a_link_leads_to_is_read(file: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(file), "WAL"], check=False)
    link = tmp_path / "link.db"
    link.symlink_to(file)
    assert count(link, tmp_path / "copy") == 4000
    Path(f"{file}-shm").unlink()
    assert count(link, tmp_path / "again") == 4000


def test_a_log_without_its_index_is_read_and_none_is_made(file: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(file), "WAL"], check=False)
    Path(f"{file}-shm").unlink()
    before = state(file)
    assert "sqlite.db-wal" in before
    assert count(file, tmp_path / "copy") == 4000
    assert state(file) == before


def test_a_writer_that_does_not_end_is_told(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BUSY_SECONDS", 0.2)
    link = sqlite3.connect(file, isolation_level=None)
    link.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LettaOpsError) as raised:
        count(file, tmp_path / "copy")
    assert raised.value.code == "file-in-use"
    link.close()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not-sqlite"),
        (b"SQLite format 3\0", "not-sqlite"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not-sqlite"),
        (None, "file-not-found"),
    ],
)
def test_what_is_no_database_is_told(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "sqlite.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LettaOpsError) as raised:
        count(path, tmp_path / "copy")
    assert raised.value.code == code
    with pytest.raises(LettaOpsError) as raised:
        count(tmp_path, tmp_path / "copy")
    assert raised.value.code == "file-not-found"


@pytest.mark.parametrize("size", [100, 5000, 100_000])
def test_half_a_file_is_told(file: Path, tmp_path: Path, size: int) -> None:
    os.truncate(file, size)
    with pytest.raises(LettaOpsError) as raised:
        count(file, tmp_path / "copy")
    assert raised.value.code == "sqlite-damaged"


def test_a_changed_page_is_told(file: Path, tmp_path: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(3 * 4096)
        stream.write(b"\xff" * 200)
    with pytest.raises(LettaOpsError) as raised:
        count(file, tmp_path / "copy")
    assert raised.value.code == "sqlite-damaged"
    shutil.rmtree(tmp_path / "copy")
