"""A way into a container's unpublished Postgres: a unix socket here, relayed by `docker exec`.

Nothing listens on the network for it, and whoever may use the engine needs no published port: each
connection to the socket runs one `socat` inside the container, as the image's own user.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from infra.database.postgres_socket import SOCKET_NAME, error_response, private_folder
from infra.errors import LettaOpsError
from infra.stack.deployment import POSTGRES_PORT
from infra.targets.docker.engine.client import engine, find_container
from infra.targets.docker.engine.execution import CHUNK, STDERR, Attached, attached, frames

if TYPE_CHECKING:
    from docker import DockerClient

# When the client has gone, Postgres' connection is closed whole (`shut-close`): closed by half, what a
# killed client had asked for would run to its end.
SOCAT = ("socat", "-b", str(CHUNK), "-")
# For roles with a password: SCRAM, as over any network.
VIA_TCP = (*SOCAT, f"TCP:127.0.0.1:{POSTGRES_PORT},shut-close")
# For the administrator: the image runs as Postgres' own account, which it knows by its socket.
VIA_SOCKET = (*SOCAT, f"UNIX-CONNECT:/run/postgresql/.s.PGSQL.{POSTGRES_PORT},shut-close")

ENGINE_SECONDS = 30.0
GRACE_SECONDS = 5.0  # for Postgres to say goodbye, after that the connection is cut
NOT_STARTED = b"OCI runtime"  # how the engine says, on stdout, that there is no such program
COMPLAINT_BYTES = 2000


@contextmanager
def tunnel(container: str, command: Sequence[str] = VIA_TCP) -> Iterator[Path]:
    """Yield a folder (0700) with a Postgres socket that leads into `container`: libpq's `host`.

    The port is always 5432. What fails later, when a client connects, it is told in Postgres' own
    protocol, as a FATAL error. Raises LettaOpsError: `database-unreachable` when the container
    isn't there or doesn't run, and those of `infra.targets.docker.engine.client`.
    """
    with engine(ENGINE_SECONDS) as client, private_folder() as folder:
        _ensure_running(client, container)
        listener = _Listener(client, container, command, folder / SOCKET_NAME)
        listener.start()
        try:
            yield folder
        finally:
            listener.end()


class _Listener:
    """Accepts connections to the socket, and gives each a relay."""

    def __init__(
        self, client: DockerClient, container: str, command: Sequence[str], path: Path
    ) -> None:
        self._client, self._container, self._command = client, container, command
        self._path = path
        self._relays: list[_Relay] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._accept, name="tunnel", daemon=True)
        self._ending = False

    def start(self) -> None:
        self._socket.bind(str(self._path))
        self._socket.listen()
        self._thread.start()

    def end(self) -> None:
        """Accept no more, and end every relay: nothing is left, here or in the container."""
        self._ending = True
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self._path))  # wakes the accepting thread, on every system
        self._thread.join(GRACE_SECONDS)
        self._socket.close()
        deadline = time.monotonic() + GRACE_SECONDS
        for relay in self._relays:
            relay.end(deadline)

    def _accept(self) -> None:
        while True:
            near, _ = self._socket.accept()
            if self._ending:
                near.close()
                return
            self._relays = [relay for relay in self._relays if relay.runs]
            relay = _Relay(self._client, self._container, self._command, near)
            self._relays.append(relay)
            relay.start()


class _Relay:
    """One connection: `near` is the client's end, `far` the engine's stream of one `docker exec`.

    Each direction has a thread: with one for both, two peers that only write would wait for ever.
    """

    def __init__(
        self, client: DockerClient, container: str, command: Sequence[str], near: socket.socket
    ) -> None:
        self._api = client.api
        self._container, self._command, self._near = container, list(command), near
        self._far: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="tunnel-relay", daemon=True)

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def end(self, deadline: float) -> None:
        """Let it end until `deadline` (the client has closed its end by now), then cut it."""
        self._thread.join(max(0.1, deadline - time.monotonic()))
        for each in (self._near, self._far):
            if each is not None and self.runs:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._thread.join(GRACE_SECONDS)

    def _run(self) -> None:
        import docker.errors
        import requests.exceptions

        with self._near:
            try:
                with attached(self._api, self._container, self._command) as running:
                    self._far = running.socket
                    self._talk(running)
            except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
                self._refuse(f"the engine can't run a command in {self._container}: {error}")

    def _talk(self, running: Attached) -> None:
        far = running.socket
        far.settimeout(None)  # a session may be silent for hours
        sender = threading.Thread(target=self._send, args=(far,), name="tunnel-sender", daemon=True)
        sender.start()
        complaint, answered = b"", False
        try:
            for kind, data in frames(running.reader):
                if kind == STDERR or (not answered and data.startswith(NOT_STARTED)):
                    complaint = (complaint + data)[-COMPLAINT_BYTES:]
                else:
                    answered = True
                    self._near.sendall(data)
        except OSError:
            pass  # one of the two has gone; below, the other one learns it
        if not answered:
            message = complaint.decode(errors="replace").strip()
            self._refuse(
                f"nothing answers inside {self._container}: {message or 'no reason given'}"
            )
        for each in (self._near, far):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        sender.join()

    def _send(self, far: socket.socket) -> None:
        import ssl

        with suppress(OSError):  # the receiving side of this relay ends as well, and says why
            while data := self._near.recv(CHUNK):
                far.sendall(data)
        with suppress(OSError):
            # A TLS stream can't be closed by half in Python: there the goodbye of the client is
            # all that Postgres learns.
            if not isinstance(far, ssl.SSLSocket):
                far.shutdown(socket.SHUT_WR)

    def _refuse(self, message: str) -> None:
        with suppress(OSError):  # a client that has gone needs no answer
            self._near.sendall(error_response(message))


def _ensure_running(client: DockerClient, container: str) -> None:
    found = find_container(client, container)
    if found is None or found.status != "running":
        state = "doesn't exist" if found is None else f"doesn't run, it is {found.status}"
        raise LettaOpsError(
            "database-unreachable",
            f"the database can't be reached: its container {container} {state}",
            "bring it back with `letta-ops up`; `letta-ops logs postgres` shows why it ended",
        )
