"""TLS for programs that have none: a private socket here, from which each connection goes on in TLS.

PostgreSQL's programs that a stack brings along are built without it, and Debian's are often older
than the server. How a session begins: https://www.postgresql.org/docs/current/protocol-flow.html,
"SSL Session Encryption".
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.containers.names import POSTGRES_PORT
from infra.postgres_socket import SOCKET_NAME, error_response, private_folder

SSL_REQUEST = struct.pack(">ii", 8, 80877103)
OFFERED, REFUSED = b"S", b"N"
AUTHENTICATION, ERROR = b"R", b"E"
FIRST_WORDS = (AUTHENTICATION, ERROR)
SASL, CHANNEL_BOUND = struct.pack(">i", 10), b"SCRAM-SHA-256-PLUS\0"
NOT_NEEDED = ("disable", "allow", "prefer")  # of libpq's modes, those that go on without TLS
VERIFIED = ("verify-ca", "verify-full")
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
            kept = {name: value for name, value in settings.items() if name != "sslrootcert"}
            yield {**kept, "host": str(folder), "port": POSTGRES_PORT, "sslmode": "disable"}
        finally:
            relay.end()


class _Relay:
    """The loop that serves the socket, in a thread of its own."""

    def __init__(self, settings: Settings, path: Path) -> None:
        self._settings, self._path = settings, path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls", daemon=True)

    def start(self) -> None:
        self._loop.run_until_complete(asyncio.start_unix_server(self._talk, self._path))
        self._thread.start()

    def end(self) -> None:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(GRACE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GRACE_SECONDS)

    async def _cut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _talk(self, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        try:
            far, sender = await _secured(self._settings)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError) as error:
            answer.write(error_response(f"no TLS to {self._settings['host']}: {error}"))
            answer.close()
            return
        both = {asyncio.create_task(_pass(near, sender)), asyncio.create_task(_answer(far, answer))}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            for writer in (answer, sender):
                writer.close()


async def _secured(settings: Settings) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host = str(settings["host"])
    reader, writer = await asyncio.open_connection(host, int(settings["port"]), limit=CHUNK)
    writer.write(SSL_REQUEST)
    offered = await reader.readexactly(1)
    if offered == OFFERED:
        await writer.start_tls(_context(settings), server_hostname=host)
    elif offered != REFUSED or settings["sslmode"] not in NOT_NEEDED:
        writer.close()
        raise ConnectionRefusedError("the server does not offer it")
    return reader, writer


def _context(settings: Settings) -> ssl.SSLContext:
    """As libpq: with `require`, certificates are looked at only where an authority is named."""
    mode, authority = settings["sslmode"], settings.get("sslrootcert")
    context = ssl.create_default_context(cafile=str(authority) if authority else None)
    context.check_hostname = mode == "verify-full"
    if mode not in VERIFIED and not authority:
        context.verify_mode = ssl.CERT_NONE
    return context


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
