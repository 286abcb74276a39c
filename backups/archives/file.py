"""The file of an agent archive: a tar of small pieces, compressed by zstd, encrypted by age.

`archive.json` comes first and says what it is; then the rows of each table in pieces,
`rows/TABLE/0001`, which put together are what Postgres' COPY wrote; then, where there is some, git memory
in pieces of one tar, `memory/0001`; then, where they were wanted, agent files for others,
`agent-files/0001.af`, in the order of the header; `manifest.json` is last, with the count of rows and
SHA-256 of each table: what has none is not complete. No name in it is ever used for a file, so none
leads anywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from backups.archives.memory import Memories, split
from backups.archives.place import Place
from backups.crypto import decrypt_stream, encrypt_stream, open_with_passphrase
from backups.encryption import Encryption
from backups.opening import Key
from backups.stores.store import Sink, Source
from backups.streams import (
    CHUNK,
    ChunkSource,
    TalliedSource,
    Tally,
    chunks_of,
    compressed,
    decompressed,
    joined,
    pulled,
)
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive

FORMAT, WITH_AGENT_FILES = 1, 2
KIND = "letta-agent-archive"
HEADER, MANIFEST = "archive.json", "manifest.json"
PIECE = 1 << 20
LARGEST_JSON = 1 << 26
NAME = re.compile(r"rows/([A-Za-z_][A-Za-z0-9_]{0,62})/(\d{4,})")
MEMORY = "memory/"
AGENT_FILE = "agent-files/{:04}.af"
# Before the age file of an archive that a passphrase opens: its identity, sealed with the passphrase.
SEALED = b"letta-ops sealed identity "
AGE = b"age-encryption.org/"
ZSTD = b"\x28\xb5\x2f\xfd"
# A frame that every reader of zstd skips (RFC 8878, 3.1.2), with 32 bytes in it.
SKIPPED = b"\x50\x2a\x4d\x18" + (32).to_bytes(4, "little")
SEAL = len(SKIPPED) + 32


@dataclass(frozen=True)
class ArchivedTable:
    """`format` is COPY's; `role` says why the rows come along (see `closure.Role`)."""

    columns: tuple[str, ...]
    format: str
    role: str


@dataclass(frozen=True)
class Header:
    """What an archive is of. `providers` are names by id: of a server's own, no more is carried than
    `urls`: by name, where those of its configuration were. `left_out` counts what belongs to the agents
    and is not in here; secrets are encrypted by the key with `key_fingerprint`."""

    created_at: str
    deployment: str
    release: str | None
    revision: str | None
    postgres: str
    schema: str
    agents: tuple[dict[str, str], ...]
    tables: Mapping[str, ArchivedTable]
    providers: Mapping[str, str]
    left_out: Mapping[str, int]
    key_fingerprint: str | None
    urls: Mapping[str, str] = field(default_factory=dict)
    agent_files: tuple[str, ...] = ()  # the agents (ids) whose agent files come along

    def as_json(self) -> dict[str, Any]:
        fields = asdict(self)
        if self.agent_files:
            return {"kind": KIND, "format": WITH_AGENT_FILES, **fields}
        del fields["agent_files"]
        return {"kind": KIND, "format": FORMAT, **fields}

    @classmethod
    def parse(cls, document: Any) -> Header:
        """Raises ValueError for anything else."""
        if not isinstance(document, dict) or document.get("kind") != KIND:
            raise ValueError("it is no agent archive")
        if document.get("format") not in (FORMAT, WITH_AGENT_FILES):
            raise ValueError(f"its format is {document.get('format')!r}: a newer letta-ops made it")
        try:
            given = {key: value for key, value in document.items() if key not in ("kind", "format")}
            tables = {
                name: ArchivedTable(tuple(table["columns"]), table["format"], table["role"])
                for name, table in given.pop("tables").items()
            }
            for name in ("agents", "agent_files"):
                given[name] = tuple(given.get(name, ()))
            return cls(**{**given, "tables": tables})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"its description can't be read: {error}") from None


@dataclass(frozen=True)
class Counted:
    """What of a table is in an archive: `sha256` is of all its pieces."""

    rows: int
    sha256: str


# Gives the pieces of a table, and how many rows they held when they have ended.
Rows = Callable[[str], tuple[Iterable[bytes | bytearray | memoryview], Callable[[], int]]]


def packed(
    header: Header, rows: Rows, memory: Iterable[bytes] = (), agent_files: Iterable[bytes] = ()
) -> Iterator[bytes]:
    """Yield the tar of an archive; `rows` is asked for each table in the header's order, then `memory`
    is read: a tar (see `memory`), or nothing; then the agent file of each of `header.agent_files`."""
    counted: dict[str, Any] = {}
    yield from _member(HEADER, json.dumps(header.as_json(), indent=1).encode())
    for table in header.tables:
        tally = Tally()
        pieces, count = rows(table)
        for number, piece in enumerate(joined(pieces, PIECE), 1):
            tally.add(piece)
            yield from _member(f"rows/{table}/{number:04}", piece)
        counted[table] = asdict(Counted(count(), tally.sha256))
    tally = Tally()
    for number, piece in enumerate(joined(memory, PIECE), 1):
        tally.add(piece)
        yield from _member(f"{MEMORY}{number:04}", piece)
    digests = []
    for number, content in enumerate(agent_files, 1):
        digests.append(hashlib.sha256(content).hexdigest())
        yield from _member(AGENT_FILE.format(number), content)
    whole_memory = tally.sha256 if tally.size else None
    manifest = {"tables": counted, "memory": whole_memory} | (
        {"agent_files": digests} if digests else {}
    )
    yield from _member(MANIFEST, json.dumps(manifest, indent=1).encode())
    yield bytes(2 * tarfile.BLOCKSIZE)


def write_archive(place: Place, chunks: Iterable[bytes], encryption: Encryption) -> int:
    """Write `chunks` (a tar) to `place`, whole or not at all; return its size in bytes.

    Raises LettaOpsError of the place, and what `chunks` raises.
    """
    with place.write() as bare:
        sink = _Counting(bare)
        source = ChunkSource(compressed(chunks))
        if encryption.sealed_identity is not None:
            sealed = encryption.sealed_identity
            sink.write(SEALED + b"%d\n" % len(sealed) + sealed)
        if encryption.on:
            encrypt_stream(source, sink, encryption.recipients)
        else:
            _write_sealed(source, sink)
    return sink.size


class _Counting:
    """A sink that counts the bytes that go into `sink`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.size = 0

    def write(self, data: bytes, /) -> int:
        self.size += len(data)
        return self._sink.write(data)

    def flush(self) -> None:
        self._sink.flush()


def _write_sealed(source: Source, sink: Sink) -> None:
    """Write a frame of zstd, and behind it the SHA-256 of all its bytes: some of them change nothing."""
    tally = Tally()
    for chunk in chunks_of(TalliedSource(source, tally)):
        sink.write(chunk)
    sink.write(SKIPPED + bytes.fromhex(tally.sha256))


def _pass_over(_: str, pieces: Iterator[bytes]) -> None:
    deque(pieces, 0)


class OpenArchive:
    """An archive that is being read, once, from its beginning to its end."""

    def __init__(self, place: Place, chunks: Iterator[bytes]) -> None:
        self._place = place
        self._source = _Whole(chunks)
        source: Any = self._source
        try:
            self._tar = tarfile.open(fileobj=source, mode="r|")  # noqa: SIM115
        except tarfile.TarError as error:
            raise self.damaged(str(error)) from None
        self.counted: dict[str, Counted] = {}
        self.memories = Memories()
        # What is done with the agent file of an agent (id): it reads the pieces to their end.
        self.take_agent_file: Callable[[str, Iterator[bytes]], None] = _pass_over
        self._pending: tarfile.TarInfo | None = None
        self.header = self._header()

    def tables(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Each table with its pieces, which are to be read to their end; then the whole was compared, and
        `memories` are read: the caller closes them.

        Raises LettaOpsError (`archive-damaged`).
        """
        digests = {}
        self._pending = self._next()
        while self._pending is not None and self._pending.name.startswith("rows/"):
            table = self._table_of(self._pending)
            tally = digests[table] = Tally()
            yield table, self._pieces(f"rows/{table}/", tally)
            if self._pending is not None and self._pending.name.startswith(f"rows/{table}/"):
                raise AssertionError("the pieces of a table were not read")
        memory = Tally()
        if self._pending is not None and self._pending.name.startswith(MEMORY):
            source = ChunkSource(self._pieces(MEMORY, memory))
            self.memories = split(source.read, lambda _: True)
            for _ in chunks_of(source):
                raise self.damaged("there is something behind its git memory")
        files = list(map(self._agent_file, range(1, len(self.header.agent_files) + 1)))
        self._compare({table: tally.sha256 for table, tally in digests.items()}, memory, files)

    def _agent_file(self, number: int) -> str:
        """Let the agent file that comes next be taken; return its SHA-256."""
        member = self._pending
        if member is None or member.name != AGENT_FILE.format(number) or not member.isfile():
            raise self.damaged("its agent files are not all there")
        tally = Tally()
        source = TalliedSource(self._content(member), tally)
        self.take_agent_file(self.header.agent_files[number - 1], chunks_of(source))
        self._pending = self._next()
        return tally.sha256

    def _pieces(self, prefix: str, tally: Tally) -> Iterator[bytes]:
        """The content of the members whose names begin like this, from the one that comes next on."""
        number = 0
        while self._pending is not None and self._pending.name.startswith(prefix):
            number += 1
            if self._pending.name != f"{prefix}{number:04}" or not self._pending.isfile():
                raise self.damaged("its pieces are not in their order")
            for chunk in chunks_of(self._content(self._pending)):
                tally.add(chunk)
                yield chunk
            self._pending = self._next()

    def damaged(self, why: str) -> LettaOpsError:
        return _damaged(self._place, why)

    def _header(self) -> Header:
        member = self._next()
        if member is None or member.name != HEADER:
            raise self.damaged("it does not begin like an agent archive")
        try:
            return Header.parse(json.loads(self._text(member)))
        except ValueError as error:
            raise self.damaged(str(error)) from None

    def _compare(self, digests: Mapping[str, str], memory: Tally, files: list[str]) -> None:
        member = self._pending
        if member is None:
            raise self.damaged("it is cut: its manifest is missing")
        if member.name != MANIFEST:
            raise self.damaged(f"it holds {member.name!r}, which is no part of an archive")
        try:
            document = json.loads(self._text(member))
            self.counted = {name: Counted(**each) for name, each in document["tables"].items()}
            whole_memory = document.get("memory")  # archives of before have none
            whole_files = document.get("agent_files", [])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self.damaged(f"its manifest can't be read: {error}") from None
        if list(self.counted) != list(self.header.tables):
            raise self.damaged("its manifest is of other tables")
        for table, counted in self.counted.items():
            if digests.get(table, hashlib.sha256().hexdigest()) != counted.sha256:
                raise self.damaged(f"the rows of {table} are not what went in")
        if whole_memory != (memory.sha256 if memory.size else None):
            raise self.damaged("its git memory is not what went in")
        if whole_files != files:
            raise self.damaged("its agent files are not what went in")
        if self._next() is not None or any(any(rest) for rest in chunks_of(self._source)):
            raise self.damaged("there is something behind its end")

    def _table_of(self, member: tarfile.TarInfo) -> str:
        match = NAME.fullmatch(member.name)
        if match is None or not member.isfile() or match[1] not in self.header.tables:
            raise self.damaged(f"it holds {member.name!r}, which is no part of an archive")
        return match[1]

    def _next(self) -> tarfile.TarInfo | None:
        try:
            found: tarfile.TarInfo | None = self._tar.next()
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise self.damaged(str(error)) from None
        return found

    def _text(self, member: tarfile.TarInfo) -> bytes:
        if member.size > LARGEST_JSON:
            raise self.damaged(f"{member.name} is too large")
        return b"".join(chunks_of(self._content(member)))

    def _content(self, member: tarfile.TarInfo) -> Any:
        found = self._tar.extractfile(member)
        if found is None:
            raise self.damaged(f"{member.name} is no file")
        return _Guarded(found, self.damaged)


def is_archive(path: Path) -> bool:
    """Whether a file begins like an archive, or like one that is encrypted."""
    with path.open("rb") as file:
        return file.read(64).startswith((SEALED, AGE, ZSTD))


@contextmanager
def open_archive(place: Place, key: Key) -> Iterator[OpenArchive]:
    """Yield the archive at `place`, to be read once.

    Raises LettaOpsError: `archive-damaged`, `identity-missing`, `wrong-identity`, those of the place.
    """
    with place.read() as source, ExitStack() as stack:
        file: io.BufferedReader = io.BufferedReader(_Raw(source), CHUNK)
        yield OpenArchive(place, _plain(place, file, key, stack))


class _Raw(io.RawIOBase):
    def __init__(self, source: Source) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _plain(place: Place, file: io.BufferedReader, key: Key, stack: ExitStack) -> Iterator[bytes]:
    start = file.peek(64)[:64]
    if start.startswith((SEALED, AGE)):
        identities = _identities(place, file, start, key)

        def decrypt(sink: Sink) -> None:
            decrypt_stream(file, sink, identities)

        chunks = stack.enter_context(pulled(decrypt))
    elif not start.startswith(ZSTD):
        raise LettaOpsError(
            "archive-damaged",
            f"{place} is no agent archive",
            "name a file that `letta-ops agent archive` wrote; agent files (.af) are for `agent import`",
        )
    else:
        chunks = _sealed(place, file)
    return _decompressed(place, chunks)


def _sealed(place: Place, file: io.BufferedReader) -> Iterator[bytes]:
    """The frame of an archive that is not encrypted, compared with the hash behind it at its end."""
    digest = hashlib.sha256()
    held = b""
    for chunk in chunks_of(file):
        whole = held + chunk
        held = whole[-SEAL:]
        if data := whole[:-SEAL]:
            digest.update(data)
            yield data
    if held != SKIPPED + digest.digest():
        raise _damaged(place, "its bytes are not those that were written")


def _decompressed(place: Place, chunks: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from decompressed(ChunkSource(chunks))
    except ValueError as error:
        raise _damaged(place, str(error)) from None


def _damaged(place: Place, why: str) -> LettaOpsError:
    return LettaOpsError(
        "archive-damaged",
        f"{place} can't be trusted: {why}",
        "use another copy of it, or another archive; nothing was changed",
    )


def _identities(place: Place, file: BinaryIO, start: bytes, key: Key) -> tuple[Sensitive, ...]:
    if start.startswith(SEALED):
        line = file.readline(len(SEALED) + 12)
        size = int(line[len(SEALED) :]) if line[len(SEALED) :].strip().isdigit() else 0
        sealed = file.read(min(size, LARGEST_JSON))
        if key.passphrase is not None:
            return (open_with_passphrase(sealed, key.passphrase),)
        wanted = "its passphrase: give it as backup.passphrase, by reference"
    elif key.identities:
        return key.identities
    else:
        wanted = "an identity that it was made for: --identity file:PATH"
    raise LettaOpsError("identity-missing", f"{place} is encrypted, and there is no key", wanted)


class _Whole:
    """What tarfile reads from: as many bytes as it asks for, but at the end."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._source = ChunkSource(chunks)

    def read(self, size: int = -1, /) -> bytes:
        parts, left = [], size
        while left and (part := self._source.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


class _Guarded:
    """A member's content; that it ends too early is told in our words."""

    def __init__(self, file: Any, damaged: Callable[[str], LettaOpsError]) -> None:
        self._file, self._damaged = file, damaged

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._file.read(size)
        except (tarfile.TarError, EOFError) as error:
            raise self._damaged(str(error)) from None
        return data


def _member(name: str, data: bytes) -> Iterator[bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o600
    yield member.tobuf(tarfile.PAX_FORMAT)
    yield data
    yield bytes(-len(data) % tarfile.BLOCKSIZE)
