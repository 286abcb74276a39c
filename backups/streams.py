"""Bytes on their way: counted, hashed, compressed, and pushed by one thread where another one pulls."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from backups.stores.store import Sink, Source
from infra.background import Background

CHUNK = 1 << 18
LEVEL = 1  # of zstd: embeddings, most of a dump, become no smaller with more of it, only slower
BITE = 2048  # compressed bytes at a time: made up by somebody, they become 64 MiB, and not more
QUEUED = 16  # pieces between two threads


class Tally:
    """How many bytes went by, and their SHA-256."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def add(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class TalliedSink:
    """A sink that counts and hashes what goes into `sink`, and tells `on_bytes` each time."""

    def __init__(self, sink: Sink, tally: Tally, on_bytes: Callable[[int], None]) -> None:
        self._sink, self._tally, self._on_bytes = sink, tally, on_bytes

    def write(self, data: bytes) -> int:
        self._tally.add(data)
        self._sink.write(data)
        self._on_bytes(len(data))
        return len(data)

    def flush(self) -> None:
        self._sink.flush()


class TalliedSource:
    """A source that counts and hashes what is read from `source`."""

    def __init__(self, source: Source, tally: Tally) -> None:
        self._source, self._tally = source, tally

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._tally.add(data)
        return data


class ChunkSource:
    """A source made of pieces; `read` returns at most `size` bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            data = next(self._chunks, None)
            if data is None:
                return b""
            self._rest = memoryview(data)
        taken = self._rest[: len(self._rest) if size < 0 else size]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)


def chunks_of(source: Any, size: int = CHUNK) -> Iterator[bytes]:
    """Yield what `source.read` gives until its end."""
    while data := source.read(size):
        yield data


def joined(pieces: Iterable[bytes | bytearray | memoryview], least: int = CHUNK) -> Iterator[bytes]:
    """Yield the same bytes in fewer and larger pieces: of at least so many bytes, but for the last."""
    held: list[bytes | bytearray | memoryview] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= least:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def compressed(chunks: Iterable[bytes], plain: Tally | None = None) -> Iterator[bytes]:
    """Yield zstd of `chunks`; `plain` counts them. Two threads of its own, outside of Python."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=2, write_checksum=True).compressobj()
    for chunk in chunks:
        if plain is not None:
            plain.add(chunk)
        if data := compressor.compress(chunk):
            yield data
    yield compressor.flush()


def decompressed(source: Source) -> Iterator[bytes]:
    """Yield the content of one zstd frame; raises ValueError for damage, and for anything behind it."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor().decompressobj()

    def pieces() -> Iterator[bytes]:
        for chunk in chunks_of(source):
            view = memoryview(chunk)
            for start in range(0, len(view), BITE):
                if decompressor.eof:
                    raise ValueError("there is something behind its end")
                yield decompressor.decompress(view[start : start + BITE])

    try:
        yield from joined(pieces())
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError(
            "it is cut" if not decompressor.eof else "there is something behind its end"
        )


class _Queue:
    """The sink of `pulled`: bounded, and closed by a reader that has seen enough."""

    def __init__(self) -> None:
        self.pieces: queue.Queue[bytes | None] = queue.Queue(QUEUED)
        self.closed = threading.Event()

    def write(self, data: bytes) -> int:
        self._put(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def end(self) -> None:
        try:
            self._put(None)
        except BrokenPipeError:
            return

    def _put(self, piece: bytes | None) -> None:
        while True:
            if self.closed.is_set():
                raise BrokenPipeError
            try:
                self.pieces.put(piece, timeout=0.2)
            except queue.Full:
                continue
            return


@contextmanager
def pulled(push: Callable[[Sink], None]) -> Iterator[Iterator[bytes]]:
    """Yield what `push` writes into the sink it is given, from a thread; its error is raised here."""
    sink = _Queue()

    def work() -> None:
        try:
            push(sink)
        finally:
            sink.end()

    pushing = Background(work, "decrypt")

    def pieces() -> Iterator[bytes]:
        while (piece := sink.pieces.get()) is not None:
            yield piece
        pushing.result()

    try:
        yield pieces()
    finally:
        sink.closed.set()
        pushing.wait()
