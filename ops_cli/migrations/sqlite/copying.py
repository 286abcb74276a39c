"""A SQLite file -> a copy as of one moment, also of one in use: nothing is written to it or beside it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from infra.errors import LettaOpsError

MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html, 1.3
WAL = 2  # the number of a format of writing there: with a write-ahead log
FORMAT_AT = 18
BESIDE = ("-wal", "-journal")  # hold what is not in the file yet
BUSY_SECONDS = 30.0
TRIES = 5
SHOWN = 10


@contextmanager
def opened_copy(file: Path, folder: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a copy of `file` in `folder`, that was found to be whole.

    Texts that are no UTF-8 come with lone surrogates. Raises LettaOpsError: `file-not-found`,
    `not-sqlite`, `file-in-use`, `sqlite-damaged`, `disk-full`.
    """
    with _told(file):
        # What is not in the file yet lies beside the file itself, and not beside a link to it.
        copy = _copied(file.resolve(), folder / "copy.db")
        link = sqlite3.connect(copy)
    with closing(link):
        link.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        with _told(file):
            found = [row[0] for row in link.execute(f"PRAGMA integrity_check({SHOWN})")]
        if found != ["ok"]:
            lines = "\n".join(f"  - {line}" for line in found)
            raise LettaOpsError(
                "sqlite-damaged",
                f"{file} is damaged; nothing was changed:\n{lines}",
                "`sqlite3 FILE .recover` saves what can be read into a new file; try that one",
            )
        yield link


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError):
        raise LettaOpsError(
            "file-not-found", f"there is no file {file}", "it is ~/.letta/sqlite.db, usually"
        ) from None
    except sqlite3.DatabaseError as error:
        raise LettaOpsError(
            "sqlite-damaged",
            f"{file} can't be read: {error}; nothing was changed",
            "`sqlite3 FILE .recover` saves what can be read into a new file; try that one",
        ) from None
    except OSError as error:
        code = "disk-full" if error.errno == 28 else "file-unreadable"
        raise LettaOpsError(
            code, f"{file} can't be copied: {error.strerror}", "nothing was changed"
        ) from None


def _copied(file: Path, copy: Path) -> Path:
    with file.open("rb") as source:
        head = source.read(FORMAT_AT + 1)
    if not head.startswith(MAGIC) or len(head) <= FORMAT_AT:
        raise LettaOpsError(
            "not-sqlite", f"{file} is no SQLite database", "it is ~/.letta/sqlite.db, usually"
        )
    # To read a log that nobody has open, SQLite makes files beside it: then the copy reads it.
    if head[FORMAT_AT] != WAL or Path(f"{file}-shm").exists():
        try:
            _copy_through_sqlite(file, copy)
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise _in_use(file) from None
            # A journal that nobody has rolled back: SQLite would have to write to the file.
            copy.unlink(missing_ok=True)
        else:
            return copy
    for _ in range(TRIES):
        before = _state(file)
        for ending in ("", *BESIDE):
            Path(f"{copy}{ending}").unlink(missing_ok=True)
            if Path(f"{file}{ending}").exists():
                shutil.copyfile(f"{file}{ending}", f"{copy}{ending}")
        if _state(file) == before:
            return copy
    raise _in_use(file)


def _copy_through_sqlite(file: Path, copy: Path) -> None:
    """As of one moment: whoever writes has to wait meanwhile."""
    source = sqlite3.connect(
        f"file:{quote(str(file))}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    with closing(source), closing(sqlite3.connect(copy)) as target:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # a backup waits for ever
        source.backup(target)


def _state(file: Path) -> list[tuple[int, int, int] | None]:
    """What changes when somebody writes to the file, or beside it."""
    found: list[tuple[int, int, int] | None] = []
    for ending in ("", *BESIDE):
        try:
            seen = Path(f"{file}{ending}").stat()
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((seen.st_ino, seen.st_size, seen.st_mtime_ns))
    return found


def _in_use(file: Path) -> LettaOpsError:
    return LettaOpsError(
        "file-in-use",
        f"{file} is written to all the time; nothing was changed",
        "stop the server that uses it, then run this again",
    )
