"""What must be true before anything is made: folders writable, disk space, ports free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from infra.embedded import supervisor
from infra.errors import ConfigurationError, LettaOpsError
from infra.stack.deployment import LOOPBACK
from infra.stack.locations import StackFolder, cache_folder, ensure_writable
from infra.stack.settings import Settings

DISK_BYTES = 2 * 1024**3
RESTART_BYTES = 100 * 1024**2
SOCKET_LIMIT = 107  # bytes of sun_path on Linux, less the closing zero


def ensure_possible(folder: StackFolder, settings: Settings) -> None:
    """Raise LettaOpsError when the stack can't be made here; nothing has been touched then."""
    ensure_writable(folder.root)
    ensure_writable(cache_folder())
    ensure_space(folder)
    ensure_short_paths(folder, settings)
    problems = list(taken_ports(folder, settings))
    if problems:
        raise ConfigurationError(
            "ports",
            problems,
            "end the other program, or choose another port:"
            f" `letta-ops --stack {folder.stack} up --config KEY=PORT`",
        )


def ensure_space(folder: StackFolder) -> None:
    """A new stack needs room to grow; one that is there must be able to start on a nearly full disk."""
    free = shutil.disk_usage(folder.root).free
    needed = RESTART_BYTES if folder.has_data else DISK_BYTES
    if free < needed:
        raise LettaOpsError(
            "disk-full",
            f"only {free / 1024**2:.0f} MiB are free for {folder.root}; the stack needs"
            f" {needed / 1024**2:.0f} MiB",
            "free some disk space, or name a folder on another disk with LETTA_OPS_STATE",
        )


def ensure_short_paths(folder: StackFolder, settings: Settings) -> None:
    longest = [
        folder.sockets / f".s.PGSQL.{settings.database_port}",
        Path(f"{folder.supervisor_socket}.4194304"),  # supervisord binds it with its pid behind
    ]
    for socket in longest:
        if len(os.fsencode(socket)) > SOCKET_LIMIT:
            raise LettaOpsError(
                "path-too-long",
                f"the path of a socket is too long for this system: {socket}",
                "name a state folder with a shorter path with LETTA_OPS_STATE",
            )


def taken_ports(folder: StackFolder, settings: Settings) -> Iterator[str]:
    """Yield a problem for every port on which another program than this stack listens."""
    ours = {process.pid for process in supervisor.processes(folder)}
    found = listeners()
    for key, port in settings.ports.items():
        if port in found and found[port] not in ours:
            yield f"{key}: {port} is taken by {describe(found[port])}"


def listeners() -> dict[int, int | None]:
    """Which process listens on which port of loopback; None where we aren't told."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return {}  # macOS tells root only; there, whoever binds the port learns that it is taken
    return {
        connection.laddr.port: connection.pid
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr
        and connection.laddr.ip in (LOOPBACK, "0.0.0.0", "::", "::1")  # noqa: S104  # compared
    }


def describe(pid: int | None) -> str:
    if pid is None:
        return "a program of another user"
    try:
        process = psutil.Process(pid)
        return f"{process.name()} (pid {pid}, user {process.username()})"
    except psutil.Error:
        return f"pid {pid}"
