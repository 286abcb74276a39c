"""A throw-away Postgres of this machine: quick, forgetful, and on a port that nobody knows."""

from __future__ import annotations

import os
import random
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.accounts import Account, as_account, service_account
from infra.database.administration import DatabaseAccess, through_socket
from infra.embedded.binaries import MAJOR, install_binaries
from infra.embedded.cluster import CUSTOM, MAIN, configure, initialise
from infra.embedded.folders import plain_environment, prepare_folders
from infra.errors import LettaOpsError
from infra.files import write_file
from infra.process import command, start_detached, tail
from infra.sensitive import Sensitive
from infra.stack.deployment import (
    DATABASE_NAME,
    LOOPBACK,
    OWNER_ROLE,
    SERVICE_POSTGRES,
    Database,
    Role,
)
from infra.stack.locations import StackFolder, cache_folder

START_SECONDS = 60.0
POLL_SECONDS = 0.05
PORTS = range(10000, 32000)  # below those that outgoing connections take

# It need not survive anything, and has one client.
SETTINGS = """\
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
max_connections = 50
shared_buffers = '128MB'
maintenance_work_mem = '256MB'
autovacuum = off
"""


@dataclass(frozen=True)
class ThrowawayPostgres:
    """The administrator's way in, and Letta's database as its owner would be let in: not yet made."""

    access: DatabaseAccess
    database: Database


def start_postgres(folder: StackFolder, major: str = MAJOR) -> ThrowawayPostgres:
    """Make a cluster of this major version in a throw-away folder and start it.

    Raises LettaOpsError: `no-postgres`, `initdb-failed`, `throwaway-failed`, and those of accounts.
    """
    prepare_folders(folder)
    account = service_account(folder, "postgres")
    initialise(account, folder, major, to_keep=False)
    port = free_port()
    configure(account, folder, port)
    write_file(folder.postgres_settings(CUSTOM), SETTINGS, 0o600, account.owner)
    access = through_socket(folder.sockets, port, "in the drill", major)
    programs = install_binaries(cache_folder(), major) / "bin"
    run_until(lambda: answers(access), folder, account, programs)
    owner = Role(OWNER_ROLE, Sensitive(secrets.token_urlsafe(24)))
    _make_role(access, owner)
    database = Database(LOOPBACK, port, DATABASE_NAME, owner, owner, tls="disable")
    return ThrowawayPostgres(access, database)


def run_until(
    ready: Callable[[], bool],
    folder: StackFolder,
    account: Account,
    programs: Path,
    *options: str,
    configuration: str = MAIN,
) -> None:
    """Start a Postgres in a folder, as its configuration there says, and wait for it.

    Raises LettaOpsError (`throwaway-failed`).
    """
    job = command(
        programs / "postgres",
        f"--config-file={folder.postgres_settings(configuration)}",
        *options,
        directory=Path("/"), environment=plain_environment(folder), umask=0o077,
    )  # fmt: skip
    pid = start_detached(
        as_account(account, job),
        output=folder.log(SERVICE_POSTGRES),
        code="throwaway-failed",
        hint="look at the lines above; see whether the cache folder is whole",
        what="starting a throw-away Postgres",
    )
    wait_until(ready, pid, START_SECONDS, folder.log(SERVICE_POSTGRES), ())


def wait_until(
    ready: Callable[[], bool],
    pid: int,
    seconds: float,
    log: Path,
    hidden: tuple[Sensitive, ...],
) -> None:
    """Wait until `ready()`; raises LettaOpsError (`throwaway-failed`) with the end of `log`.

    That is when process `pid` has ended, or `seconds` are over.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        ended = not _runs(pid)
        if ended or time.monotonic() > deadline:
            why = "ended" if ended else f"did not answer within {seconds:.0f} s"
            lines = "\n".join(f"    {line}" for line in tail(log, secrets=hidden).splitlines())
            raise LettaOpsError(
                "throwaway-failed",
                f"the throw-away {log.stem} {why}; the last lines of its log:\n{lines}",
                "look at the lines above, and at the memory and the disk space of this machine",
            )
        time.sleep(POLL_SECONDS)


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    while True:
        port = random.choice(PORTS)  # noqa: S311  # no secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def answers(access: DatabaseAccess) -> bool:
    try:
        with access.connect(access.maintenance):
            return True
    except LettaOpsError:
        return False


def _make_role(access: DatabaseAccess, role: Role) -> None:
    from psycopg import sql

    password = role.password.reveal() if role.password else ""
    with access.connect(access.maintenance) as link:
        # Utility statements take no parameters: the password is quoted on our side.
        link.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(role.name), sql.Literal(password)
            )
        )


def _runs(pid: int) -> bool:
    try:
        # Ours to bury, since we started it.
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return psutil.pid_exists(pid)
