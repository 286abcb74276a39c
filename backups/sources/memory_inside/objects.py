"""Reading a repository's objects while they are written, packed and removed."""

from __future__ import annotations

import hashlib
import os
import re
import time
import zlib
from contextlib import ExitStack
from typing import Any, BinaryIO, NamedTuple

from backups.sources.memory_inside.files import (
    is_folder,
    names_in,
    opened,
    shown,
    write_file,
    write_open,
)
from backups.sources.memory_tar import CHUNK, TarWriter

PAUSE_SECONDS = 0.02
# Made from all objects, for speed: of another moment they would be wrong.
DERIVED = (b"commit-graph", b"commit-graphs", b"packs")
LOOSE = re.compile(rb"[0-9a-f]{38}|[0-9a-f]{62}")
PACK = re.compile(rb"(pack-[0-9a-f]{40,64})\.(pack|idx|rev|bitmap|keep|promisor|mtimes)")


class Objects(NamedTuple):
    """The objects of one repository. They carry their own digest: one that doesn't fit is being
    written; at the `deadline` it is taken as it is, and that is told."""

    writer: TarWriter
    folder: bytes
    name: bytes  # in the tar
    deadline: float

    def write(self) -> None:
        """The loose ones first (`pack` is behind their folders): what a `gc` takes away from there
        is in a pack by then."""
        self.writer.folder(self.name)
        for part in names_in(self.folder):
            inside, name = self.folder + b"/" + part, self.name + b"/" + part
            if not is_folder(inside):
                continue  # git keeps nothing there but drafts
            if part == b"pack":
                self.writer.folder(name)
                self._write_packs(inside, name)
            elif part == b"info":
                self.writer.folder(name)
                for each in names_in(inside):
                    if each not in DERIVED:
                        write_file(self.writer, inside + b"/" + each, name + b"/" + each)
            elif re.fullmatch(rb"[0-9a-f]{2}", part):
                self.writer.folder(name)
                for each in names_in(inside):
                    if LOOSE.fullmatch(each):
                        self._write_loose(inside + b"/" + each, name + b"/" + each)

    def _write_loose(self, path: bytes, name: bytes) -> None:
        digest = b"".join(path.split(b"/")[-2:]).decode()
        while True:
            with opened(self.writer, path) as source:
                if source is None:
                    return
                whole = _loose_digest(source, len(digest)) == digest
                if whole or self._waited_enough:
                    if not whole:
                        self.writer.note(f"{shown(name)}: its content is damaged")
                    write_open(self.writer, source, name)
                    return
            time.sleep(PAUSE_SECONDS)

    def _write_packs(self, folder: bytes, name: bytes) -> None:
        """Open all packs of one moment, then copy them: an open file stays, whatever `gc` removes."""
        while True:
            names = _packs(folder)
            with ExitStack() as stack:
                every = {
                    each: stack.enter_context(opened(self.writer, folder + b"/" + each))
                    for each in names
                }
                there = {each: source for each, source in every.items() if source is not None}
                torn = [each for each, source in there.items() if not _fits(each, source)]
                settled = len(there) == len(names) and names == _packs(folder) and not torn
                if settled or self._waited_enough:
                    for each in torn:
                        self.writer.note(f"{shown(name + b'/' + each)}: its content is damaged")
                    for each, source in there.items():
                        write_open(self.writer, source, name + b"/" + each)
                    return
            time.sleep(PAUSE_SECONDS)

    @property
    def _waited_enough(self) -> bool:
        return time.monotonic() > self.deadline


def _loose_digest(source: BinaryIO, length: int) -> str | None:
    """The id that an object's content gives (gitformat-loose: zlib of header and content)."""
    digest = _digest(length)
    unpacker = zlib.decompressobj()
    try:
        while not unpacker.eof and (data := source.read(CHUNK)):
            while data and not unpacker.eof:
                digest.update(unpacker.decompress(data, CHUNK))
                data = unpacker.unconsumed_tail
        digest.update(unpacker.flush())
    except zlib.error:
        return None
    whole = unpacker.eof and not unpacker.unused_data and not source.read(1)
    return str(digest.hexdigest()) if whole else None


def _packs(folder: bytes) -> list[bytes]:
    """The files of every complete pack: its index is written last."""
    names = names_in(folder)
    found = [match for match in map(PACK.fullmatch, names) if match]
    return [each[0] for each in found if {each[1] + b".pack", each[1] + b".idx"} <= set(names)]


def _fits(name: bytes, source: BinaryIO) -> bool:
    """Whether a pack, or its index, ends with the digest of all before (gitformat-pack)."""
    if not name.endswith((b".pack", b".idx")):
        return True
    digest = _digest(len(name.partition(b".")[0]) - len(b"pack-"))
    left = os.fstat(source.fileno()).st_size - digest.digest_size
    while left > 0 and (data := source.read(min(CHUNK, left))):
        digest.update(data)
        left -= len(data)
    return left == 0 and bool(source.read() == digest.digest())


def _digest(length: int) -> Any:
    return hashlib.new("sha1" if length == 40 else "sha256", usedforsecurity=False)
