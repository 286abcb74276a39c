"""A server's container that stands in: a copy of one that runs, under a name of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.embedded.launch import SESSIONS
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.deployment import SERVICE_SERVER, SERVICE_STANDBY
from infra.targets.docker.engine.client import (
    engine,
    last_lines,
    own_containers,
)
from infra.targets.docker.engine.execution import execute
from infra.targets.docker.engine.oneshot import remove
from infra.targets.docker.health import running_server
from infra.targets.docker.names import LABEL_SERVICE, LAUNCH, Names
from infra.targets.docker.proof import ask
from infra.targets.docker.proxy import send_to
from infra.targets.docker.redis import forget

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

START_SECONDS = 240.0
POLL_SECONDS = 1.0  # each look starts a Python in the container
BEFORE_IT_IS_UP = ("start", "health")  # steps of the proof
# Not the engine's way to pause a container: on a busy machine the kernel refuses to freeze it (seen).
HOLD = """\
for one in $(cat /proc/1/task/1/children); do
    kill -STOP $one
    until grep -q '^State:.T' /proc/$one/status; do sleep 0.01; done
done
"""
GO_ON = "kill -CONT $(cat /proc/1/task/1/children)"
ENDED = ("exited", "dead")


@dataclass(frozen=True)
class ContainerStandby:
    """See `infra.targets.target.Standby`."""

    names: Names
    secrets: Iterable[Sensitive]  # which errors don't show

    def start(self, sessions: Mapping[str, str]) -> None:
        try:
            self._start(sessions)
        except BaseException as error:
            with suppress(LettaOpsError):
                self.remove(0)
            if isinstance(error, LettaOpsError) and error.code != "server-not-proven":
                raise LettaOpsError(
                    "standby-not-started",
                    f"no server could be started beside the one that runs: {error.message}",
                    error.hint,
                ) from None
            raise

    def serve(self) -> None:
        with engine() as client:
            forget(client, self.names)
        send_to(self.names, self._name)

    def hold(self) -> None:
        self._signal(HOLD)

    def go_on(self) -> None:
        self._signal(GO_ON)

    def hand_back(self) -> None:
        with engine() as client:
            for server in own_containers(client, self.names.prefix, SERVICE_SERVER):
                self._wait(server)
        send_to(self.names, None)

    def remove(self, patience: int) -> None:
        with engine(patience + START_SECONDS) as client:
            for found in own_containers(client, self.names.prefix, SERVICE_STANDBY):
                with suppress(LettaOpsError):  # `up` mends a proxy that doesn't run
                    send_to(self.names, None)
                with suppress(LettaOpsError):
                    self.go_on()
                found.stop(timeout=patience)
                remove(client, str(found.id))

    @property
    def _name(self) -> str:
        return self.names.container(SERVICE_STANDBY)

    def _signal(self, script: str) -> None:
        answer = execute(self._name, ["sh", "-euc", script])
        if answer.code != 0:
            raise LettaOpsError(
                "standby-not-started",
                f"the server {self._name} can't be held: {answer.output.strip()}",
                "run the same command again with --stop-first",
            )

    def _start(self, sessions: Mapping[str, str]) -> None:
        self.remove(0)
        with engine(START_SECONDS) as client:
            made = _copy(client, running_server(client, self.names), self._name, sessions)
            made.start()
            self._wait(made)

    def _wait(self, server: Container) -> None:
        """Wait until it is there and does its work; whether its model answers is no matter here.

        Raises LettaOpsError: `server-not-proven`, or `standby-not-started` when it never came up.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            server.reload()
            outcome = ask(str(server.name)) if server.status == "running" else {"failed": "start"}
            if "failed" not in outcome:
                return
            why = f"failed the step '{outcome['failed']}': {outcome.get('reason', server.status)}"
            if outcome["failed"] not in BEFORE_IT_IS_UP:
                raise self._failure("server-not-proven", server, why)
            if server.status in ENDED or time.monotonic() > deadline:
                raise self._failure("standby-not-started", server, why)
            time.sleep(POLL_SECONDS)

    def _failure(self, code: str, server: Container, why: str) -> LettaOpsError:
        lines = last_lines(str(server.name), self.secrets)
        return LettaOpsError(
            code,
            f"the server {server.name} {why}. The last lines of its log:\n{lines}",
            "see `letta-ops logs letta`; clients were not sent to it",
        )


def _copy(
    client: DockerClient, server: Container, name: str, sessions: Mapping[str, str]
) -> Container:
    """Make what `server` is again, for other sessions. It has none of its names on networks, by which
    clients would come to it, and isn't started by the engine."""
    like: Mapping[str, Any] = server.attrs
    command = list(like["Config"]["Cmd"])
    command.insert(command.index(LAUNCH) + 1, SESSIONS + json.dumps(sessions))
    labels = {**like["Config"]["Labels"], LABEL_SERVICE: SERVICE_STANDBY}
    wanted = {
        **like["Config"],
        "Hostname": "",
        "Cmd": command,
        "Labels": labels,
        "HostConfig": {**like["HostConfig"], "RestartPolicy": {"Name": "no"}},
    }
    api: Any = client.api
    made = api.create_container_from_config(wanted, name)
    first = like["HostConfig"]["NetworkMode"]
    for network in like["NetworkSettings"]["Networks"]:
        if network != first:
            client.networks.get(network).connect(made["Id"])
    return client.containers.get(made["Id"])
