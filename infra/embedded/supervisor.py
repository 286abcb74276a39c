"""supervisord, the keeper of a stack's services: starting it, asking it, ending it."""

from __future__ import annotations

import os
import sys
import time
import xmlrpc.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.errors import LettaOpsError
from infra.files import write_file
from infra.locations import StackFolder
from infra.process import command, start_detached, tail

START_SECONDS = 15.0
STOP_SECONDS = 90.0

CONFIGURATION = """\
; Written by letta-ops.
[unix_http_server]
file={socket}
chmod=0700

[supervisord]
nodaemon=true
{user}pidfile={pid}
logfile={log}
logfile_maxbytes=5MB
logfile_backups=2
directory=/
umask=077

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{socket}

[include]
files={programs}/*.conf
"""


@dataclass(frozen=True)
class ServiceState:
    """What the supervisor says of one service; `uptime` in seconds, 0 when it doesn't run."""

    name: str
    state: str  # supervisord's own words: RUNNING, STARTING, BACKOFF, STOPPED, FATAL ...
    pid: int
    uptime: float

    @property
    def running(self) -> bool:
        return self.state == "RUNNING"


def ensure_running(folder: StackFolder, environment: Mapping[str, str]) -> None:
    """Start the stack's supervisord unless it runs; leftovers of a dead one are ended first."""
    if process(folder) is not None and _answers(folder):
        return
    end_leftovers(folder)
    folder.programs.mkdir(parents=True, exist_ok=True)
    text = CONFIGURATION.format(
        socket=folder.supervisor_socket,
        pid=folder.supervisor_pid,
        log=folder.log("supervisord"),
        programs=folder.programs,
        user="user=root\n" if os.geteuid() == 0 else "",
    ).replace("%", "%%")
    write_file(folder.supervisor_settings, text, 0o600)
    job = command(
        sys.executable, "-m", "supervisor.supervisord", "-c", folder.supervisor_settings,
        environment=dict(environment), directory=Path("/"), umask=0o077,
    )  # fmt: skip
    settings = {"code": "supervisor-failed", "hint": f"look at {folder.log('supervisord')}"}
    start_detached(
        job, output=folder.log("supervisord.start"), what="starting supervisord", **settings
    )
    deadline = time.monotonic() + START_SECONDS
    while not _answers(folder):
        if time.monotonic() > deadline:
            last = tail(folder.log("supervisord.start")) or tail(folder.log("supervisord"))
            raise LettaOpsError(
                "supervisor-failed",
                f"supervisord did not start in {START_SECONDS:.0f} s\n{last}",
                f"look at {folder.log('supervisord')}",
            )
        time.sleep(0.05)


def process(folder: StackFolder) -> psutil.Process | None:
    """Return the stack's own supervisord, or None; a pid that another program got is not ours."""
    try:
        pid = int(folder.supervisor_pid.read_text())
        candidate = psutil.Process(pid)
        ours = str(folder.supervisor_settings) in candidate.cmdline()
        return candidate if ours and candidate.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, psutil.Error):
        return None


def processes(folder: StackFolder) -> list[psutil.Process]:
    """Return every process of the stack: supervisord and all below it."""
    keeper = process(folder)
    return [] if keeper is None else [keeper, *keeper.children(recursive=True)]


def states(folder: StackFolder) -> dict[str, ServiceState]:
    """Return the services by name; none when the supervisor doesn't run."""
    if process(folder) is None:
        return {}
    try:
        with rpc(folder) as supervisor:
            rows: list[dict[str, Any]] = supervisor.getAllProcessInfo()
    except OSError:
        return {}
    return {
        row["name"]: ServiceState(
            row["name"],
            row["statename"],
            row["pid"],
            float(row["now"] - row["start"]) if row["pid"] else 0.0,
        )
        for row in rows
    }


@contextmanager
def rpc(folder: StackFolder) -> Iterator[Any]:
    """Yield supervisord's `supervisor` XML-RPC namespace."""
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(None, None, f"unix://{folder.supervisor_socket}")
    with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
        yield proxy.supervisor


def reload_service(folder: StackFolder, name: str) -> None:
    """Let supervisord read its files anew and (re)start the service `name`, whole process group."""
    with rpc(folder) as supervisor:
        supervisor.reloadConfig()
        drop_service(folder, name)
        supervisor.addProcessGroup(name)


def drop_service(folder: StackFolder, name: str) -> None:
    """Stop the service `name` and forget it; nothing happens when it isn't there."""
    with rpc(folder) as supervisor:
        for call in (supervisor.stopProcessGroup, supervisor.removeProcessGroup):
            try:
                call(name)
            except xmlrpc.client.Fault:
                continue  # not there, or not running: what we want


def stop(folder: StackFolder) -> None:
    """End supervisord and everything below it, politely first."""
    keeper = process(folder)
    if keeper is not None:
        below = keeper.children(recursive=True)
        keeper.terminate()
        _, alive = psutil.wait_procs([keeper, *below], timeout=STOP_SECONDS)
        for survivor in alive:
            survivor.kill()
        psutil.wait_procs(alive, timeout=10)
    end_leftovers(folder)


def end_leftovers(folder: StackFolder) -> None:
    """End services of this stack whose supervisord was killed: they would hold ports and data."""
    mark = str(folder.root)
    orphans = []
    for candidate in psutil.process_iter():
        try:
            if candidate.pid != os.getpid() and _mark(candidate) == mark:
                orphans.append(candidate)
        except psutil.Error:
            continue
    for orphan in orphans:
        try:
            orphan.terminate()
        except psutil.Error:
            continue
    _, alive = psutil.wait_procs(orphans, timeout=30)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=10)


def _mark(candidate: psutil.Process) -> str | None:
    return candidate.environ().get("LETTA_OPS_STACK_FOLDER")


def _answers(folder: StackFolder) -> bool:
    try:
        with rpc(folder) as supervisor:
            return bool(supervisor.getState()["statecode"] == 1)
    except (OSError, xmlrpc.client.Error, ValueError):
        return False
