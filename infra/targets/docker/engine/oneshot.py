"""Short-lived containers: one job each, its input by stdin, its output line by line, then gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.process import TAIL_LINES
from infra.sensitive import Sensitive, redact
from infra.targets.docker.engine.client import engine, find_container

if TYPE_CHECKING:
    from docker.models.containers import Container


@dataclass(frozen=True)
class Job:
    """A container to run once. Secrets belong in `stdin`: everything else is in `docker inspect`."""

    name: str  # a second run under this name ends the leftovers of the first
    image: str
    command: Sequence[str]
    labels: Mapping[str, str]
    volumes: Mapping[str, str] = field(default_factory=dict)  # volume -> path; `:ro` behind it
    networks: Sequence[str] = ()  # none: no network at all
    stdin: str | None = None
    user: str | None = None  # None: the image's own
    directory: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # no secrets
    add_capabilities: Sequence[str] = ()
    tmpfs: Sequence[str] = ("/tmp",)  # noqa: S108  # inside the container
    timeout: float = 600.0  # seconds
    secrets: tuple[Sensitive, ...] = ()


@dataclass(frozen=True)
class Done:
    """The exit code of a job, and its output (stdout and stderr, redacted)."""

    code: int
    lines: tuple[str, ...]


def run_once(job: Job, on_line: Callable[[str], None] = lambda _: None) -> Done:
    """Run `job` to its end, whatever its exit code, and remove its container."""
    from docker.types import LogConfig

    with engine(job.timeout + 30) as client:
        remove(client, job.name)
        made: Container | None = None
        try:
            first, *others = job.networks or ("none",)
            made = client.containers.create(
                job.image,
                list(job.command),
                name=job.name,
                labels=dict(job.labels),
                use_config_proxy=False,  # what ~/.docker/config.json says is this user's own
                environment=dict(job.environment),
                user=job.user,
                working_dir=job.directory,
                entrypoint=[],
                network=first,
                mounts=[_mount(volume, path) for volume, path in job.volumes.items()],
                read_only=True,
                tmpfs=dict.fromkeys(job.tmpfs, "mode=1777"),
                cap_drop=["ALL"],
                cap_add=list(job.add_capabilities),
                security_opt=["no-new-privileges:true"],
                pids_limit=512,
                init=True,
                stdin_open=job.stdin is not None,
                healthcheck={"test": ["NONE"]},
                log_config=LogConfig(type="json-file", config={"max-size": "20m"}),
            )
            for network in others:
                client.networks.get(network).connect(made)
            return _follow(client, made, job, on_line)
        finally:
            if made is not None:
                remove(client, job.name)


def ensure_done(job: Job, code: str, hint: str, what: str) -> tuple[str, ...]:
    """Run `job` and return its lines; raises LettaOpsError with the last of them when it fails."""
    done = run_once(job)
    if done.code != 0:
        tail = "\n".join(f"    {line}" for line in done.lines[-TAIL_LINES:])
        raise LettaOpsError(code, f"{what} failed with exit code {done.code}:\n{tail}", hint)
    return done.lines


def remove(client: Any, name: str) -> None:
    """Remove a container of ours, running or not; volumes stay."""
    import docker.errors

    found = find_container(client, name)
    if found is not None:
        try:
            found.remove(force=True, v=False)
        except docker.errors.NotFound:
            return


def _mount(volume: str, path: str) -> Any:
    from docker.types import Mount

    target, _, mode = path.partition(":")
    return Mount(target, volume, type="volume", read_only=mode == "ro")


def _follow(client: Any, made: Container, job: Job, on_line: Callable[[str], None]) -> Done:
    stream = None
    if job.stdin is not None:
        stream = client.api.attach_socket(made.id, {"stdin": 1, "stream": 1})
    made.start()
    if stream is not None:
        _send(stream, job.stdin or "")
    overdue = threading.Timer(job.timeout, made.kill)
    overdue.daemon = True
    overdue.start()
    started = time.monotonic()
    lines: list[str] = []
    rest = b""
    try:
        for chunk in made.logs(stream=True, follow=True):
            *whole, rest = (rest + chunk).split(b"\n")
            for raw in whole:
                lines.append(redact(raw.decode(errors="replace"), job.secrets))
                on_line(lines[-1])
    finally:
        overdue.cancel()
    if rest:
        lines.append(redact(rest.decode(errors="replace"), job.secrets))
    code = int(made.wait()["StatusCode"])
    if time.monotonic() - started >= job.timeout:
        raise LettaOpsError(
            "timeout",
            f"{job.name} had not ended after {job.timeout:.0f} s",
            "look at the machine's load and at the database's locks, then run this again",
        )
    return Done(code, tuple(lines))


def _send(stream: Any, text: str) -> None:
    # docker-py wraps the socket differently for unix and TCP; both have the real one below.
    plain = getattr(stream, "_sock", stream)
    plain.sendall(text.encode())
    plain.shutdown(socket.SHUT_WR)
    stream.close()
