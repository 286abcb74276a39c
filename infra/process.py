"""Running programs: the one place that does, so that every run is logged, redacted and bounded."""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from infra.background import Background
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive, redact

log = logging.getLogger("letta_ops.process")

Report = Callable[[str], None]  # is told what happens, a line at a time

TAIL_LINES = 15
FEEDING_SECONDS = 10.0  # of who feeds a program that has failed, until he sees it
PIPE_BYTES = 1 << 20  # of what is streamed: programs on both sides work on, a while


@dataclass(frozen=True)
class Command:
    """A program to run, as data. Secrets belong in `environment` or `stdin`, never in `argv`."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] | None = None  # None inherits ours; a mapping replaces it
    directory: Path | None = None
    stdin: str | None = None
    user: int | None = None  # uid to run as; also sets the gid of `group`
    group: int | None = None
    umask: int = -1
    timeout: float | None = None  # seconds
    secrets: tuple[Sensitive, ...] = field(default=())

    def __str__(self) -> str:
        return redact(shlex.join(self.argv), self.secrets)


@dataclass(frozen=True)
class Finished:
    """What a program left behind: its exit code, and its output (stdout and stderr) as text."""

    returncode: int
    stdout: str
    stderr: str


def command(*argv: str | os.PathLike[str], **settings: Any) -> Command:
    """Build a `Command` from words; keyword arguments are the fields of `Command`."""
    return Command(tuple(os.fspath(word) for word in argv), **settings)


def run(job: Command, *, code: str, hint: str, what: str) -> Finished:
    """Run `job` to its end and return its output.

    Raises LettaOpsError with `code`, `hint` and the tail of stderr (redacted) when the program is
    absent, exits with another code than 0, or exceeds its timeout.
    """
    finished = attempt(job, code=code, hint=hint, what=what)
    if finished.returncode != 0:
        raise LettaOpsError(code, _failure(job, what, finished), hint)
    return finished


def attempt(job: Command, *, code: str, hint: str, what: str) -> Finished:
    """Like `run`, but returns whatever exit code the program had."""
    log.debug("run: %s", job)
    try:
        done = subprocess.run(
            job.argv,
            env=None if job.environment is None else dict(job.environment),
            cwd=job.directory,
            input=job.stdin,
            stdin=subprocess.DEVNULL if job.stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=job.timeout,
            umask=job.umask,
            check=False,
            **_identity(job),
        )
    except FileNotFoundError as error:
        raise LettaOpsError(code, f"{what}: {error.filename} does not exist", hint) from None
    except PermissionError as error:
        raise LettaOpsError(code, f"{what}: not allowed to run {error.filename}", hint) from None
    except subprocess.TimeoutExpired:
        raise LettaOpsError(
            code, f"{what}: no end after {job.timeout:.0f} s ({job})", hint
        ) from None
    return Finished(
        done.returncode, redact(done.stdout, job.secrets), redact(done.stderr, job.secrets)
    )


def follow(
    job: Command,
    on_line: Callable[[str], None],
    *,
    code: str,
    hint: str,
    what: str,
    on_interrupt: Callable[[], None] = lambda: None,
    apart: bool = False,
) -> None:
    """Run `job` and hand every line of its stdout and stderr (redacted) to `on_line` as it comes.

    Raises LettaOpsError like `run`, with the last lines that were seen. When we are interrupted, the
    program is asked once (SIGINT) to come to a good end, and `on_interrupt` is called while it does;
    a second interruption asks again. With `apart` it has a process group of its own, so that a
    Ctrl-C reaches it through us only; without, it ends with the group that we are in.
    """
    finished = watch(
        job, on_line, code=code, hint=hint, what=what, on_interrupt=on_interrupt, apart=apart
    )
    if finished.returncode != 0:
        raise LettaOpsError(code, _failure(job, what, finished), hint)


def watch(
    job: Command,
    on_line: Callable[[str], None],
    *,
    code: str,
    hint: str,
    what: str,
    on_interrupt: Callable[[], None] = lambda: None,
    apart: bool = False,
) -> Finished:
    """Like `follow`, but returns whatever exit code the program had, with the last lines as stderr."""
    log.debug("run: %s", job)
    tail: list[str] = []

    def read(child: subprocess.Popen[str]) -> None:
        nonlocal tail
        assert child.stdout is not None  # noqa: S101  # for the type checker: it is a pipe
        for raw in child.stdout:
            line = redact(raw.rstrip("\n"), job.secrets)
            tail = [*tail[-TAIL_LINES:], line]
            on_line(line)
        child.wait()

    child = _started(
        job,
        code,
        hint,
        what,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0 if apart else None,
    )
    try:
        read(child)
    except BaseException:
        child.send_signal(signal.SIGINT)
        on_interrupt()
        try:
            read(child)
        except BaseException:
            child.send_signal(signal.SIGINT)
            read(child)
            raise
        raise
    return Finished(child.returncode, "", "\n".join(tail))


@contextmanager
def streamed(job: Command, *, code: str, hint: str, what: str) -> Iterator[IO[bytes]]:
    """Run `job` and yield its stdout, to be read to its end.

    Raises LettaOpsError with the tail of its stderr (redacted) when the program is absent or, once
    the block has ended, had another exit code than 0. A block that fails ends the program.
    """
    log.debug("run: %s", job)
    with tempfile.TemporaryFile() as complaints:
        child = _started(
            job,
            code,
            hint,
            what,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        assert child.stdout is not None  # noqa: S101  # for the type checker: it is a pipe
        _widen(child.stdout)
        try:
            yield child.stdout
            child.stdout.close()
            child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
        if child.returncode != 0:
            raise LettaOpsError(code, _failure(job, what, _complaint(child, complaints, job)), hint)


def fed(job: Command, chunks: Iterable[bytes], *, code: str, hint: str, what: str) -> Finished:
    """Run `job`, hand it `chunks` by stdin, and return its output.

    Raises LettaOpsError like `run`, also when it ends before it has taken everything. When `chunks`
    raises, the program is ended, and doesn't learn how its input would have gone on.
    """
    log.debug("run: %s", job)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
        child = _started(
            job,
            code,
            hint,
            what,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=complaints,
        )
        assert child.stdin is not None  # noqa: S101  # for the type checker: it is a pipe
        _widen(child.stdin)
        try:
            for chunk in chunks:
                try:
                    child.stdin.write(chunk)
                except BrokenPipeError:
                    break  # it has ended, and says why
        except BaseException:
            child.kill()
            child.wait()
            raise
        finally:
            with suppress(BrokenPipeError):
                child.stdin.close()
        child.wait()
        said = []
        for source in (output, complaints):
            source.seek(0)
            said.append(redact(source.read().decode(errors="replace"), job.secrets))
    finished = Finished(child.returncode, *said)
    if finished.returncode != 0:
        raise LettaOpsError(code, _failure(job, what, finished), hint)
    return finished


@contextmanager
def filtered(
    job: Command, chunks: Iterator[bytes], *, code: str, hint: str, what: str
) -> Iterator[IO[bytes]]:
    """Run `job`, hand it `chunks` by stdin meanwhile, and yield its stdout, to be read to its end.

    Raises LettaOpsError like `streamed`, and what `chunks` raises: the program is ended then.
    """
    log.debug("run: %s", job)
    with tempfile.TemporaryFile() as complaints:
        child = _started(
            job,
            code,
            hint,
            what,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        assert child.stdin is not None  # noqa: S101  # for the type checker: these are pipes
        assert child.stdout is not None  # noqa: S101
        for pipe in (child.stdin, child.stdout):
            _widen(pipe)
        feeding = Background(partial(_feed, child, child.stdin, chunks), "feeding")
        try:
            yield child.stdout
            child.stdout.close()
            child.wait()
            feeding.result()
        except BaseException:
            child.kill()
            child.wait()
            feeding.wait(FEEDING_SECONDS)
            if feeding.error is not None:
                raise feeding.error from None
            raise
        if child.returncode != 0:
            raise LettaOpsError(code, _failure(job, what, _complaint(child, complaints, job)), hint)


def _feed(child: subprocess.Popen[Any], stdin: IO[bytes], chunks: Iterable[bytes]) -> None:
    try:
        with suppress(BrokenPipeError), stdin:  # it has ended, and says why
            for chunk in chunks:
                stdin.write(chunk)
    except BaseException:
        child.kill()  # so that it doesn't take what it has for all
        raise


def _complaint(child: subprocess.Popen[Any], complaints: IO[bytes], job: Command) -> Finished:
    complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - 64 * 1024))
    said = redact(complaints.read().decode(errors="replace"), job.secrets)
    return Finished(child.returncode, "", said)


def start_detached(job: Command, *, output: Path, code: str, hint: str, what: str) -> int:
    """Start `job` in a session of its own, its output appended to `output`; return its pid.

    The program outlives us: neither our end nor a Ctrl-C in our terminal reaches it.
    """
    log.debug("start: %s", job)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(os.open(output, flags, 0o600), "ab") as sink:
            child = _started(
                job,
                code,
                hint,
                what,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise LettaOpsError(code, f"{what}: {error.strerror}: {error.filename}", hint) from None
    return child.pid


def become(job: Command) -> None:
    """Become `job`: does not return. Used by thin wrappers that only prepare an environment."""
    os.execvpe(  # noqa: S606  # a list of words, as everywhere here
        job.argv[0], list(job.argv), dict(job.environment or os.environ)
    )


def tail(path: Path, lines: int = TAIL_LINES, secrets: Iterable[Sensitive] = ()) -> str:
    """Return the last `lines` lines of a log, redacted; an absent file has none."""
    try:
        with path.open("rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(0, source.tell() - 64 * 1024))
            text = source.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return redact("\n".join(text.splitlines()[-lines:]), secrets)


def _started(job: Command, code: str, hint: str, what: str, **pipes: Any) -> subprocess.Popen[Any]:
    try:
        return subprocess.Popen(
            job.argv,
            env=None if job.environment is None else dict(job.environment),
            cwd=job.directory,
            umask=job.umask,
            **pipes,
            **_identity(job),
        )
    except OSError as error:
        raise LettaOpsError(code, f"{what}: {error.strerror}: {error.filename}", hint) from None


def _widen(pipe: IO[bytes]) -> None:
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # who has many of them may have no more large ones
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _identity(job: Command) -> dict[str, Any]:
    if job.user is None:
        return {}
    return {"user": job.user, "group": job.group, "extra_groups": []}


def ending(returncode: int) -> str:
    """How a program has ended, in words; minus a number is that of a signal, as in `subprocess`."""
    if returncode < 0:
        return f"was ended by signal {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"


def _failure(job: Command, what: str, finished: Finished) -> str:
    end = ending(finished.returncode)
    text = finished.stderr.strip() or finished.stdout.strip()
    last = "\n".join(f"    {line}" for line in text.splitlines()[-TAIL_LINES:])
    return f"{what}: {end} from {job.argv[0]}" + (f"\n{last}" if last else "")
