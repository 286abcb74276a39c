"""Opening what others may replace at any time: links and special files are never followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from backups.sources.memory_tar import CHUNK, TarWriter


@contextmanager
def opened(writer: TarWriter, path: bytes) -> Iterator[BinaryIO | None]:
    """Yield the regular file at `path`, or None: where nothing is (any more), and where something
    else is, which the writer is told. Raises OSError for a file that can't be read."""
    descriptor = None
    try:
        # A FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        found = stat.S_IFMT(os.fstat(descriptor).st_mode)
    except FileNotFoundError:
        found = None
    except OSError:
        found = kind(path)
        if found == stat.S_IFREG:
            raise
    if descriptor is not None and found == stat.S_IFREG:
        with os.fdopen(descriptor, "rb", buffering=0) as source:
            yield source
        return
    if descriptor is not None:
        os.close(descriptor)
    if found is not None:
        writer.left_out(path)
    yield None


def write_open(writer: TarWriter, source: BinaryIO, name: bytes) -> None:
    """Write an open file, as long as it is now, from its beginning."""
    source.seek(0)
    size = os.fstat(source.fileno()).st_size
    writer.file(name, size, iter(lambda: source.read(CHUNK), b""))


def write_file(writer: TarWriter, path: bytes, name: bytes) -> None:
    with opened(writer, path) as source:
        if source is not None:
            write_open(writer, source, name)


def names_in(folder: bytes) -> list[bytes]:
    """What is in a folder, sorted; nothing where there is none (any more)."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def kind(path: bytes) -> int | None:
    """The type of what lies at `path`, a link not followed; None where nothing does."""
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_folder(path: bytes) -> bool:
    return kind(path) == stat.S_IFDIR


def is_regular(path: bytes) -> bool:
    return kind(path) == stat.S_IFREG


def is_repository(folder: bytes) -> bool:
    return (
        is_regular(folder + b"/HEAD")
        and is_folder(folder + b"/objects")
        and is_folder(folder + b"/refs")
    )


def shown(path: bytes) -> str:
    return path.decode(errors="replace")
