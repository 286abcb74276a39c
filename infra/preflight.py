"""What must be true before anything is made: folders writable, disk space, ports free."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import psutil

from infra.deployment import LOOPBACK
from infra.embedded import supervisor
from infra.errors import ConfigurationError, LettaOpsError
from infra.locations import StackFolder, cache_folder, ensure_writable
from infra.settings import Settings

DISK_BYTES = 2 * 1024**3


def ensure_possible(folder: StackFolder, settings: Settings) -> None:
    """Raise LettaOpsError when the stack can't be made here; nothing has been touched then."""
    ensure_writable(folder.root)
    ensure_writable(cache_folder())
    ensure_space(folder)
    problems = list(taken_ports(folder, settings))
    if problems:
        raise ConfigurationError(
            "ports",
            problems,
            "end the other program, or choose another port:"
            f" `letta-ops --stack {folder.stack} up --config KEY=PORT`",
        )


def ensure_space(folder: StackFolder) -> None:
    free = shutil.disk_usage(folder.root).free
    if free < DISK_BYTES:
        raise LettaOpsError(
            "disk-full",
            f"only {free / 1024**2:.0f} MiB are free for {folder.root}; a stack needs"
            f" {DISK_BYTES / 1024**3:.0f} GiB",
            "free some disk space, or name a folder on another disk with LETTA_OPS_STATE",
        )


def taken_ports(folder: StackFolder, settings: Settings) -> Iterator[str]:
    """Yield a problem for every port on which another program than this stack listens."""
    ours = {process.pid for process in supervisor.processes(folder)}
    listeners = {
        connection.laddr.port: connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr
        and connection.laddr.ip in (LOOPBACK, "0.0.0.0", "::", "::1")  # noqa: S104  # compared
    }
    for key, port in settings.ports.items():
        if port in listeners and listeners[port] not in ours:
            yield f"{key}: {port} is taken by {_describe(listeners[port])}"


def _describe(pid: int | None) -> str:
    if pid is None:
        return "a program of another user"
    try:
        process = psutil.Process(pid)
        return f"{process.name()} (pid {pid}, user {process.username()})"
    except psutil.Error:
        return f"pid {pid}"
