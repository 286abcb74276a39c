"""Making and configuring a Postgres cluster of this machine, for stacks and for throw-away ones."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
from pathlib import Path

from infra.accounts import Account, as_account, give
from infra.embedded.binaries import MAJOR, install_binaries
from infra.embedded.folders import plain_environment
from infra.errors import LettaOpsError
from infra.files import write_file
from infra.process import attempt, command, run
from infra.stack.deployment import ADMIN_ROLE, LOOPBACK
from infra.stack.locations import StackFolder, cache_folder

HINT = "look at the lines above, check the free disk space, then run this again"

CONFIGURATION = """\
# Written by letta-ops: changes made here are overwritten. Put your own into {custom}.
data_directory = '{data}'
hba_file = '{access}'
ident_file = '{operators}'
listen_addresses = '{host}'
port = {port}
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
max_connections = 200
shared_buffers = '256MB'
max_wal_size = '2GB'
log_line_prefix = '%m [%p] %q%u@%d '
log_statement = 'none'
log_min_error_statement = 'panic'
include_if_exists = '{custom}'
"""
# Ordered by the number of each character, whatever this machine's C library thinks of it.
BUILTIN = ("--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8")
BEFORE_BUILTIN = ("--locale", "C", "--lc-ctype", "C.UTF-8")
FIRST_WITH_BUILTIN = 17
MAIN, CUSTOM = "postgresql.conf", "custom.conf"
# Over the network a password, always; on the socket only whoever runs the stack, as administrator.
ACCESS = """\
# Written by letta-ops: changes made here are overwritten.
local  all  {admin}  peer map=operators
host   all  all  127.0.0.1/32  scram-sha-256
"""
OPERATORS = "operators  {user}  {admin}\n"


def major_of(data: Path) -> str | None:
    """The major version of a cluster; None where there is none.

    Raises LettaOpsError (`folder-replaced`) for what is no version.
    """
    path = data / "PG_VERSION"
    try:
        # It lies where Postgres' account may write: no link is followed, and nothing waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        text = os.read(descriptor, 16).decode(errors="replace").strip()
    finally:
        os.close(descriptor)
    if not text.isdecimal():
        raise LettaOpsError(
            "folder-replaced",
            f"{path} does not name a version of PostgreSQL",
            "see whether the cluster is whole, and who has changed it; nothing was touched",
        )
    return text


def initialise(
    account: Account,
    folder: StackFolder,
    major: str = MAJOR,
    *,
    to_keep: bool = True,
    data: Path | None = None,
) -> None:
    """Make a new cluster beside its place (`data`, or the stack's own) and rename it: an interruption
    leaves no half of one.

    Unless it is `to_keep`, nothing waits for the disk.
    """
    place = data or folder.postgres_data
    draft = place.with_name(f"{place.name}.initialising")
    shutil.rmtree(draft, ignore_errors=True)
    give(account, draft)
    job = command(
        install_binaries(cache_folder(), major) / "bin" / "initdb",
        "--pgdata", draft, "--username", ADMIN_ROLE, "--encoding", "UTF8",
        *(BUILTIN if int(major) >= FIRST_WITH_BUILTIN else BEFORE_BUILTIN),
        "--data-checksums", "--auth", "scram-sha-256", "--auth-local", "peer", "--no-instructions",
        *([] if to_keep else ["--no-sync"]),
        directory=Path("/"), environment=plain_environment(folder),
    )  # fmt: skip
    run(
        as_account(account, job),
        code="initdb-failed",
        hint=HINT,
        what="making the database cluster",
    )
    draft.rename(place)


def configure(
    account: Account,
    folder: StackFolder,
    port: int,
    *,
    name: str = MAIN,
    data: Path | None = None,
    custom: str = CUSTOM,
) -> str:
    """Write the cluster's configuration; return its digest, so that its service restarts on change.

    It lies outside the data folder: Postgres' own account may read it, and nobody else change it.
    """
    place = folder.postgres_settings
    files = {
        name: CONFIGURATION.format(
            data=data or folder.postgres_data,
            access=place("pg_hba.conf"),
            operators=place("pg_ident.conf"),
            custom=place(custom),
            host=LOOPBACK,
            port=port,
            sockets=folder.sockets,
        ),
        "pg_hba.conf": ACCESS.format(admin=ADMIN_ROLE),
        "pg_ident.conf": OPERATORS.format(user=operator(), admin=ADMIN_ROLE),
    }
    for file, text in files.items():
        write_file(place(file), text, 0o600, account.owner)
    return hashlib.sha256("".join(files.values()).encode()).hexdigest()[:16]


def configuration_problem(account: Account, folder: StackFolder, major: str) -> str | None:
    """What Postgres of this major version has against the cluster's configuration, the operator's own
    settings among it; None for nothing."""
    job = command(
        install_binaries(cache_folder(), major) / "bin" / "postgres",
        f"--config-file={folder.postgres_settings(MAIN)}", "-C", "port",
        directory=Path("/"), environment=plain_environment(folder),
    )  # fmt: skip
    said = attempt(as_account(account, job), code="no-postgres", hint=HINT, what="asking Postgres")
    if said.returncode == 0:
        return None
    told = [line.partition("LOG:")[2].strip() for line in said.stderr.splitlines()]
    return next(filter(None, told), said.stderr.strip())


def operator() -> str:
    """The name of the user who runs the stack: the administrator of its database."""
    return pwd.getpwuid(os.geteuid()).pw_name
