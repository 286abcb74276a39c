"""Programs are run with real programs: output, failure, redaction, time limit, interruption."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from infra.errors import LettaOpsError
from infra.process import attempt, command, follow, run, start_detached, tail
from infra.sensitive import Sensitive

WORDS: dict[str, Any] = {"code": "test", "hint": "look", "what": "the test"}


def python(source: str, **settings: object):  # type: ignore[no-untyped-def]  # -> Command
    return command(sys.executable, "-c", source, **settings)


def test_a_programs_output_is_returned() -> None:
    assert run(python("print('out')"), **WORDS).stdout == "out\n"


def test_a_failure_has_the_exit_code_and_the_tail_of_stderr() -> None:
    source = "import sys; print('\\n'.join(map(str, range(99))), file=sys.stderr); sys.exit(3)"
    with pytest.raises(LettaOpsError) as failure:
        run(python(source), **WORDS)
    assert "exit code 3" in failure.value.message
    assert "98" in failure.value.message
    assert "  10\n" not in failure.value.message


def test_a_death_by_signal_is_named() -> None:
    with pytest.raises(LettaOpsError, match="SIGKILL"):
        run(python("import os; os.kill(os.getpid(), 9)"), **WORDS)


def test_an_absent_program_is_named() -> None:
    with pytest.raises(LettaOpsError, match="/no/such/program does not exist"):
        run(command("/no/such/program"), **WORDS)


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(LettaOpsError, match="no end after"):
        run(python("import time; time.sleep(60)", timeout=0.5), **WORDS)


def test_secrets_are_redacted_in_output_error_and_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secret = Sensitive("a-secret-value")
    source = "import os, sys; print(os.environ['S']); print(os.environ['S'], file=sys.stderr)"
    job = python(source, environment={"S": secret.reveal()}, secrets=(secret,))
    done = attempt(job, **WORDS)
    assert done.stdout == "[redacted]\n"
    assert done.stderr == "[redacted]\n"
    failing = python(
        source + "; sys.exit(1)", environment={"S": "a-secret-value"}, secrets=(secret,)
    )
    with pytest.raises(LettaOpsError) as failure:
        run(failing, **WORDS)
    assert "a-secret-value" not in str(failure.value) + caplog.text


def test_lines_are_followed_as_they_come() -> None:
    seen: list[tuple[float, str]] = []
    source = "import time; print('a', flush=True); time.sleep(0.5); print('b')"
    follow(python(source), lambda line: seen.append((time.monotonic(), line)), **WORDS)
    assert [line for _, line in seen] == ["a", "b"]
    assert seen[1][0] - seen[0][0] > 0.3


def test_a_followed_failure_ends_with_its_last_lines() -> None:
    with pytest.raises(LettaOpsError, match="last words"):
        follow(python("print('last words'); raise SystemExit(1)"), lambda line: None, **WORDS)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Also where the tests run as a shell's background job, which has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_program_is_asked_once_and_may_finish() -> None:
    """Ctrl-C reaches it through us alone, and its last lines are still read."""
    source = (
        "import signal, time, sys\n"
        "asked = []\n"
        "signal.signal(signal.SIGINT, lambda *_: asked.append(1))\n"
        "print('ready', flush=True)\n"
        "while not asked: time.sleep(0.01)\n"
        "time.sleep(0.2); print('finished', len(asked), flush=True)\n"
    )
    seen: list[str] = []
    told: list[str] = []

    def on_line(line: str) -> None:
        seen.append(line)
        if line == "ready":
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        follow(python(source), on_line, on_interrupt=lambda: told.append("asked"), **WORDS)
    assert seen == ["ready", "finished 1"]
    assert told == ["asked"]


def test_a_detached_program_has_a_session_of_its_own(tmp_path: Path) -> None:
    output = tmp_path / "log"
    source = "import os; print(os.getsid(0) == os.getpid(), flush=True)"
    pid = start_detached(python(source), output=output, **WORDS)
    with suppress(ChildProcessError):  # Python's own bookkeeping may have waited for it already
        os.waitpid(pid, 0)
    assert output.read_text() == "True\n"


def test_the_tail_of_a_log_is_its_last_lines_redacted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number} secret-value\n" for number in range(100)))
    assert tail(log, 2, [Sensitive("secret-value")]) == "line 98 [redacted]\nline 99 [redacted]"
    assert tail(tmp_path / "absent") == ""
