"""A machine of the tests' own: its state folder, its stacks, its ports; and the real command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from infra.deployment import Deployment
from infra.locations import StackFolder
from infra.profiles import load

ROOT = Path(__file__).resolve().parents[2]
LETTA_OPS = Path(sys.executable).with_name("letta-ops")
PULUMI = Path(sys.executable).with_name("pulumi")


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Stack:
    """One stack of a test machine."""

    machine: Machine
    name: str
    ports: Mapping[str, int]

    @property
    def folder(self) -> StackFolder:
        return StackFolder(self.machine.state, self.name)

    @property
    def deployment(self) -> Deployment:
        return load(self.folder, environment={})

    def settings(self) -> list[str]:
        return [word for key, port in self.ports.items() for word in ("--config", f"{key}={port}")]

    def run(self, *words: str, **settings: Any) -> Answer:
        """Run `letta-ops --stack NAME WORDS...`."""
        return self.machine.run(LETTA_OPS, "--stack", self.name, *words, **settings)

    def json(self, *words: str, code: int = 0) -> Any:
        """Run it with --json, insist on the exit code, return the document."""
        answer = self.run("--json", *words)
        assert answer.code == code, f"{words}: exit {answer.code}\n{answer.out}\n{answer.err}"
        return answer.json

    def up(self, *words: str) -> Any:
        return self.json("up", *self.settings(), *words)

    def destroy(self, *words: str) -> Any:
        return self.json("destroy", "--yes", *words)

    def processes(self) -> list[psutil.Process]:
        """Every process that carries this stack's mark in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("LETTA_OPS_STACK_FOLDER") == str(self.folder.root):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def pid(self, service: str) -> int:
        """The pid of a service as its supervisor knows it."""
        from infra.embedded import supervisor

        return supervisor.states(self.folder)[service].pid


@dataclass(frozen=True)
class Machine:
    """A state folder and a folder of stack configurations that no user of this computer has."""

    root: Path
    extra: dict[str, str] = field(default_factory=dict)

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
        server, model, database = free_ports(3)
        ports = {"server.port": server, "model_port": model, "database.port": database}
        return Stack(self, name, ports)

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
                # A background job of a shell has SIGINT ignored, and would hand that on.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            )

    def clean(self) -> None:
        """End what tests left running in this state folder, then remove it."""
        for profile in self.state.glob("*/profile.toml"):
            stack = Stack(self, profile.parent.name, {})
            stack.run("destroy", "--delete-data", "--yes")
            for process in stack.processes():
                process.kill()
        shutil.rmtree(self.root, ignore_errors=True)


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
    """Return ports on which nobody listens, none twice, below those that outgoing connections take.

    The kernel's own choice would be among those: while a server restarts, one of them could be gone.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20000, 32000)  # noqa: S311  # no secret
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


def _ours(name: str) -> bool:
    return name.startswith(("LETTA_OPS_", "PULUMI_"))
