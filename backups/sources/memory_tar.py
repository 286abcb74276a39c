"""The tar of git-backed memory: its writer, a strict reader, and the digest of what it holds.

Standard library only: this also runs where the memory lies, without our packages (`memory_files`).

An ordinary GNU tar with folders and regular files below `memfs/`, sorted by the parts of their
names; owners, modes and times are always the same, so that the same memory gives the same bytes. The
last member, `memfs.end`, says what came before it: a tar without it was cut. It alone: no memory.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

ROOT = b"memfs"
END = b"memfs.end"
BLOCK = 512
CHUNK = 1 << 18
LONGEST_NAME = 1 << 14
LONGEST_END = 1 << 20
NOTES = 20  # so many of them are told


class TarDamaged(ValueError):  # noqa: N818  # says what the tar is
    """It is no tar of ours, or it was cut or altered."""


class Contents(NamedTuple):
    """What a tar holds. `digest` is SHA-256 over each file's path and SHA-256, in order; `notes` are
    words for people: what was left out, and what was damaged already where it was read."""

    repositories: int
    files: int
    digest: str
    notes: tuple[str, ...] = ()


class Member(NamedTuple):
    """A folder (`size` is None) or a regular file; `path` begins with `memfs/`, or is END."""

    path: bytes
    size: int | None


class Piece(NamedTuple):
    """Some bytes of a tar: `member` where one begins, `data` of its content."""

    raw: bytes
    member: Member | None = None
    data: bytes = b""


class Tally:
    """Counts and digests files and folders that come in order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._heads: list[
            tuple[bytes, bool]
        ] = []  # folders around us that hold a HEAD; and objects
        self._files = self._repositories = 0

    def folder(self, path: bytes) -> None:
        parent, _, name = path.rpartition(b"/")
        self._leave(parent)
        if self._heads and self._heads[-1][0] == parent:
            if name == b"objects":
                self._heads[-1] = (parent, True)
            elif name == b"refs" and self._heads[-1][1]:
                self._repositories += 1

    def file(self, path: bytes, sha256: str) -> None:
        parent, _, name = path.rpartition(b"/")
        self._leave(parent)
        if name == b"HEAD":
            self._heads.append((parent, False))
        self._files += 1
        self._digest.update(b"%d %s %s\n" % (len(path), path, sha256.encode()))

    def contents(self, notes: Iterable[str] = ()) -> Contents:
        digest = self._digest.hexdigest()
        return Contents(self._repositories, self._files, digest, tuple(notes))

    def _leave(self, parent: bytes) -> None:
        while self._heads and not (parent + b"/").startswith(self._heads[-1][0] + b"/"):
            self._heads.pop()


class TarWriter:
    """Writes the tar; the caller keeps the order."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._tally = Tally()
        self._notes: list[str] = []
        self._left_out: dict[bytes, None] = {}
        self._path, self._size, self._left, self._digest = b"", 0, 0, hashlib.sha256()

    def note(self, message: str) -> None:
        """Say something about what is written; it stands in the last member."""
        self._notes.append(message)

    def left_out(self, path: bytes) -> None:
        """Count a link or a special file: they are not taken. It may be seen more than once."""
        self._left_out[path] = None

    def folder(self, path: bytes) -> None:
        self.begin(path, None)

    def file(self, path: bytes, size: int, chunks: Iterable[bytes]) -> None:
        """Raises EOFError when `chunks` are fewer bytes than `size`; more are not taken."""
        self.begin(path, size)
        chunks = iter(chunks)
        while self._left:
            chunk = next(chunks, None)
            if chunk is None:
                raise EOFError(f"{path.decode(errors='replace')} became shorter while it was read")
            self.data(chunk[: self._left])

    def begin(self, path: bytes, size: int | None) -> None:
        """Begin a folder (`size` is None), or a file, whose content comes by `data`, as much as it is."""
        self._write(_header(path, size))
        if size is None:
            self._tally.folder(path)
            return
        self._path, self._size, self._left, self._digest = path, size, size, hashlib.sha256()
        self._end_file()

    def data(self, data: bytes) -> None:
        self._digest.update(data)
        self._write(data)
        self._left -= len(data)
        self._end_file()

    def _end_file(self) -> None:
        if not self._left:
            self._write(_padding(self._size))
            self._tally.file(self._path, self._digest.hexdigest())

    def end(self) -> Contents:
        notes = self._notes[:NOTES]
        if more := len(self._notes) - len(notes):
            notes.append(f"and {more} more of these")
        if self._left_out:
            first = next(iter(self._left_out)).decode(errors="replace")
            notes.append(f"{len(self._left_out)} links or special files not taken, as {first}")
        contents = self._tally.contents(notes)
        text = json.dumps(contents._asdict(), indent=1).encode()
        self._write(_header(END, len(text)) + text + _padding(len(text)) + bytes(2 * BLOCK))
        return contents


class TarReader:
    """Reads a tar from `read`, which may give less than it is asked for, and b"" at the end.

    Nothing behind the tar's own end is read. `contents` are known when `pieces` has ended.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.contents: Contents | None = None

    def pieces(self) -> Iterator[Piece]:
        """Yield every byte of the tar; raises TarDamaged for anything but what `TarWriter` writes."""
        tally, order = Tally(), _Order()
        while True:
            raw, member = self._member()
            if member.path == END:
                yield from self._end(raw, member, tally)
                return
            order.check(member)
            yield Piece(raw, member)
            if member.size is None:
                tally.folder(member.path)
                continue
            digest, left = hashlib.sha256(), member.size
            while left:
                data = self._exactly(min(left, CHUNK))
                left -= len(data)
                digest.update(data)
                yield Piece(data, data=data)
            yield Piece(self._zeros(len(_padding(member.size))))
            tally.file(member.path, digest.hexdigest())

    def ensure_end(self) -> None:
        """Raises TarDamaged when there is something behind the tar."""
        if self._read(1):
            raise TarDamaged("there is something behind its end")

    def _end(self, raw: bytes, member: Member, tally: Tally) -> Iterator[Piece]:
        if not member.size or member.size > LONGEST_END:
            raise TarDamaged("its last member is none of ours")
        text = self._exactly(member.size)
        try:
            claimed = json.loads(text)
            found = tally.contents(str(note) for note in claimed["notes"])
            altered = found._asdict() != {**claimed, "notes": found.notes}
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
            raise TarDamaged("its last member is none of ours") from None
        if altered:
            raise TarDamaged("it holds something else than its last member says")
        yield Piece(raw + text + self._zeros(len(_padding(member.size)) + 2 * BLOCK))
        self.contents = found

    def _member(self) -> tuple[bytes, Member]:
        raw = self._exactly(BLOCK)
        info = _parsed(raw)
        name = None
        if info.type == tarfile.GNUTYPE_LONGNAME:
            if not 0 < info.size <= LONGEST_NAME:
                raise TarDamaged("a name is too long")
            name = self._exactly(info.size)
            head = self._exactly(len(_padding(info.size)) + BLOCK)
            raw += name + head
            info, name = _parsed(head[-BLOCK:]), name.rstrip(b"\0").rstrip(b"/")
        if info.type not in (tarfile.REGTYPE, tarfile.DIRTYPE):
            raise TarDamaged(f"{info.name!r} is neither a folder nor a regular file")
        path = info.name.encode("utf-8", "surrogateescape") if name is None else name
        return raw, Member(path, None if info.isdir() else info.size)

    def _exactly(self, size: int) -> bytes:
        found = self._read(size)
        if len(found) < size:
            parts = [found]
            while (left := size - sum(map(len, parts))) and (more := self._read(left)):
                parts.append(more)
            found = b"".join(parts)
        if len(found) != size:
            raise TarDamaged("it was cut")
        return found

    def _zeros(self, size: int) -> bytes:
        found = self._exactly(size)
        if found.count(0) != size:
            raise TarDamaged("there is something between its members")
        return found


class _Order:
    """Every name is behind the last one, and in a folder that came before it."""

    def __init__(self) -> None:
        self._folders: list[tuple[bytes, ...]] = [()]
        self._last: tuple[bytes, ...] = ()

    def check(self, member: Member) -> None:
        parts = tuple(member.path.split(b"/"))
        shown = repr(member.path.decode(errors="replace"))
        if parts[0] != ROOT or any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
            raise TarDamaged(f"the name {shown} does not belong there")
        if parts <= self._last:
            raise TarDamaged(f"{shown} is not in order")
        while self._folders[-1] != parts[: len(self._folders[-1])]:
            self._folders.pop()
        if self._folders[-1] != parts[:-1] or (len(parts) == 1 and member.size is not None):
            raise TarDamaged(f"{shown} is in no folder")
        if member.size is None:
            self._folders.append(parts)
        self._last = parts


def _header(path: bytes, size: int | None) -> bytes:
    info = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
    info.type = tarfile.DIRTYPE if size is None else tarfile.REGTYPE
    info.size = size or 0
    info.mode = 0o700 if size is None else 0o600
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _parsed(raw: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(raw, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise TarDamaged(f"it is no tar, or was altered: {error}") from None
    if info.size < 0:
        raise TarDamaged("a size is negative")
    return info


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)
