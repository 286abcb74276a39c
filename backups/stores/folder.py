"""A store in a folder: a file for each object, written as a hidden draft and then renamed or linked."""

from __future__ import annotations

import datetime as dt
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from backups.stores.folder_listing import DRAFT, files_below, is_draft
from backups.stores.store import Entry, Sink, Source, checked
from infra.errors import LettaOpsError

FOLDER_MODE, FILE_MODE = 0o700, 0o600
BUFFER = 1 << 20
ATTEMPTS = 10  # at making folders that a deletion at the same time removes as empty

FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
# What a file system answers whose server or device is away.
AWAY = (errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN)
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)
ABSENT = (FileNotFoundError, NotADirectoryError)

Telling = Callable[[], AbstractContextManager[None]]  # OSError -> LettaOpsError


class FolderStore:
    """Objects are files of mode 0600 below `root`, which is made by the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = self.root.as_uri()

    @contextmanager
    def write(self, name: str, *, exclusive: bool = False) -> Iterator[Sink]:
        path = self.root / checked(name)
        with self._telling():
            self._be_there()
            if exclusive and os.path.lexists(path):
                raise _exists(path)  # before much is written for nothing
            draft = self._draft(path)
        try:
            yield draft
            with self._telling():
                draft.publish(path, exclusive)
        except BaseException as error:
            draft.discard(error)
            self._remove_empty(path.parent)
            raise

    @contextmanager
    def read(self, name: str) -> Iterator[Source]:
        path = self.root / checked(name)
        with self._telling():
            self._be_there()
            try:
                file = open(path, "rb", buffering=0, opener=_unled)  # noqa: SIM115
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise _is_link(path) from None
                if not isinstance(error, (*ABSENT, IsADirectoryError)):
                    raise
                raise LettaOpsError(
                    "object-missing",
                    f"there is no {path}",
                    "see what is there with `letta-ops backup list`",
                ) from None
        with file:
            yield _Reading(file, self._telling)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        return (entry for entry in self._files(prefix) if not is_draft(entry.name))

    def limits(self) -> tuple[str, ...]:
        return ()

    def protection(self) -> str:
        return ""

    def delete(self, name: str) -> None:
        path = self.root / checked(name)
        with self._telling():
            self._be_there()
            self._unlink(path)

    def unfinished(self, older_than: dt.datetime, *, remove: bool) -> Iterator[Entry]:
        for entry in self._files(""):
            if is_draft(entry.name) and entry.modified < older_than:
                if remove:
                    with self._telling():
                        self._unlink(self.root / entry.name)
                yield entry

    def _unlink(self, path: Path) -> None:
        with suppress(*ABSENT):
            path.unlink()
            folder = self._remove_empty(path.parent)
            _sync(folder)

    def _be_there(self) -> None:
        """Raise LettaOpsError (`store-missing`) where even the place for the root is absent.

        A disk that is not mounted must not lead to backups on the one below.
        """
        if not self.root.is_dir() and not self.root.parent.is_dir():
            raise LettaOpsError(
                "store-missing",
                f"{self.root} is not there, nor the folder that it would be in",
                "mount what backups are kept on, or make the folder, or correct store.url",
            )

    def _draft(self, path: Path) -> _Draft:
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError):  # a deletion has removed the folder as empty
                self._make(path.parent)
                return _Draft(path.parent, self._telling)
        self._make(path.parent)
        return _Draft(path.parent, self._telling)

    def _make(self, folder: Path) -> None:
        below = (self.root, *(self.root / step for step in _steps(folder, self.root)))
        for step in below:
            if not step.is_dir():
                step.mkdir(FOLDER_MODE, exist_ok=True)
                _sync(step.parent)

    def _remove_empty(self, folder: Path) -> Path:
        """Remove folders that are empty, upwards, and return the first that stays."""
        with suppress(OSError):  # not empty
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent
        return folder

    def _files(self, prefix: str) -> Iterator[Entry]:
        with self._telling():
            self._be_there()
            yield from files_below(self.root, prefix)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _told(error, self.root) from None


class _Draft:
    """A file that `entries` does not list, until `publish` gives it its name."""

    def __init__(self, folder: Path, telling: Telling) -> None:
        self._path = folder / f"{DRAFT}{secrets.token_hex(8)}"
        self._telling = telling
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._path, flags, FILE_MODE), "wb", buffering=BUFFER)

    def write(self, data: bytes, /) -> int:
        with self._telling():
            return self._file.write(data)

    def flush(self) -> None:
        with self._telling():
            self._file.flush()

    def publish(self, path: Path, exclusive: bool) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if exclusive:
            try:
                os.link(self._path, path)
            except FileExistsError:
                raise _exists(path) from None
            except OSError as error:
                raise _no_links(path, error) if error.errno in NO_LINKS else error from None
            self._path.unlink()
        else:
            self._path.replace(path)
        _sync(path.parent)

    def discard(self, reason: BaseException) -> None:
        """Remove it; where that fails too, `reason` is told."""
        with suppress(OSError):
            self._file.close()  # writes what is in the buffer, which a full disk refuses again
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            reason.add_note(f"{self._path} could not be removed either: {error.strerror}")


class _Reading:
    def __init__(self, file: BinaryIO, telling: Telling) -> None:
        self._file = file
        self._telling = telling

    def read(self, size: int = -1, /) -> bytes:
        with self._telling():
            return self._file.read(size)


def _unled(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _steps(folder: Path, root: Path) -> list[Path]:
    parts = folder.relative_to(root).parts
    return [Path(*parts[: count + 1]) for count in range(len(parts))]


def _sync(folder: Path) -> None:
    """Have the names in `folder` on the disk, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def _exists(path: Path) -> LettaOpsError:
    return LettaOpsError(
        "object-exists",
        f"there is {path} already",
        "look at what is there; remove it if it is not wanted",
    )


def _is_link(path: Path) -> LettaOpsError:
    return LettaOpsError(
        "object-is-link",
        f"{path} is a symbolic link: what it leads to is not of this store",
        "put the file itself there, if you trust it",
    )


def _no_links(path: Path, error: OSError) -> LettaOpsError:
    return LettaOpsError(
        "store-failed",
        f"{path} can't be written so that only one writer wins: {error.strerror}",
        "keep backups on a file system that has hard links (FAT and exFAT have none)",
    )


def _told(error: OSError, root: Path) -> LettaOpsError:
    what = f"{error.filename or root}: {error.strerror or error}"
    if error.errno in FULL:
        hint = "free space with `letta-ops backup prune`, or give the store more"
        return LettaOpsError("store-full", what, hint)
    if error.errno in DENIED:
        hint = f"let this user write to {root}, and see that it is not mounted read-only"
        return LettaOpsError("store-denied", what, hint)
    if error.errno in AWAY:
        hint = "see that what is mounted there answers, then run this again"
        return LettaOpsError("store-unreachable", what, hint)
    if error.errno == errno.ENOENT:  # it was there when this began
        hint = "see whether what backups are kept on is still mounted, then run this again"
        return LettaOpsError("store-missing", what, hint)
    return LettaOpsError("store-failed", what, "see what this machine's log says about that disk")
