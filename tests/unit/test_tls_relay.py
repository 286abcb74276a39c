"""Programs without TLS get through: what the relay says to a server, and what it refuses."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from infra.database.postgres_socket import SOCKET_NAME
from infra.database.tls_relay import SSL_REQUEST, tls_relay
from tests.live.external_postgres import certificates as made_certificates

STARTUP = struct.pack(">ii", 9, 196608) + b"\0"
MECHANISMS = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
NOTICE = b"N" + struct.pack(">i", 8) + b"SFOO"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">i", len(body) + 4) + body


SASL = message(b"R", struct.pack(">i", 10) + MECHANISMS)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a server that calls itself db.example.com, and the authorities that have signed or not."""
    folder = tmp_path_factory.mktemp("certificates")
    found = {}
    for who in ("right", "wrong"):
        certificate, key, authority = made_certificates()
        for name, text in (("server", certificate + key), ("authority", authority)):
            found[f"{who}-{name}"] = folder / f"{who}-{name}.pem"
            found[f"{who}-{name}"].write_text(text)
    return found


@contextmanager
def server(
    certificate: Path | None, refusal: bytes = b"N", gone: threading.Event | None = None
) -> Iterator[dict[str, str | int]]:
    """A Postgres as far as the greeting; it says back what it is told then. Without a certificate it
    answers with `refusal`; `gone` is set when a client is no more."""
    given = (certificate, refusal, gone or threading.Event())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, *given), daemon=True).start()
        host, port = listener.getsockname()
        yield {"host": host, "port": port, "user": "letta", "password": "p"}


def _serve(listener: socket.socket, *given: Any) -> None:
    with suppress(OSError):
        while True:
            link, _ = listener.accept()
            threading.Thread(target=_answer, args=(link, *given), daemon=True).start()


def _answer(
    link: socket.socket, certificate: Path | None, refusal: bytes, gone: threading.Event
) -> None:
    with suppress(OSError):
        _greet(link, certificate, refusal)
    gone.set()


def _greet(link: socket.socket, certificate: Path | None, refusal: bytes) -> None:
    with link:
        if link.recv(len(SSL_REQUEST), socket.MSG_WAITALL) != SSL_REQUEST:
            return
        link.sendall(refusal if certificate is None else b"S")
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            link = context.wrap_socket(link, server_side=True)
        if link.recv(1024) == STARTUP:
            link.sendall(NOTICE + SASL)
        while data := link.recv(1 << 16):
            link.sendall(data)


def said(settings: dict[str, str | int], size: int = 1 << 20) -> tuple[bytes, bytes]:
    """What a client gets by the relay: the greeting, and `size` bytes that it sends and gets back."""
    with (
        tls_relay(settings) as access,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
    ):
        assert access["sslmode"] == "disable"
        assert "sslrootcert" not in access
        client.settimeout(20)
        client.connect(str(Path(str(access["host"])) / SOCKET_NAME))
        with suppress(BrokenPipeError):
            client.sendall(STARTUP)
        stream = client.makefile("rb")
        head = stream.read(1)
        if head == b"E":
            (length,) = struct.unpack(">i", stream.read(4))
            return stream.read(length - 4), b""
        greeting = head + stream.read(len(NOTICE) - 1)
        kind_and_length = stream.read(5)
        (length,) = struct.unpack(">i", kind_and_length[1:])
        greeting += kind_and_length + stream.read(length - 4)
        data = bytes(range(256)) * (size // 256)
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        echo = stream.read(size)
        sender.join()
        assert echo == data
        return greeting, echo


@pytest.mark.parametrize(
    ("mode", "authority"), [("require", None), ("require", "right"), ("verify-ca", "right")]
)
def test_everything_goes_through_but_logins_bound_to_the_channel(
    mode: str, authority: str | None, certificates: dict[str, Path]
) -> None:
    with server(certificates["right-server"]) as place:
        chosen = {"sslrootcert": str(certificates[f"{authority}-authority"])} if authority else {}
        greeting, echo = said({**place, "sslmode": mode, **chosen})
    assert greeting == NOTICE + message(b"R", struct.pack(">i", 10) + b"SCRAM-SHA-256\0\0")
    assert len(echo) == 1 << 20


@pytest.mark.parametrize(
    ("mode", "authority"),
    [("require", "wrong"), ("verify-ca", "wrong"), ("verify-full", "right")],
)
def test_a_certificate_that_is_not_trusted_is_told_as_such(
    mode: str, authority: str | None, certificates: dict[str, Path]
) -> None:
    """The server's name is another one, which only `verify-full` asks for."""
    with server(certificates["right-server"]) as place:
        chosen = {"sslrootcert": str(certificates[f"{authority}-authority"])} if authority else {}
        words, _ = said({**place, "sslmode": mode, **chosen})
    assert b"certificate" in words


@pytest.mark.parametrize(("mode", "through"), [("prefer", True), ("require", False)])
def test_a_server_without_tls_is_only_talked_to_where_that_is_right(
    mode: str, through: bool
) -> None:
    with server(None) as place:
        words, _ = said({**place, "sslmode": mode})
    assert words.startswith(NOTICE) is through
    assert (b"does not offer" in words) is not through


def test_to_verify_takes_an_authority(
    certificates: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libpq's own place for one counts, and makes `require` verify."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with server(certificates["right-server"]) as place:
        words, _ = said({**place, "sslmode": "verify-ca"})
        assert b"sslrootcert" in words
        (tmp_path / ".postgresql").mkdir()
        root = tmp_path / ".postgresql/root.crt"
        for who, through in (("right", True), ("wrong", False)):
            root.write_text(certificates[f"{who}-authority"].read_text())
            for mode in ("verify-ca", "require"):
                words, _ = said({**place, "sslmode": mode})
                assert words.startswith(NOTICE) is through, (who, mode)


def test_what_comes_before_the_handshake_is_not_taken_for_the_servers_word() -> None:
    """A man in the middle can write in the clear, and then let the server go on."""
    with server(None, b"S" + message(b"R", struct.pack(">i", 0))) as place:
        words, _ = said({**place, "sslmode": "require"})
    assert b"somebody may be in between" in words


def test_a_server_that_can_not_go_on_is_quoted() -> None:
    with server(None, b"Ecould not fork new process\n\0") as place:
        words, _ = said({**place, "sslmode": "require"})
    assert b"the server says: could not fork" in words


def test_a_program_that_is_killed_takes_its_session_with_it(
    certificates: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Though the server is blocked, with an answer that nobody reads."""
    gone = threading.Event()
    with (
        server(certificates["right-server"], gone=gone) as place,
        tls_relay({**place, "sslmode": "require"}) as access,
    ):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(str(Path(str(access["host"])) / SOCKET_NAME))
        client.sendall(STARTUP)
        client.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(1000):
                client.send(bytes(1 << 16))
        client.close()
        assert gone.wait(5)
    assert capfd.readouterr().err == ""


def test_a_server_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    words, _ = said({"host": "127.0.0.1", "port": port, "sslmode": "require"})
    assert b"no TLS to 127.0.0.1" in words
