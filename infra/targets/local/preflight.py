"""What must be true before anything is made: folders writable, disk space, ports free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from infra.embedded import supervisor
from infra.embedded.binaries import MAJORS
from infra.embedded.cluster import major_of
from infra.errors import ConfigurationError, LettaOpsError
from infra.stack.locations import StackFolder, cache_folder, ensure_writable
from infra.targets.local.settings import LocalSettings
from infra.targets.ports import describe, listeners
from infra.targets.target import ROOM_TO_START

DISK_BYTES = 2 * 1024**3
SOCKET_LIMIT = 107  # bytes of sun_path on Linux, less the closing zero


def ensure_possible(folder: StackFolder, settings: LocalSettings) -> None:
    """Raise LettaOpsError when the stack can't be made here; nothing has been touched then."""
    ensure_writable(folder.root)
    ensure_writable(cache_folder())
    ensure_space(folder)
    ensure_same_postgres(folder, settings)
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
    needed = ROOM_TO_START if folder.has_data else DISK_BYTES
    if free < needed:
        raise LettaOpsError(
            "disk-full",
            f"only {free / 1024**2:.0f} MiB are free for {folder.root}; the stack needs"
            f" {needed / 1024**2:.0f} MiB",
            "free some disk space, or name a folder on another disk with LETTA_OPS_STATE",
        )


def ensure_same_postgres(folder: StackFolder, settings: LocalSettings) -> None:
    """What is configured is what a new cluster is made with; one that is there isn't changed unasked."""
    there, wanted = major_of(folder.postgres_data), settings.database.postgres
    if there in {None, wanted} or not wanted:
        return
    raise LettaOpsError(
        "database-version",
        f"{folder.postgres_data} is of PostgreSQL {there}, and database.postgres is {wanted}",
        f"run `letta-ops --stack {folder.stack} migrate apply --postgres {wanted}`"
        if there in MAJORS and int(there) < int(wanted)
        else f"there is no way down but `letta-ops --stack {folder.stack} migrate rollback`;"
        f" set database.postgres to {there}",
    )


def ensure_short_paths(folder: StackFolder, settings: LocalSettings) -> None:
    longest = [
        folder.sockets / f".s.PGSQL.{settings.database.port}",
        folder.redis_socket,
        Path(f"{folder.supervisor_socket}.4194304"),  # supervisord binds it with its pid behind
    ]
    for socket in longest:
        if len(os.fsencode(socket)) > SOCKET_LIMIT:
            raise LettaOpsError(
                "path-too-long",
                f"the path of a socket is too long for this system: {socket}",
                "name a state folder with a shorter path with LETTA_OPS_STATE",
            )


def taken_ports(folder: StackFolder, settings: LocalSettings) -> Iterator[str]:
    """Yield a problem for every port on which another program than this stack listens."""
    ours = {process.pid for process in supervisor.processes(folder)}
    found = listeners()
    for key, port in settings.ports.items():
        if port in found and found[port] not in ours:
            yield f"{key}: {port} is taken by {describe(found[port])}"
