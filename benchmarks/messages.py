"""The time of one message: our stack against the same release with its own defaults.

Both servers run from the same venv on the same database of the same Postgres with the same model;
they differ in their settings only. Messages go to them in turn, so that a slow moment of the machine
meets both.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.stage import Figure, summary
from infra.accounts import service_account, service_python
from infra.api import answers, api
from infra.embedded.release import installed
from infra.stack.deployment import Deployment, postgres_uri
from infra.stack.locations import cache_folder
from infra.stack.releases import RELEASES
from tests.live.machine import Machine, Stack, free_ports, wait_until

if TYPE_CHECKING:
    from letta_client import Letta

MESSAGES = 200
EVERY = 5  # so often, a message goes to the other server too, some of whose answers take 60 s


def measure(machine: Machine) -> Iterator[Figure]:
    stack = machine.stack("bench")
    stack.up("--no-smoke")
    times: tuple[list[float], list[float]] = ([], [])
    with _with_defaults(stack) as other, api(stack.deployment) as mine, api(other) as theirs:
        agents = _agent(mine), _agent(theirs)
        for number in range(MESSAGES):
            times[0].append(_seconds(mine, agents[0], f"Message number {number}."))
            if number % EVERY == 0:
                times[1].append(_seconds(theirs, agents[1], f"Message number {number}."))
    yield Figure(
        "one message, against the release's own defaults",
        median(times[0]) / median(times[1]),
        "x",
        0.6,
        f"{summary(times[0])}; defaults: {summary(times[1])}",
    )
    yield Figure(f"slowest of our {MESSAGES} messages", max(times[0]), "s", 5)


def _agent(client: Letta) -> str:
    return client.agents.create(
        model="openai-proxy/fake",
        embedding="openai/text-embedding-3-small",
        message_buffer_autoclear=True,  # every message is as long as the first
    ).id


def _seconds(client: Letta, agent: str, text: str) -> float:
    started = time.perf_counter()
    client.agents.messages.create(agent, messages=[{"role": "user", "content": text}])
    return time.perf_counter() - started


@contextmanager
def _with_defaults(stack: Stack) -> Iterator[Deployment]:
    """The same release started as its documentation says: a database URI, a model, nothing else."""
    account = service_account(stack.folder, "server")
    where = installed(RELEASES["0.16.8"], cache_folder(), service_python(account))
    (port,) = free_ports(1)
    home = stack.machine.root / "defaults"
    home.mkdir()
    if not account.is_us:
        os.chown(home, account.uid, account.gid)
    deployment = stack.deployment
    assert deployment.database is not None
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LETTA_PG_URI": postgres_uri(deployment.database, deployment.database.owner).reveal(),
        "OPENAI_API_KEY": "not-needed",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{stack.ports['model_port']}/v1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with Path(home / "log").open("wb") as log:
        server = subprocess.Popen(
            [where.folder / "venv" / "bin" / "letta", "server", "--port", str(port)],
            env=environment,
            cwd=home,
            stdout=log,
            stderr=log,
            user=None if account.is_us else account.uid,
            group=None if account.is_us else account.gid,
        )
    other = replace(deployment, server=replace(deployment.server, url=f"http://127.0.0.1:{port}"))
    try:
        wait_until("the server with its own defaults answers", lambda: answers(other), 240)
        yield other
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
