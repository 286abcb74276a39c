"""A stack as the tests see it: its commands, what runs of it, and what may be done to it."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
import psycopg

from infra.stack.deployment import Deployment
from infra.stack.locations import StackFolder
from infra.stack.profile import load
from infra.targets import host

if TYPE_CHECKING:
    from tests.live.machine import Machine

LETTA_OPS = Path(sys.executable).with_name("letta-ops")


def end_processes(folder: StackFolder) -> None:
    """Kill all of a stack; the keeper first, which would start again what ends."""
    from infra.embedded import supervisor

    for process in supervisor.processes(folder):
        with suppress(psutil.NoSuchProcess):
            process.kill()


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
class Stack(ABC):
    """One stack of a test machine. `ports` are those of this machine that it listens on, by key."""

    machine: Machine
    name: str
    ports: Mapping[str, int]

    target: ClassVar[str]
    services: ClassVar[tuple[str, ...]]  # each has one main process
    front: ClassVar[str]  # the service that listens on server.port

    @property
    def folder(self) -> StackFolder:
        return StackFolder(self.machine.state, self.name)

    @property
    def deployment(self) -> Deployment:
        return load(self.folder, environment={})

    def settings(self) -> list[str]:
        """What makes its first `up` this stack; kept in its configuration from then on."""
        chosen = self.configuration.items()
        return [word for key, value in chosen for word in ("--config", f"{key}={value}")]

    def run(self, *words: str, **settings: Any) -> Answer:
        """Run `letta-ops --stack NAME WORDS...`."""
        return self.machine.run(LETTA_OPS, "--stack", self.name, *words, **settings)

    def json(self, *words: str, code: int = 0) -> Any:
        """Run it with --json, insist on the exit code, return the document."""
        answer = self.run("--json", *words)
        assert answer.code == code, f"{words}: exit {answer.code}\n{answer.out}\n{answer.err}"
        return answer.json

    def is_at_rest(self) -> bool:
        """No journal of a restore or a migration is left, and the server answers."""
        if (self.folder.root / "restore.json").exists():
            return False
        status = self.run("--json", "status")
        return status.code == 0 and bool(status.json["server"]["healthy"])

    def up(self, *words: str) -> Any:
        return self.json("up", *self.settings(), *words)

    @contextmanager
    def administrator(self, name: str = "letta") -> Iterator[psycopg.Connection[Any]]:
        """The administrator's connection to database `name`."""
        with host(self.deployment).administrator() as access, access.connect(name) as link:
            yield link

    def destroy(self, *words: str) -> Any:
        return self.json("destroy", "--yes", *words)

    def pids(self, *services: str) -> dict[str, int]:
        return {service: self.pid(service) for service in services or self.services}

    @property
    @abstractmethod
    def configuration(self) -> dict[str, str]:
        """Its settings by key."""

    @property
    @abstractmethod
    def this_machine(self) -> str:
        """The address of this machine as the stack's server sees it."""

    @property
    @abstractmethod
    def has_data(self) -> bool:
        """Whether there is a database cluster, running or not."""

    @abstractmethod
    def pid(self, service: str) -> int:
        """The pid of the service's main process on this machine; 0 when it doesn't run."""

    @abstractmethod
    def kill(self, service: str) -> None:
        """`kill -9` of the service's main process, as by an accident: nobody asked it to stop."""

    @abstractmethod
    def stop(self, service: str) -> None:
        """Stop the service on purpose, behind letta-ops' back."""

    @abstractmethod
    def processes(self) -> list[psutil.Process]:
        """Every process of the stack."""

    @abstractmethod
    def server_settings(self) -> dict[str, str]:
        """The environment that the server starts with, secrets among it."""

    @abstractmethod
    def data_elsewhere(self) -> AbstractContextManager[None]:
        """Stop the database and put its data out of sight; in the end it is back, stopped."""

    @abstractmethod
    def lose_data(self) -> None:
        """Delete database and home of a stack that is destroyed, as a lost disk or a prune does."""

    @abstractmethod
    def discard(self) -> None:
        """End it without ceremony, and remove what is left: no test looks at it any more."""

    @abstractmethod
    def remains(self) -> list[str]:
        """What there is of the stack outside of its folder, in words."""
