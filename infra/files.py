"""Writing files so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from infra.errors import LettaOpsError

MARKER = "installed"


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, whatever the umask: root's services must get in."""
    missing = [step for step in (folder, *folder.parents) if not step.exists()]
    for step in reversed(missing):
        step.mkdir(exist_ok=True)
        step.chmod(0o755 if os.geteuid() == 0 else 0o700)


def write_private(path: Path, text: str, owner: tuple[int, int] | None = None) -> None:
    """Replace `path` by `text`, mode 0600, belonging to `owner` (uid, gid) or to us."""
    write_file(path, text, 0o600, owner)


def write_file(path: Path, text: str, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Replace `path` by `text` in one step: written beside it, synced, then renamed over it."""
    make_folder(path.parent)
    with draft_of(path, mode, owner) as sink:
        sink.write(text.encode())


@contextmanager
def draft_of(path: Path, mode: int, owner: tuple[int, int] | None = None) -> Iterator[IO[bytes]]:
    """Yield a file beside `path`, which takes its place when the block has ended well; else it goes."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as sink:
            os.fchmod(descriptor, mode)
            if owner is not None:
                os.fchown(descriptor, *owner)
            yield sink
            sink.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def output(path: Path) -> Iterator[IO[bytes]]:
    """Yield what becomes the file at `path`, mode 0600, whole or not at all.

    Raises LettaOpsError (`output-refused`) for what the file's disk and folder refuse.
    """
    try:
        with draft_of(path, 0o600) as sink:
            yield sink
    except OSError as error:
        raise LettaOpsError(
            "output-refused",
            f"cannot write {path}: {error.strerror}",
            "free some disk space, or name a file in a folder that you may write to",
        ) from None


@contextmanager
def held(path: Path, who: str, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file at `path` for the block; the kernel lets go of it when we die.

    The file says who holds it. With `on_wait`, that is told the holder and we wait; without, raises
    LettaOpsError (`locked`) naming the holder.
    """
    make_folder(path.parent)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            if on_wait is None:
                raise LettaOpsError(
                    "locked",
                    f"{holder} is changing this stack right now",
                    "wait until it has finished, then run this again",
                ) from None
            on_wait(f"waiting for {holder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(f"{who} (pid {os.getpid()})\n")
        lock.flush()
        yield


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file at `path`."""
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def made_once(
    folder: Path, who: str, report: Callable[[str], None], fill: Callable[[Path], None]
) -> Path:
    """Return `folder`, filled by `fill` if nobody has yet; two at once make it once.

    The marker is written last: what an interruption leaves is removed and made anew.
    """
    marker = folder / MARKER
    if marker.is_file():
        return folder
    with held(folder.with_name(f"{folder.name}.lock"), who, report):
        if not marker.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            make_folder(folder)
            folder.chmod(0o755)
            fill(folder)
            write_file(marker, "", 0o644)
    return folder


def is_made(folder: Path) -> bool:
    """Whether `made_once` has finished `folder`."""
    return (folder / MARKER).is_file()
