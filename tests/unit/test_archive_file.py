"""The file of an agent archive: whole, cut, changed, encrypted, and made by somebody who means harm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from backups.archives.file import (
    SKIPPED,
    ArchivedTable,
    Header,
    open_archive,
    packed,
    write_archive,
)
from backups.archives.place import InFile
from backups.crypto import new_identity, seal_with_passphrase
from backups.encryption import BY_PASSPHRASE, BY_RECIPIENTS, Encryption
from backups.opening import Key
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from ops_cli.agents.exporting import take_agent_files

ROWS = {"agents": [b"a\tb\n", b"c\td\n"], "messages": [b"x" * 3_000_000, b"\n"], "runs": []}
HEADER = Header(
    created_at="2026-11-28T00:00:00+00:00",
    deployment="local-1",
    release="0.16.8",
    revision="1c28e167b74f",
    postgres="18.4",
    schema="public",
    agents=({"id": "agent-1", "name": "Ada"},),
    tables={name: ArchivedTable(("id", "name"), "text", "own") for name in ROWS},
    providers={"provider-1": "openai"},
    left_out={"provider_traces": 2},
    key_fingerprint=None,
)


def rows(table: str) -> tuple[Iterable[bytes], Callable[[], int]]:
    return ROWS[table], lambda: len(ROWS[table])


def written(path: Path, encryption: Encryption | None = None) -> Path:
    write_archive(InFile(path), packed(HEADER, rows), encryption or Encryption())
    return path


def read(path: Path, key: Key | None = None, header: Header = HEADER) -> dict[str, bytes]:
    with open_archive(InFile(path), key or Key()) as archive:
        assert archive.header == header
        found = {table: b"".join(pieces) for table, pieces in archive.tables()}
        assert {name: each.rows for name, each in archive.counted.items()} == {
            name: len(each) for name, each in ROWS.items()
        }
    return found


def test_what_goes_in_comes_out_and_only_we_may_read_it(tmp_path: Path) -> None:
    path = written(tmp_path / "x.agents")
    assert read(path) == {name: b"".join(each) for name, each in ROWS.items() if each}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


AF = {"agent-1": b'{"agents": []}', "agent-2": b"x" * 3_000_000}


def with_agent_files(path: Path, content: Iterable[bytes] = AF.values()) -> Path:
    agents = tuple({"id": agent, "name": f"Ada {agent[-1]}"} for agent in AF)
    header = replace(HEADER, agents=agents, agent_files=tuple(AF))
    write_archive(InFile(path), packed(header, rows, agent_files=content), Encryption())
    return path


@pytest.mark.parametrize(
    ("wanted", "expected"), [((), list(AF)), (("Ada 2",), ["agent-2"]), (("agent-1",), ["agent-1"])]
)
def test_agent_files_come_out_as_they_went_in(
    wanted: tuple[str, ...], expected: list[str], tmp_path: Path
) -> None:
    path, folder = with_agent_files(tmp_path / "a.agents"), tmp_path / "out"
    with open_archive(InFile(path), Key()) as archive:
        taken = take_agent_files(archive, wanted, folder, overwrite=False)
    assert {each["id"]: Path(each["file"]).read_bytes() for each in taken} == {
        agent: AF[agent] for agent in expected
    }
    assert sorted(map(str, folder.iterdir())) == sorted(each["file"] for each in taken)
    assert {each.stat().st_mode & 0o777 for each in folder.iterdir()} == {0o600}
    for place in (folder, path):  # it is there; it can't be a folder
        with open_archive(InFile(path), Key()) as archive, pytest.raises(LettaOpsError) as caught:
            take_agent_files(archive, wanted, place, overwrite=False)
        assert caught.value.code == "output-refused"


def test_the_agent_file_of_one_goes_to_a_file_of_that_name(tmp_path: Path) -> None:
    target = tmp_path / "one.af"
    with open_archive(InFile(with_agent_files(tmp_path / "a.agents")), Key()) as archive:
        (taken,) = take_agent_files(archive, ["agent-2"], target, overwrite=False)
    assert (taken["file"], target.read_bytes()) == (str(target), AF["agent-2"])


def test_an_archive_without_agent_files_is_read_by_what_knows_none(tmp_path: Path) -> None:
    document = HEADER.as_json()
    assert (document["format"], "agent_files" in document) == (1, False)
    assert replace(HEADER, agent_files=("agent-1",)).as_json()["format"] == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([b"1"], "its agent files are not all there"),
        ([b"1", b"2", b"3"], "it holds 'agent-files/0003.af'"),
    ],
)
def test_agent_files_that_are_too_few_or_too_many_are_damage_and_none_is_written(
    content: list[bytes], why: str, tmp_path: Path
) -> None:
    path = with_agent_files(tmp_path / "a.agents", content)
    with open_archive(InFile(path), Key()) as archive, pytest.raises(LettaOpsError, match=why):
        take_agent_files(archive, (), tmp_path / "out", overwrite=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_agent_file_that_was_changed_is_found_by_whoever_reads_the_archive(
    tmp_path: Path,
) -> None:
    header = replace(HEADER, agent_files=("agent-1",))
    tar = b"".join(packed(header, rows, agent_files=[b"the first"]))
    changed = tar.replace(b"the first", b"the other")
    write_archive(InFile(tmp_path / "a"), [changed], Encryption())
    with pytest.raises(LettaOpsError, match="its agent files are not what went in"):
        read(tmp_path / "a", header=header)


def test_what_an_archive_has_no_agent_file_of_is_named(tmp_path: Path) -> None:
    with (
        open_archive(InFile(with_agent_files(tmp_path / "a")), Key()) as archive,
        pytest.raises(LettaOpsError, match="no agent file of Eve") as caught,
    ):
        take_agent_files(archive, ["Ada 1", "Eve"], tmp_path, overwrite=False)
    assert "Ada 1, Ada 2" in caught.value.hint
    with (
        open_archive(InFile(written(tmp_path / "b")), Key()) as archive,
        pytest.raises(LettaOpsError, match="holds no agent files"),
    ):
        take_agent_files(archive, (), tmp_path, overwrite=False)


def test_standard_tools_can_read_it(tmp_path: Path) -> None:
    with written(tmp_path / "x.agents").open("rb") as source:
        plain = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        names = tar.getnames()
    assert names[0] == "archive.json"
    assert names[-1] == "manifest.json"
    assert "rows/agents/0001" in names


def test_an_encrypted_archive_needs_its_identity(tmp_path: Path) -> None:
    identity, recipient = new_identity()
    path = written(tmp_path / "x.agents", Encryption(BY_RECIPIENTS, (recipient,), (recipient,)))
    assert b"agent-1" not in path.read_bytes()
    read(path, Key((identity,)))
    for key, code in ((Key(), "identity-missing"), (Key((new_identity()[0],)), "wrong-identity")):
        with pytest.raises(LettaOpsError) as caught:
            read(path, key)
        assert caught.value.code == code


def test_a_passphrase_opens_what_it_closed(tmp_path: Path) -> None:
    identity, recipient = new_identity()
    sealed = seal_with_passphrase(identity, Sensitive("correct horse"))
    path = written(tmp_path / "x.agents", Encryption(BY_PASSPHRASE, (recipient,), (), sealed))
    read(path, Key((), Sensitive("correct horse")))
    for key, code in ((Key(), "identity-missing"), (Key((), Sensitive("no")), "wrong-identity")):
        with pytest.raises(LettaOpsError) as caught:
            read(path, key)
        assert caught.value.code == code


@pytest.mark.parametrize("encrypted", [False, True])
def test_no_changed_byte_and_no_cut_goes_unseen(tmp_path: Path, *, encrypted: bool) -> None:
    identity, recipient = new_identity()
    chosen = Encryption(BY_RECIPIENTS, (recipient,), (recipient,)) if encrypted else Encryption()
    path, key = written(tmp_path / "x.agents", chosen), Key((identity,))
    data = path.read_bytes()
    for place in range(5, len(data), max(1, len(data) // 60)):
        changed = bytearray(data)
        changed[place] ^= 0x20
        for text in (bytes(changed), data[:place]):
            path.write_bytes(text)
            with pytest.raises(LettaOpsError) as caught:
                read(path, key)
            assert caught.value.hint
    path.write_bytes(data + b"more")
    with pytest.raises(LettaOpsError):
        read(path, key)


def tar_of(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    frame = zstandard.ZstdCompressor().compress(out.getvalue())
    return frame + SKIPPED + hashlib.sha256(frame).digest()


def head() -> tuple[str, bytes]:
    return "archive.json", json.dumps(HEADER.as_json()).encode()


EMPTY = ("manifest.json", b'{"tables": {}}')


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([], "does not begin"),
        ([EMPTY], "does not begin"),
        ([head()], "manifest is missing"),
        ([head(), EMPTY], "of other tables"),
        ([head(), ("rows/agents/0001", b"x")], "manifest is missing"),
        ([head(), ("rows/agents/0002", b"x"), EMPTY], "not in their order"),
        ([head(), ("rows/../../etc/passwd", b"x"), EMPTY], "no part of an archive"),
        ([head(), ("/etc/passwd", b"x"), EMPTY], "no part of an archive"),
        ([head(), ("rows/users/0001", b"x"), EMPTY], "no part of an archive"),
        ([("archive.json", b"[]")], "no agent archive"),
        ([("archive.json", b'{"kind": "letta-agent-archive", "format": 99}')], "newer letta-ops"),
        ([("archive.json", b'{"kind": "letta-agent-archive", "format": 1}')], "can't be read"),
    ],
)
def test_an_archive_that_was_made_up_leads_nowhere(
    tmp_path: Path, members: list[tuple[str, bytes]], said: str
) -> None:
    path = tmp_path / "x.agents"
    path.write_bytes(tar_of(*members))
    with pytest.raises(LettaOpsError) as caught:
        read(path)
    assert caught.value.code == "archive-damaged"
    assert said in caught.value.message
    assert list(tmp_path.iterdir()) == [path]


def count_bytes(path: Path) -> int:
    with open_archive(InFile(path), Key()) as archive:
        return sum(len(piece) for _, pieces in archive.tables() for piece in pieces)


def test_a_bomb_is_never_held_in_memory(tmp_path: Path) -> None:
    """What becomes 300 MB is a few kilobytes; it is read in pieces."""
    import tracemalloc

    path = tmp_path / "x.agents"
    size = 300 * 1024 * 1024
    info = tarfile.TarInfo("rows/agents/0001")
    info.size = size
    start = tarfile.TarInfo("archive.json")
    start.size = len(head()[1])
    first = start.tobuf() + head()[1] + bytes(-start.size % 512) + info.tobuf()
    with path.open("wb") as out, zstandard.ZstdCompressor().stream_writer(out) as writer:
        writer.write(first)
        for _ in range(300):
            writer.write(bytes(1024 * 1024))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(LettaOpsError):
        count_bytes(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150 * 1024 * 1024


def test_a_disk_that_is_full_leaves_no_half_of_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LettaOpsError) as caught:
        written(tmp_path / "x.agents")
    assert caught.value.code == "output-refused"
    assert list(tmp_path.iterdir()) == []


def test_rows_that_fail_half_way_leave_nothing(tmp_path: Path) -> None:
    def failing(_: str) -> tuple[Iterable[bytes], Callable[[], int]]:
        def pieces() -> Iterator[bytes]:
            yield b"x"
            raise LettaOpsError("database-lost", "gone", "look")

        return pieces(), lambda: 1

    with pytest.raises(LettaOpsError, match="gone"):
        write_archive(InFile(tmp_path / "x.agents"), packed(HEADER, failing), Encryption())
    assert list(tmp_path.iterdir()) == []


def test_what_is_compressed_and_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.agents"
    frame = zstandard.ZstdCompressor().compress(b"a text of somebody's" * 100)
    path.write_bytes(frame + SKIPPED + hashlib.sha256(frame).digest())
    with pytest.raises(LettaOpsError) as caught:
        read(path)
    assert caught.value.code == "archive-damaged"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b'{"agents": []}'])
def test_another_kind_of_file_is_named_as_such(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.agents"
    path.write_bytes(data)
    with pytest.raises(LettaOpsError, match="is no agent archive"):
        read(path)
