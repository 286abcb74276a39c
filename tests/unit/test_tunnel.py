"""The parts of a tunnel that need no engine: frames, errors in Postgres' own words, its folder."""

from __future__ import annotations

import io
import socket
import struct
import threading
from pathlib import Path

import pytest

from infra.database.connection import connection
from infra.database.postgres_socket import LONGEST_PATH, SOCKET_NAME, error_response, private_folder
from infra.errors import LettaOpsError
from infra.targets.docker.engine.execution import STDERR, STDOUT, frames


def frame(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", kind, len(data)) + data


class InPieces(io.BytesIO):
    """What comes over a socket comes in pieces of any size."""

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(min(3, size or 3))


def test_frames_are_told_apart_however_they_are_cut() -> None:
    reader = InPieces(frame(STDOUT, b"abcdefgh") + frame(STDERR, b"no") + frame(STDOUT, b""))
    assert list(frames(reader)) == [
        (STDOUT, b"abc"),
        (STDOUT, b"def"),
        (STDOUT, b"gh"),
        (STDERR, b"no"),
    ]


@pytest.mark.parametrize("kept", [0, 5, 8, 10])
def test_a_stream_that_breaks_off_ends(kept: int) -> None:
    whole = frame(STDOUT, b"abcdef")
    assert b"".join(data for _, data in frames(io.BytesIO(whole[:kept]))) == whole[8:kept]


def test_libpq_reads_why_the_tunnel_leads_nowhere(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET_NAME))
        listener.listen()

        def refuse() -> None:
            near, _ = listener.accept()
            with near:
                near.recv(1000)
                near.sendall(error_response("nothing answers inside x: it isn't there"))

        threading.Thread(target=refuse, daemon=True).start()
        settings: dict[str, str | int] = {
            "host": str(tmp_path), "port": 5432, "user": "postgres", "dbname": "letta",
        }  # fmt: skip
        with (
            pytest.raises(LettaOpsError) as caught,
            connection(settings, place="in container x", seconds=5),
        ):
            pass
    assert caught.value.code == "database-unreachable"
    assert caught.value.message == (
        "the database letta in container x cannot be reached as postgres:"
        " FATAL:  nothing answers inside x: it isn't there"
    )


@pytest.mark.parametrize("depth", [0, 120])
def test_the_folder_is_private_short_and_removed(
    depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / ("d" * depth) if depth else tmp_path
    place.mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with private_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(bytes(folder / SOCKET_NAME)) <= LONGEST_PATH
    assert not folder.exists()
    assert not list(place.iterdir())
