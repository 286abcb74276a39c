"""TLS for programs that have none: a private socket here, from which each connection goes on in TLS.

PostgreSQL's programs that a stack brings along are built without it, and Debian's are often older
than the server. How a session begins: https://www.postgresql.org/docs/current/protocol-flow.html,
"SSL Session Encryption".
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.database.postgres_socket import SOCKET_NAME, error_response, private_folder
from infra.stack.deployment import POSTGRES_PORT

SSL_REQUEST = struct.pack(">ii", 8, 80877103)
OFFERED, REFUSED = b"S", b"N"
AUTHENTICATION, ERROR = b"R", b"E"
FIRST_WORDS = (AUTHENTICATION, ERROR)
SASL, CHANNEL_BOUND = struct.pack(">i", 10), b"SCRAM-SHA-256-PLUS\0"
NOT_NEEDED = ("disable", "allow", "prefer")  # of libpq's modes, those that go on without TLS
VERIFIED = ("verify-ca", "verify-full")
ROOT = "~/.postgresql/root.crt"  # libpq's own place for an authority
CHUNK = 1 << 18
GRACE_SECONDS = 5.0

Settings = Mapping[str, str | int]


@contextmanager
def tls_relay(settings: Settings) -> Iterator[dict[str, str | int]]:
    """Yield settings with which a program gets to the same Postgres as with `settings`, by a socket.

    What fails, the program is told in Postgres' own protocol.
    """
    with private_folder() as folder:
        relay = _Relay(settings, folder / SOCKET_NAME)
        relay.start()
        try:
            others = {name: value for name, value in settings.items() if name != "sslrootcert"}
            yield {**others, "host": str(folder), "port": POSTGRES_PORT, "sslmode": "disable"}
        finally:
            relay.end()


class _Relay:
    """The loop that serves the socket, in a thread of its own."""

    def __init__(self, settings: Settings, path: Path) -> None:
        self._settings, self._path = settings, path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls", daemon=True)
        self._server: asyncio.Server | None = None

    def start(self) -> None:
        begin = asyncio.start_unix_server(self._talk, self._path)
        self._server = self._loop.run_until_complete(begin)
        self._thread.start()

    def end(self) -> None:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(GRACE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GRACE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _talk(self, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        # Cancelled by `_cut`, it ends quietly: asyncio would print the cancellation of a connection.
        with suppress(asyncio.CancelledError):
            try:
                far, sender = await _secured(self._settings)
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                answer.write(error_response(f"no TLS to {self._settings['host']}: {error}"))
                answer.close()
                return
            await _both_ways(near, answer, far, sender)


async def _both_ways(
    near: asyncio.StreamReader,
    answer: asyncio.StreamWriter,
    far: asyncio.StreamReader,
    sender: asyncio.StreamWriter,
) -> None:
    both = {asyncio.create_task(_pass(near, sender)), asyncio.create_task(_answer(far, answer))}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        answer.close()
        # Not politely: a server that waits for its reader would go on for half a minute, with locks.
        sender.transport.abort()


async def _secured(settings: Settings) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host = str(settings["host"])
    reader, writer = await asyncio.open_connection(host, int(settings["port"]), limit=CHUNK)
    _keep_alive(writer)
    try:
        context = _context(settings)
        writer.write(SSL_REQUEST)
        # More than this byte, in the clear, would be taken for the server's word (CVE-2021-23222).
        if _is_offered(await reader.read(1 << 10), str(settings["sslmode"])):
            await writer.start_tls(context, server_hostname=host)
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


def _is_offered(answer: bytes, mode: str) -> bool:
    """Whether to go on with TLS, or without; raises ConnectionRefusedError for neither."""
    if answer == OFFERED:
        return True
    if answer == REFUSED and mode in NOT_NEEDED:
        return False
    if answer.startswith(OFFERED):
        raise ConnectionRefusedError("it began with data in the clear: somebody may be in between")
    message = answer[1:].decode(errors="replace").strip("\0\n ")
    raise ConnectionRefusedError(
        f"the server says: {message}" if message else "the server does not offer it"
    )


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Learn of a server that has gone, as libpq would; else a silent query is waited for for ever."""
    link = writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)


def _context(settings: Settings) -> ssl.SSLContext:
    """As libpq: `require` looks at the certificate only where there is an authority to go by, and the
    two that verify take no other. Raises ValueError where they have none."""
    mode, authority = settings["sslmode"], settings.get("sslrootcert") or _own_authority()
    if mode in VERIFIED and not authority:
        raise ValueError(f"{mode} takes sslrootcert, or {ROOT}")
    context = ssl.create_default_context(cafile=str(authority) if authority else None)
    # Newer Pythons want more of a certificate than libpq does.
    context.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
    context.check_hostname = mode == "verify-full"
    if mode not in VERIFIED and not authority:
        context.verify_mode = ssl.CERT_NONE
    return context


def _own_authority() -> str | None:
    named = os.environ.get("PGSSLROOTCERT")
    default = Path(ROOT).expanduser()
    return named or (str(default) if default.exists() else None)


async def _answer(far: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
    """Pass on what the server says, but for one thing: a login that is bound to its TLS channel,
    which a program that doesn't speak through that channel itself would take for an attack."""
    with suppress(OSError, asyncio.IncompleteReadError):
        kind = b""
        while kind not in FIRST_WORDS:
            head = await far.readexactly(5)
            kind, (size,) = head[:1], struct.unpack(">i", head[1:])
            body = await far.readexactly(size - 4)
            if kind == AUTHENTICATION and body.startswith(SASL):
                body = body.replace(CHANNEL_BOUND, b"")
            near.write(kind + struct.pack(">i", len(body) + 4) + body)
        await near.drain()
    await _pass(far, near)


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # one of the two has gone: the other one is closed as well
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
