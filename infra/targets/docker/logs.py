"""The logs of a stack's containers, from the engine: merged, followed across replacements, redacted."""

from __future__ import annotations

import datetime as dt
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from infra.log_lines import Entries, LogLine, Wanted, merged, plain, surely_whole, unknown_service
from infra.sensitive import Sensitive, redact
from infra.targets.docker.engine.client import engine, own_containers
from infra.targets.docker.names import LABEL_SERVICE

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

LINES_OF_AN_ENTRY = 10  # a guess, to ask the engine for enough of them
IDLE_SECONDS = 0.25  # what said nothing for so long goes on with something else
LOOK_SECONDS = 2.0  # how often we look for containers that have come since
LONGEST_LINE = 1_000_000  # bytes; the engine hands longer ones over in pieces, and so do we

Message = tuple[str, str]  # the engine's own timestamp (RFC 3339, sortable as text), and the text


def lines(prefix: str, wanted: Wanted, secrets: tuple[Sensitive, ...]) -> Iterator[LogLine]:
    """Yield the lines of all containers of the stack, or of one service.

    Raises LettaOpsError: `unknown-service`, and those of `infra.targets.docker.engine.client`.
    """
    with engine() as client:
        containers = own_containers(client, prefix, wanted.service)
        if not containers:
            everyone = own_containers(client, prefix)
            raise unknown_service(wanted.service, (_service(each) for each in everyone))
        reader = _Reader(client, prefix, wanted, secrets)
        yield from merged(reader.history(each) for each in containers)
        if wanted.follow:
            yield from reader.follow()


class _Reader:
    """Remembers how far each container was read, so that following begins right behind that."""

    def __init__(
        self, client: DockerClient, prefix: str, wanted: Wanted, secrets: tuple[Sensitive, ...]
    ) -> None:
        self._client, self._prefix, self._wanted = client, prefix, wanted
        self._secrets = secrets
        self._last: dict[str, str] = {}  # container's id -> timestamp of its last line
        self._began = wanted.since or dt.datetime.now(dt.UTC)
        self._known: set[str] = set()

    def history(self, container: Container) -> Iterator[LogLine]:
        """What the container has said up to now; nothing, when it was removed while we looked."""
        import docker.errors

        self._known.add(str(container.id))
        tail = self._wanted.tail
        if tail == 0:
            return
        with suppress(docker.errors.NotFound):
            if tail and not self._wanted.is_choosy:
                yield from self._last_ones(container, tail)
                return
            found = filter(self._wanted.takes, Entries().of(self._lines(container)))
            yield from found if tail is None else deque(found, tail)

    def _last_ones(self, container: Container, tail: int) -> list[LogLine]:
        asked = LINES_OF_AN_ENTRY * tail
        while True:
            lines = list(self._lines(container, asked))
            everything = len(lines) < asked
            found = list(Entries().of(lines))
            found = found if everything else surely_whole(found)
            if everything or len(found) >= tail:
                recent = list(filter(self._wanted.takes, found))
                return recent[max(0, len(recent) - tail) :]
            asked *= 4

    def _lines(self, container: Container, asked: int | None = None) -> Iterator[LogLine]:
        """The last `asked`, or all."""
        settings = _settings(self._wanted.since) | ({} if asked is None else {"tail": asked})
        stream: Any = container.logs(stream=True, follow=False, **settings)
        return (self._line(container, message) for message in messages(stream))

    def follow(self) -> Iterator[LogLine]:
        """What they say from now on; also those that come later, or start again."""
        import docker.errors

        heard: queue.Queue[tuple[Container, Message | None]] = queue.Queue(maxsize=10_000)
        streams: dict[str, Any] = {}
        look = 0.0
        entries: dict[str, tuple[float, Entries]] = {}
        try:
            while True:
                if time.monotonic() >= look:
                    for each in own_containers(self._client, self._prefix, self._wanted.service):
                        if each.status == "running" and each.id not in streams:
                            with suppress(docker.errors.NotFound):  # gone while we looked
                                streams[str(each.id)] = self._listen(each, heard)
                    look = time.monotonic() + LOOK_SECONDS
                yield from filter(self._wanted.takes, self._next(heard, streams, entries))
        finally:
            for stream in streams.values():
                with suppress(OSError):
                    stream.close()

    def _next(
        self,
        heard: queue.Queue[tuple[Container, Message | None]],
        streams: dict[str, Any],
        entries: dict[str, tuple[float, Entries]],
    ) -> Iterator[LogLine]:
        """The entries that end with the next line, and those to which nothing was added for a while."""
        with suppress(queue.Empty):
            container, message = heard.get(timeout=IDLE_SECONDS)
            name = str(container.id)
            if message is None:
                streams.pop(name, None)
            elif message[0] > self._last.get(name, ""):
                _, open_one = entries.get(name, (0, Entries()))
                entries[name] = time.monotonic(), open_one
                yield from open_one.add(self._line(container, message))
        for last, each in entries.values():
            if time.monotonic() - last > IDLE_SECONDS:
                yield from each.rest()

    def _listen(
        self, container: Container, heard: queue.Queue[tuple[Container, Message | None]]
    ) -> Any:
        last = self._last.get(str(container.id))
        since = dt.datetime.fromisoformat(last) if last else self._began
        unknown = container.id not in self._known and last is None
        self._known.add(str(container.id))
        stream: Any = container.logs(
            stream=True, follow=True, **_settings(None if unknown else since)
        )
        thread = threading.Thread(target=_pump, args=(container, stream, heard), daemon=True)
        thread.start()
        return stream

    def _line(self, container: Container, message: Message) -> LogLine:
        stamp, text = message
        self._last[str(container.id)] = stamp
        return LogLine(
            _service(container),
            str(container.name).removeprefix(f"{self._prefix}-"),
            dt.datetime.fromisoformat(stamp),
            redact(plain(text), self._secrets),
        )


def messages(chunks: Iterable[bytes]) -> Iterator[Message]:
    """Put whole lines together: the engine cuts long ones into pieces, each with a timestamp."""
    stamp, text = b"", b""
    for chunk in chunks:
        head, _, data = chunk.partition(b" ")
        stamp, text = stamp or head, text + data
        if text.endswith(b"\n") or len(text) > LONGEST_LINE:
            yield stamp.decode(), text.decode(errors="replace").rstrip("\r\n")
            stamp, text = b"", b""
    if text:
        yield stamp.decode(), text.decode(errors="replace")


def _pump(
    container: Container, stream: Any, heard: queue.Queue[tuple[Container, Message | None]]
) -> None:
    import requests.exceptions

    # That the engine has gone is seen, and said, by whoever looks for containers.
    with suppress(OSError, ValueError, requests.exceptions.RequestException):
        for message in messages(stream):
            heard.put((container, message))
    heard.put((container, None))


def _settings(since: dt.datetime | None) -> dict[str, Any]:
    bound = {} if since is None else {"since": since.timestamp()}
    return {"stdout": True, "stderr": True, "timestamps": True, **bound}


def _service(container: Container) -> str:
    return str(container.labels.get(LABEL_SERVICE, ""))
