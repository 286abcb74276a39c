"""Breaking backup commands at any moment, and looking whether anything else was broken by it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from backups.catalog import Backup, deployment_id, read_catalog
from backups.manifest import Table
from backups.verdicts import PASSED, overall
from backups.verify import verify
from infra.api import authorized_http
from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_STANDBY
from tests.live.docker_stack import DockerStack
from tests.live.kept import OF_A_START, Kept
from tests.live.machine import LETTA_OPS, Answer, wait_until
from tests.live.stack import Stack

# In a table of Letta's that no server here uses: so much that every step takes a moment.
BALLAST = """
INSERT INTO prompts (id, prompt) SELECT 'ballast-' || n,
  (SELECT string_agg(md5(random()::text || n || m), '') FROM generate_series(1, 256) AS m)
FROM generate_series(1, 4000) AS n
"""
OF_A_RESTORE = {"letta", "letta_previous", "letta_undone"}
LOGS_AND_LOCKS = {"restore-guard.log", "drills.lock", "drills.log"}
GUARD = "backups.restoring.guard"
GUARD_SECONDS = 300
STARTED: list[Command] = []
SEED = int(os.environ.get("LETTA_OPS_TEST_SEED") or random.SystemRandom().randrange(1 << 32))


@dataclass(frozen=True)
class State:
    """What the live stack holds: agents by its API, and the content of every table."""

    agents: int
    tables: dict[str, Table]


@dataclass(frozen=True)
class Phase:
    """From the moment when a command said `line` (None: was started) for so many seconds."""

    line: str | None
    seconds: float


@dataclass(frozen=True)
class Command:
    """A command that runs, its whole session, and what it has said so far."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, line: str | None, seconds: float = 300) -> bool:
        """Wait until it said so, or has ended; True: it is at work."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and line is not None and line not in self.said:
            assert time.monotonic() < deadline, f"after {seconds} s no {line!r}:\n{self.said}"
            time.sleep(0.005)
        return self.process.poll() is None

    def children(self, name: str) -> list[psutil.Process]:
        with suppress(psutil.Error):
            found = psutil.Process(self.process.pid).children(recursive=True)
            return [each for each in found if each.name() == name]
        return []

    def leftovers(self) -> list[psutil.Process]:
        """What still runs of its session."""
        return [each for each in psutil.process_iter() if _session(each.pid) == self.process.pid]

    def kill(self, *, alone: bool) -> None:
        """`kill -9`, of the one process as by a lack of memory, or of all in its session."""
        for each in [] if alone else self.leftovers():
            with suppress(psutil.Error):
                each.kill()
        self.process.kill()
        self.process.wait()

    @contextmanager
    def stopped(self, when: Callable[[], object], seconds: float = 120) -> Iterator[None]:
        """Stop it (SIGSTOP) as soon as `when` holds, and let it go on after the block: however quick
        it is, the block happens in the middle of its work."""
        deadline = time.monotonic() + seconds
        while not when():
            assert self.process.poll() is None, f"it ended before: {self.said}"
            assert time.monotonic() < deadline, self.said
            time.sleep(0.002)
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def answer(self, seconds: float = 300) -> Answer:
        """Wait for its end; what it printed as JSON comes last."""
        code, said = self.process.wait(seconds), self.said
        at = said.find("\n{\n") + 1 if not said.startswith("{") else 0
        return Answer(code, said[at:], said)


def start(place: Kept, *words: str, log: Path) -> Command:
    machine = replace(place.stack.machine, extra=place.environment)
    process = machine.start(
        LETTA_OPS, "--stack", place.stack.name, "--json", "backup", *words, log=log
    )
    STARTED.append(Command(process, log))
    return STARTED[-1]


def end_started() -> None:
    """End what a test that failed has left at work."""
    while STARTED:
        STARTED.pop().kill(alone=False)


def state(place: Kept) -> State:
    """Waits until the API answers: after some faults the server has to come back first."""
    wait_until("the API answers", lambda: agents(place.stack) is not None, GUARD_SECONDS)
    found = place.tables().items()
    tables = {name: each for name, each in found if name.rpartition(".")[2] not in OF_A_START}
    return State(agents(place.stack) or 0, tables)


def differences(now: State, before: State) -> dict[str, Any]:
    names = sorted(now.tables.keys() | before.tables.keys())
    pairs = {name: (before.tables.get(name), now.tables.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def agents(stack: Stack) -> int | None:
    with authorized_http(stack.deployment, 30) as client, suppress(Exception):
        answer = client.get("/v1/agents/count")
        return int(answer.json()) if answer.status_code == 200 else None
    return None


def measured(place: Kept, *words: str, log: Path) -> list[Phase]:
    """Run a command to its good end, and return how long each of its phases took."""
    command, started = start(place, *words, log=log), time.monotonic()
    seen: list[tuple[str | None, float]] = [(None, 0.0)]
    while command.process.poll() is None:
        new = command.said.splitlines()[len(seen) - 1 :]
        seen += [(_words(line), time.monotonic() - started) for line in new]
        time.sleep(0.005)
    assert command.process.returncode == 0, command.said
    ends = [at for _, at in seen[1:]] + [time.monotonic() - started]
    return [
        Phase(line, end - at)
        for (line, at), end in zip(seen, ends, strict=True)
        if line is None or re.match(r"\w", line)
    ]


def interrupted(
    place: Kept,
    phase: Phase,
    *words: str,
    chance: random.Random,
    log: Path,
    prepare: Callable[[], None] = lambda: None,
) -> Command:
    """Kill a command at a random moment of a phase; it does not get to its end before.

    `prepare` gives it something to do, again when it was too quick.
    """
    share, alone = chance.random(), chance.random() < 0.3
    for _ in range(8):
        print(
            f"{words}: {phase.line!r} + {share * phase.seconds:.3f} s, alone={alone}, seed={SEED}"
        )
        prepare()
        command = start(place, *words, log=log)
        if command.wait_for(phase.line):
            time.sleep(share * phase.seconds)
        if command.process.poll() is None:
            command.kill(alone=alone)
            return command
        share /= 2
    raise AssertionError(f"it was always too quick: {command.said}")


def again(place: Kept, *words: str) -> Answer:
    """The next run of a command that was killed: it succeeds, once its locks are known for dead."""
    deadline = time.monotonic() + 60
    while True:
        answer = place.run("--json", "backup", *words)
        if answer.code == 0:
            return answer
        assert '"locked"' in answer.out, answer.out + answer.err
        assert time.monotonic() < deadline, answer.out
        time.sleep(0.5)


def assert_unharmed(place: Kept, before: State, known: set[str]) -> None:
    """The live stack has all its data, and what is listed is complete; `known` grows by what is."""
    journal = place.stack.folder.root / "restore.json"
    wait_until("the guard has finished", lambda: not journal.exists(), GUARD_SECONDS)
    now = state(place)
    differ = differences(now, before)
    assert (now.agents, differ) == (before.agents, {}), f"{now.agents} agents; {differ}"
    assert_complete(place, known)


def undo_what_took_effect(place: Kept, before: State) -> None:
    """A restore that was killed after its proof stays: on record, and with a way back, which is taken."""
    journal = place.stack.folder.root / "restore.json"
    wait_until("the guard has finished", lambda: not journal.exists(), GUARD_SECONDS)
    events = place.stack.json("audit", "list")
    last = next((each for each in events if each["command"] == "backup restore"), None)
    if agents(place.stack) != before.agents and last is not None and last["result"] == "done":
        place.json("backup", "restore", "--undo", "--yes", "--no-smoke")


def assert_complete(place: Kept, known: set[str]) -> None:
    listed = {each["id"] for each in place.json("backup", "list") if "damaged" not in each}
    assert known <= listed, f"gone: {known - listed}"
    catalog = read_catalog(place.store, deployment_id(place.deployment))
    assert catalog.damaged == ()
    assert listed == {backup.id for backup in catalog.backups}
    for backup in catalog.backups:
        if backup.id not in known:
            assert_whole(place, backup)
    known |= listed


def assert_whole(place: Kept, backup: Backup) -> None:
    checks = verify(place.store, backup, place.key, lambda _: None)
    assert overall([check.verdict for check in checks]) == PASSED, (backup.id, checks)


def assert_nothing_left(place: Kept, before: set[str], commands: Sequence[Command]) -> None:
    """After the next run: no process, database, folder or container of those that were killed."""
    wait_until("all processes have ended", lambda: not _processes(place, commands), 60)
    if isinstance(place.stack, DockerStack):
        assert place.stack.containers(SERVICE_STANDBY) == []
    assert not (strays := (place.databases() | place.schemas()) - OF_A_RESTORE), strays
    assert not (new := in_folder(place.stack) - before - LOGS_AND_LOCKS), new


def in_folder(stack: Stack) -> set[str]:
    return {path.name for path in stack.folder.root.iterdir()}


def guards(stack: Stack) -> list[psutil.Process]:
    return [each for each in _of_machine(stack) if GUARD in each.cmdline()]


def _processes(place: Kept, commands: Sequence[Command]) -> list[psutil.Process]:
    found = [each for command in commands for each in command.leftovers()]
    return found + guards(place.stack) + [each for each in _of_machine(place.stack) if _drill(each)]


def _of_machine(stack: Stack) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            known = process.environ()
            folder = known.get("LETTA_OPS_STACK_FOLDER", "")
            if known.get("LETTA_OPS_STATE") == str(stack.machine.state) or folder.startswith(
                str(stack.folder.root)
            ):
                yield process


def _drill(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "/drill-" in process.environ().get("LETTA_OPS_STACK_FOLDER", "")
    return False


def _session(pid: int) -> int:
    with suppress(OSError):
        return os.getsid(pid)
    return -1


def _words(line: str) -> str:
    """A line of progress without its time; of one with numbers only what stands before them."""
    text = line.partition("] ")[2] if line.startswith("[") else ""
    return re.split(r" \d|: passed", text)[0]


def draft_is_growing(place: Kept, least: int = 1 << 20) -> bool:
    """Whether a part is being written to the folder of backups, and is that large."""
    sizes = [0]
    for path in place.root.rglob(".*"):
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    return max(sizes) >= least


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so much room at `folder`, which only root can make."""
    if os.geteuid() != 0:
        pytest.skip("a file system of a size of its own can only be mounted by root")
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=0755"
    words = ["mount", "-t", "tmpfs", "-o", options, "letta-ops-test", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this machine lets nobody mount a file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, name: str, leave: int = 0) -> Path:
    """Take the room of a file system but for so many bytes; the file is to be removed."""
    path, taken = folder / name, 0
    with path.open("wb") as sink:
        while (room := shutil.disk_usage(folder).free - leave) > 0:
            with suppress(OSError):  # somebody else took of it at the same moment
                os.posix_fallocate(sink.fileno(), taken, room)
                taken += room
    return path


def refusal(error: pytest.ExceptionInfo[LettaOpsError]) -> LettaOpsError:
    assert error.value.hint
    return error.value


def interrupt(command: Command, number: signal.Signals) -> None:
    """As a terminal does it: the whole process group is told."""
    os.killpg(command.process.pid, number)
