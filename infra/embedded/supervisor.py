"""supervisord, the keeper of a stack's services: starting it, asking it, ending it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.errors import LettaOpsError
from infra.files import write_file
from infra.process import command, start_detached, tail
from infra.stack.locations import StackFolder

START_SECONDS = 15.0
STOP_SECONDS = 660.0  # a large database writes its last checkpoint as long as it takes
ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.2

CONFIGURATION = """\
; Written by letta-ops.
[unix_http_server]
file={socket}
chmod=0700

[supervisord]
nodaemon=true
silent=true
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
files=programs/*.conf
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


def ensure_running(folder: StackFolder, environment: Mapping[str, str]) -> bool:
    """Start the stack's supervisord unless it runs; leftovers of a dead one are ended first.

    Returns whether it was started, with all services that have a file.
    """
    if process(folder) is not None and _answers(folder):
        return False
    end_leftovers(folder)
    folder.programs.mkdir(parents=True, exist_ok=True)
    text = CONFIGURATION.format(
        socket=folder.supervisor_socket,
        pid=folder.supervisor_pid,
        log=folder.log("supervisord"),
        user="user=root\n" if os.geteuid() == 0 else "",
    ).replace("%", "%%")
    write_file(folder.supervisor_settings, text, 0o600)
    job = command(
        sys.executable, "-m", "infra.embedded.keeper", "-c", folder.supervisor_settings,
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
    return True


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
    """Return every process of the stack: supervisord, all below it, and those that outlived one."""
    keeper = process(folder)
    found = [] if keeper is None else [keeper, *keeper.children(recursive=True)]
    return list(dict.fromkeys([*found, *_marked(folder)]))


def states(folder: StackFolder) -> dict[str, ServiceState]:
    """Return the services by name; none when the supervisor doesn't run."""
    if process(folder) is None:
        return {}
    try:
        with rpc(folder) as supervisor:
            rows: list[dict[str, Any]] = supervisor.getAllProcessInfo()
    except (OSError, xmlrpc.client.Error):
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
def rpc(folder: StackFolder, seconds: float = ANSWER_SECONDS) -> Iterator[Any]:
    """Yield supervisord's `supervisor` XML-RPC namespace; it answers in `seconds`, or TimeoutError."""
    from supervisor.xmlrpc import SupervisorTransport, UnixStreamHTTPConnection

    class Connection(UnixStreamHTTPConnection):  # type: ignore[misc]  # supervisor ships no types
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(seconds)
            self.sock.connect(str(folder.supervisor_socket))

    transport = SupervisorTransport(None, None, f"unix://{folder.supervisor_socket}")
    transport._get_connection = lambda: Connection("localhost")  # noqa: SLF001  # its own has no limit
    with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
        yield proxy.supervisor


def reload_service(folder: StackFolder, name: str) -> None:
    """Let supervisord read its files anew and (re)start the service `name`, whole process group."""
    try:
        with rpc(folder, STOP_SECONDS) as supervisor:
            supervisor.reloadConfig()
            _drop(supervisor, name)
            supervisor.addProcessGroup(name)
    except (OSError, xmlrpc.client.Error) as error:
        raise _refused(folder, error) from None


def drop_service(folder: StackFolder, name: str) -> None:
    """Stop the service `name` and forget it; nothing happens when it isn't there."""
    try:
        with rpc(folder, STOP_SECONDS) as supervisor:
            _drop(supervisor, name)
    except (OSError, xmlrpc.client.Error) as error:
        raise _refused(folder, error) from None


def _drop(supervisor: Any, name: str) -> None:
    """Stop the service and forget it. One that was just being started outlives the first stop."""
    from supervisor.xmlrpc import Faults

    deadline = time.monotonic() + STOP_SECONDS
    while True:
        try:
            _let_begin(supervisor, name)
            supervisor.stopProcessGroup(name)
            supervisor.removeProcessGroup(name)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == Faults.BAD_NAME:
                return
            if fault.faultCode != Faults.STILL_RUNNING or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return


def _let_begin(supervisor: Any, name: str) -> None:
    """Wait until a service that was started this moment is itself: the signal to stop would be taken,
    and forgotten, by what supervisord has forked and is about to be it."""
    info = supervisor.getProcessInfo(name)
    if info["statename"] == "STARTING" and info["now"] - info["start"] < 1:
        time.sleep(POLL_SECONDS)


def _refused(folder: StackFolder, error: Exception) -> LettaOpsError:
    return LettaOpsError(
        "supervisor-failed",
        f"supervisord does not do what it is asked: {error}",
        f"look at {folder.log('supervisord')}; `letta-ops --stack {folder.stack} destroy` ends it,"
        " and the next `up` starts it anew",
    )


def stop(folder: StackFolder) -> None:
    """End supervisord and everything of the stack, politely first."""
    keeper = process(folder)
    if keeper is not None:
        below = keeper.children(recursive=True)
        keeper.terminate()  # it ends each service with the service's own signal
        _kill(psutil.wait_procs([keeper, *below], timeout=STOP_SECONDS)[1])
    end_leftovers(folder)


def end_leftovers(folder: StackFolder) -> None:
    """End services of this stack whose supervisord was killed: they would hold ports and data."""
    orphans = _marked(folder)
    for orphan in orphans:
        with suppress(psutil.Error):
            # What is asked with SIGTERM to stop, Postgres does when the last session ends by itself.
            orphan.send_signal(signal.SIGINT if orphan.name() == "postgres" else signal.SIGTERM)
    _kill(psutil.wait_procs(orphans, timeout=STOP_SECONDS)[1])


def _marked(folder: StackFolder) -> list[psutil.Process]:
    """Every process that carries the stack's mark in its environment, but us."""
    mark = str(folder.root)
    found = []
    for candidate in psutil.process_iter():
        with suppress(psutil.Error):
            marked = candidate.environ().get("LETTA_OPS_STACK_FOLDER") == mark
            if marked and candidate.pid != os.getpid():
                found.append(candidate)
    return found


def _kill(survivors: Iterable[psutil.Process]) -> None:
    for survivor in survivors:
        with suppress(psutil.Error):
            survivor.kill()
    psutil.wait_procs(list(survivors), timeout=10)


def _answers(folder: StackFolder) -> bool:
    try:
        with rpc(folder) as supervisor:
            return bool(supervisor.getState()["statecode"] == 1)
    except (OSError, xmlrpc.client.Error, ValueError):
        return False
