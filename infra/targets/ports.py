"""Who listens on the ports of this machine."""

from __future__ import annotations

import psutil

from infra.stack.deployment import LOOPBACK


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
