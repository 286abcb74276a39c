"""Running a script of ours in the home volume of the docker target: in a short-lived container.

It works whether servers run or not, has no network, and sees nothing but that volume.
"""

from __future__ import annotations

import io
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from infra.errors import LettaOpsError
from infra.process import TAIL_LINES
from infra.stack.deployment import SERVICE_SERVER
from infra.targets.docker.engine.client import engine, find_volume, own_containers
from infra.targets.docker.engine.execution import STDOUT, frames
from infra.targets.docker.engine.oneshot import remove
from infra.targets.docker.names import PYTHON, Names

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

HOME = "/home/letta"
HINT = "read the lines above; run the same command again when the cause is mended"
SILENCE_SECONDS = 900.0
COMPLAINT_BYTES = 1 << 16


@dataclass(frozen=True)
class VolumeHome:
    """The home volume of a stack's servers. `program` is a script of the standard library; `name` is
    what its containers are called; `release` tells Letta's image where there is no server."""

    names: Names
    release: str | None
    name: str
    program: str
    code: str  # of its errors

    @property
    def place(self) -> str:
        return f"the volume {self.names.volume('home')}"

    @contextmanager
    def output(self, *arguments: str) -> Iterator[BinaryIO]:
        """Run it with a word, the home's path, and more words; yield its stdout, to be read to its end.

        The volume can't be written to. Raises LettaOpsError when the block ends and it had failed.
        """
        with self._container(arguments, read_only=True) as running:
            yield cast("BinaryIO", io.BufferedReader(running.output, 1 << 18))
            running.ensure_done()

    def run(self, *arguments: str, chunks: Iterable[bytes] = ()) -> str:
        """Run it, hand it `chunks` by stdin, and return its stdout; raises LettaOpsError.

        Its input can't be ended over TLS: it must know by itself where that is.
        """
        with self._container(arguments, read_only=False) as running:
            for chunk in chunks:
                try:
                    running.socket.sendall(chunk)
                except (BrokenPipeError, ConnectionResetError):
                    break  # it has ended, and says why
            said = running.output.readall()
            running.ensure_done()
            return said.decode(errors="replace")

    @contextmanager
    def _container(self, arguments: tuple[str, ...], *, read_only: bool) -> Iterator[_Running]:
        with engine(SILENCE_SECONDS) as client:
            _remove_ended(client, self._service, self.names)
            made = self._create(client, arguments, read_only)
            stream: Any = None
            try:
                stream = client.api.attach_socket(
                    str(made.id), {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                )
                plain = getattr(stream, "_sock", stream)
                plain.settimeout(SILENCE_SECONDS)
                made.start()
                # What came along with the response's head stands in its buffer.
                reader = stream._response.raw._fp.fp  # noqa: SLF001
                yield _Running(made, plain, _Stdout(reader), self.code, f"working in {self.place}")
            except TimeoutError:
                raise LettaOpsError(
                    "timeout",
                    f"working in {self.place}: nothing came for {SILENCE_SECONDS:.0f} s",
                    "see what the machine is busy with, then run this again",
                ) from None
            finally:
                if stream is not None:
                    stream._response.close()  # noqa: SLF001
                    stream.close()
                remove(client, str(made.name))

    def _create(
        self, client: DockerClient, arguments: tuple[str, ...], read_only: bool
    ) -> Container:
        from docker.types import LogConfig, Mount

        volume = self.names.volume("home")
        if find_volume(client, volume) is None:
            raise LettaOpsError(
                "data-missing",
                f"there is no volume {volume}",
                "put the stack's data back, or make the stack with `letta-ops up`",
            )
        first, *others = arguments
        return client.containers.create(
            _image(client, self.names, self.release),
            [PYTHON, "-I", "-c", self.program, first, HOME, *others],
            name=f"{self.names.prefix}-{self.name}-{secrets.token_hex(4)}",
            labels=dict(self.names.labels(self._service)),
            use_config_proxy=False,
            entrypoint=[],
            network="none",
            mounts=[Mount(HOME, volume, type="volume", read_only=read_only)],
            read_only=True,
            tmpfs={"/tmp": "mode=1777"},  # noqa: S108  # inside the container
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            pids_limit=512,
            init=True,
            stdin_open=True,  # ended when we are gone, and with it the script
            healthcheck={"test": ["NONE"]},
            log_config=LogConfig(type="none"),  # else the engine would keep a copy of all
        )

    @property
    def _service(self) -> str:
        return f"job-{self.name}"


class _Stdout(io.RawIOBase):
    """The stdout of a container as a file; the end of its stderr is kept in `complaint`."""

    def __init__(self, reader: Any) -> None:
        self._frames = frames(reader)
        self._rest = memoryview(b"")
        self.complaint = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            kind, data = next(self._frames, (STDOUT, b""))
            if kind != STDOUT:
                self.complaint = (self.complaint + data)[-COMPLAINT_BYTES:]
                continue
            if not data:
                return 0
            self._rest = memoryview(data)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


@dataclass(frozen=True)
class _Running:
    container: Container
    socket: socket.socket
    output: _Stdout
    code: str
    what: str

    def ensure_done(self) -> None:
        """Wait for its end; raises LettaOpsError with its last words when it failed."""
        while self.output.read(1 << 16):
            pass  # until nobody reads the rest, it doesn't end
        code = int(self.container.wait()["StatusCode"])
        if code != 0:
            said = self.output.complaint.decode(errors="replace").strip().splitlines()
            tail = "\n".join(f"    {line}" for line in said[-TAIL_LINES:])
            raise LettaOpsError(self.code, f"{self.what}: exit code {code}\n{tail}", HINT)


def _image(client: DockerClient, names: Names, release: str | None) -> str:
    """The image of the newest server, or else one of ours for the release."""
    for server in reversed(own_containers(client, names.prefix, SERVICE_SERVER)):
        return str(server.attrs["Image"])
    labels = ["letta-ops.image=letta", f"org.opencontainers.image.version={release}"]
    for image in client.images.list(filters={"label": labels}):
        return str(image.id)
    raise LettaOpsError(
        "image-missing",
        f"the engine has no image of Letta {release or ''} any more".replace("  ", " "),
        "run `letta-ops up` again: it builds our images",
    )


def _remove_ended(client: DockerClient, service: str, names: Names) -> None:
    """What an interruption of ours has left: its containers end by themselves, and stay."""
    for container in own_containers(client, names.prefix, service):
        if container.status in ("exited", "dead"):
            remove(client, str(container.name))
