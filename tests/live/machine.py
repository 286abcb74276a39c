"""A machine of the tests' own: its state folder, its stacks, its ports; and the real command line."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.live.docker_stack import DockerStack, remove_everything
from tests.live.local_stack import LocalStack
from tests.live.stack import LETTA_OPS, Answer, Stack

__all__ = ["LETTA_OPS", "PULUMI", "ROOT", "Answer", "Machine", "Stack"]

# On which target the tests run; `make test-live` runs them once on each.
TARGET_VARIABLE = "LETTA_OPS_TEST_TARGET"
TARGETS = ("local", "docker")
ROOT = Path(__file__).resolve().parents[2]
PULUMI = Path(sys.executable).with_name("pulumi")
RESERVED: list[socket.socket] = []


def chosen_target() -> str:
    chosen = os.environ.get(TARGET_VARIABLE) or TARGETS[0]
    assert chosen in TARGETS, f"{TARGET_VARIABLE} must be one of {', '.join(TARGETS)}"
    return chosen


@dataclass(frozen=True)
class Machine:
    """A state folder and a folder of stack configurations that no user of this computer has."""

    root: Path
    extra: dict[str, str] = field(default_factory=dict)
    target: str = field(default_factory=chosen_target)
    # What the names of its stacks begin with on the engine, where others have stacks, too.
    mark: str = field(default_factory=lambda: f"letta-test-{secrets.token_hex(4)}")

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not _ours(name)}
        return {
            **clean,
            "LETTA_OPS_STATE": str(self.state),
            "LETTA_OPS_STACKS": str(self.root / "stacks"),
            **({"LETTA_OPS_CACHE": cache} if (cache := os.environ.get("LETTA_OPS_CACHE")) else {}),
            **self.extra,
        }

    def stack(self, name: str) -> Stack:
        if self.target == "docker":
            return DockerStack(self, name, {"server.port": free_ports(1)[0]})
        server, model, database = free_ports(3)
        ports = {"server.port": server, "model_port": model, "database.port": database}
        return LocalStack(self, name, ports)

    def run(
        self,
        *words: str | Path,
        environment: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        stdin: str | None = None,
        timeout: float = 600,
        user: int | None = None,
    ) -> Answer:
        done = subprocess.run(
            [str(word) for word in words],
            env={**self.environment, **(environment or {})},
            cwd=cwd,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            user=user,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str | Path, log: Path) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own, so that a test can kill all of it."""
        with log.open("wb") as sink:
            return subprocess.Popen(
                [str(word) for word in words],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_heed_signals,  # noqa: PLW1509
            )

    def clean(self) -> None:
        """End what tests left running in this state folder and on the engine, then remove it."""
        try:
            for profile in self.state.glob("*/profile.toml"):
                self.stack(profile.parent.name).discard()
        finally:
            if self.target == "docker":
                remove_everything(f"{self.mark}-")
        shutil.rmtree(self.root, ignore_errors=True)


def _heed_signals() -> None:
    """A background job of a shell has some ignored, and would hand that on."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` a command and everything that it started and that is still in its session."""
    for candidate in psutil.process_iter():
        try:
            if os.getsid(candidate.pid) == process.pid:
                candidate.kill()
        except (psutil.Error, ProcessLookupError):
            continue
    process.wait()


def wait_until(what: str, ready: Callable[[], object], seconds: float = 120) -> float:
    """Wait until `ready()` is true; return how many seconds it took, fail when it takes too long."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if ready():
            return time.monotonic() - started
        time.sleep(0.2)
    raise AssertionError(f"after {seconds:.0f} s still not: {what}")


def free_ports(count: int) -> list[int]:
    """Return ports that are free, and that no other test run is given as long as this one lives.

    They are below those that outgoing connections take: the kernel's own choice would be among
    those, and while a server restarts, its port could be gone.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20000, 32000)  # noqa: S311  # no secret
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0 and _reserve(port):
                found.append(port)
    return found


def _reserve(port: int) -> bool:
    """Whether the port is ours now. A stack that is down listens nowhere, yet it comes back."""
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0letta-ops-test-port-{port}")  # the kernel's: gone with this process
    except OSError:
        mark.close()
        return False
    RESERVED.append(mark)
    return True


def _ours(name: str) -> bool:
    return name.startswith(("LETTA_OPS_", "PULUMI_"))
