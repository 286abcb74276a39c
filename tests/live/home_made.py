"""A Letta server that nobody provisioned: `letta server` of 0.11.7 as people start it, on SQLite."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.api import answers
from infra.embedded import fake_model
from infra.embedded.release import install
from infra.stack.deployment import Deployment, Server
from infra.stack.locations import cache_folder
from infra.stack.releases import RELEASES
from tests.live.machine import free_ports

START_SECONDS = 180.0
LAST_ON_SQLITE = RELEASES["0.11.7"]


@dataclass(frozen=True)
class HomeMade:
    """The server, and the file in which it keeps everything."""

    deployment: Deployment
    file: Path


@contextmanager
def on_sqlite(home: Path, python: Path) -> Iterator[HomeMade]:
    """Yield a server of 0.11.7 on a SQLite file below `home`, with the fake model; it ends with the block
    as Ctrl-C ends it."""
    installed = install(LAST_ON_SQLITE, cache_folder(), python, print)
    port, model_port = free_ports(2)
    folder = home / ".letta"
    folder.mkdir(parents=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LETTA_")},
        "HOME": str(home),
        "LETTA_DIR": str(folder),
        "MEMGPT_CONFIG_PATH": str(folder / "config"),
        "OPENAI_API_KEY": "sk-none",
        "OPENAI_API_BASE": f"http://127.0.0.1:{model_port}/v1",
        "LETTA_DISABLE_TRACING": "true",
    }
    model = [sys.executable, fake_model.__file__, "--port", str(model_port)]
    server = [
        str(installed.python.parent / "letta"), "server", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with (home / "server.log").open("wb") as log, subprocess.Popen(model, stdout=log) as beside:
        started = subprocess.Popen(server, env=environment, cwd=home, stdout=log, stderr=log)
        with started:
            try:
                deployment = Deployment("home", "external", Server(f"http://127.0.0.1:{port}"))
                _wait(deployment, started, home / "server.log")
                yield HomeMade(deployment, folder / "sqlite.db")
            finally:
                started.terminate()
                beside.terminate()


def _wait(deployment: Deployment, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(deployment):
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(log.read_text(errors="replace")[-3000:])
        time.sleep(0.5)
