"""A copy of somebody's Postgres cluster, started here: its folder is read, and never written to.

Any major version whose programs are on this machine: those of ours (16 and 18), Debian's, those on PATH.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from infra.accounts import Account, give, service_account
from infra.database.connection import connection
from infra.embedded.binaries import DEBIAN, FOLDERS, install_binaries
from infra.embedded.cluster import configure
from infra.embedded.folders import prepare_folders
from infra.embedded.throwaway_postgres import SETTINGS, free_port, run_until
from infra.errors import LettaOpsError
from infra.files import write_file
from infra.process import command, run
from infra.stack.deployment import Database, Role
from infra.stack.locations import StackFolder, cache_folder

DEPTH = 4  # folders below the one that was named: people mount other ones than they think
CONTROL = Path("global") / "pg_control"
# What is not copied: of a run, and what would lead the copy to others (settings of its own, a primary).
LEFT = (
    "postmaster.pid", "postmaster.opts", "pg_stat_tmp", "pgsql_tmp*", ".s.PGSQL.*",
    "postgresql.auto.conf", "standby.signal", "recovery.signal",
)  # fmt: skip
CLEAN = "shut down"
USUAL_ROLES = ("postgres", "letta")  # of most, and of the official image
DATABASES = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"
SUPERUSER = "SELECT current_setting('is_superuser')"
HOLDS = "SELECT count(*) FROM pg_class WHERE relname = 'agents' AND relkind = 'r'"
ACCESS = "local  all  all  trust\n"  # only who may look into the folder of the socket


def find_cluster(place: Path) -> Path:
    """The data folder at `place` or below it. Raises LettaOpsError: `no-cluster`, `several-clusters`,
    `folder-unreadable`."""
    try:
        found = [path for path in _folders(place, DEPTH) if (path / CONTROL).is_file()]
    except PermissionError as error:
        raise LettaOpsError(
            "folder-unreadable",
            f"{error.filename} can't be read",
            "run this as root, or copy the folder to where you may read it",
        ) from None
    if len(found) == 1:
        return found[0]
    if found:
        listing = "".join(f"\n  - {path}" for path in found)
        raise LettaOpsError(
            "several-clusters",
            f"there are {len(found)} clusters below {place}:{listing}",
            "name one",
        )
    raise LettaOpsError(
        "no-cluster",
        f"there is no data folder of Postgres at {place}, or below it",
        "the official image keeps it in /var/lib/postgresql/data: name what is mounted there (`docker"
        " inspect`); where something else was mounted, the data went with the container",
    )


def start_copy(folder: StackFolder, data: Path, *, crashed: bool) -> Database:
    """Start a copy of the cluster `data` in a throw-away folder; return Letta's database in it, as its
    administrator.

    With `crashed` it need not have been shut down: it recovers as after a loss of power. Raises
    LettaOpsError: `no-programs`, `source-in-use`, `tablespaces`, `disk-full`, `throwaway-failed`,
    `not-letta`.
    """
    programs = _programs(data)
    _ensure_fit(data, programs, crashed=crashed)
    prepare_folders(folder)
    account = service_account(folder, "postgres")
    _copy(data, folder, account)
    port = free_port()
    configure(account, folder, port)
    write_file(folder.postgres_settings("pg_hba.conf"), ACCESS, 0o600, account.owner)
    write_file(folder.postgres_settings("custom.conf"), SETTINGS, 0o600, account.owner)
    here: dict[str, str | int] = {"host": str(folder.sockets), "port": port}
    options = ("-c", "archive_mode=off", "-c", "shared_preload_libraries=")
    run_until(lambda: _role(here) is not None, folder, account, programs, *options)
    role = Role(str(_role(here)))
    return Database(str(folder.sockets), port, _lettas(here, role.name), role, role, tls="disable")


def _folders(place: Path, depth: int) -> Iterator[Path]:
    yield place
    if depth and not (place / CONTROL).is_file():
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                yield from _folders(path, depth - 1)


def _programs(data: Path) -> Path:
    """The folder with the programs of the cluster's major version."""
    major = (data / "PG_VERSION").read_text().strip()
    if major in FOLDERS:
        return install_binaries(cache_folder(), major) / "bin"
    on_path = [Path(name) for name in os.get_exec_path() if name]
    for programs in (DEBIAN / major / "bin", *on_path):
        if _major(programs / "postgres") == major:
            return programs
    raise LettaOpsError(
        "no-programs",
        f"{data} is of PostgreSQL {major}, whose programs are not on this machine",
        f"install them with pgvector (Debian: postgresql-{major}, postgresql-{major}-pgvector); or start"
        " the server that it belongs to, and give its URL: --database",
    )


def _major(program: Path) -> str | None:
    try:
        job = command(program, "--version", environment={"LC_ALL": "C"})
        said = run(job, code="no-programs", hint="", what="asking Postgres for its version").stdout
    except (LettaOpsError, OSError):
        return None
    number = next((word for word in said.split() if word[:1].isdigit()), "")
    return number.partition(".")[0]


def _ensure_fit(data: Path, programs: Path, *, crashed: bool) -> None:
    job = command(programs / "pg_controldata", "-D", data, environment={"LC_ALL": "C"})
    hint = "see whether it is whole"
    said = run(job, code="no-cluster", hint=hint, what=f"reading the state of {data}").stdout
    state = next(
        (line.partition(":")[2].strip() for line in said.splitlines() if "cluster state" in line),
        "?",
    )
    if state != CLEAN and not crashed:
        raise LettaOpsError(
            "source-in-use",
            f"the cluster {data} was not shut down: it is {state}",
            "stop the container or the server that uses it; where it crashed, say --in-use: its copy"
            " recovers",
        )
    if any((data / "pg_tblspc").iterdir()):
        raise LettaOpsError(
            "tablespaces",
            f"the cluster {data} has tablespaces, which lie elsewhere",
            "start the server that it belongs to, and give its URL: --database",
        )


def _copy(data: Path, folder: StackFolder, account: Account) -> None:
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder.root).free
    if free < size:
        raise LettaOpsError(
            "disk-full",
            f"a copy of {data} needs {size >> 20} MB in {folder.root}, and {free >> 20} MB are free",
            "free some disk space, then run this again",
        )
    before = _state(data)
    try:
        shutil.copytree(
            data, folder.postgres_data, ignore=shutil.ignore_patterns(*LEFT), dirs_exist_ok=True
        )
    except (shutil.Error, OSError) as error:
        reason = error.strerror or str(
            error.args[0][0][2] if error.args and error.args[0] else error
        )
        raise LettaOpsError(
            "folder-unreadable",
            f"{data} can't be copied: {reason}",
            "see that this user may read it",
        ) from None
    if _state(data) != before:
        raise LettaOpsError(
            "source-in-use",
            f"somebody writes to {data}: a copy of it would be of no one moment",
            "stop the container or the server that uses it, then run this again",
        )
    for slot in (folder.postgres_data / "pg_replslot").iterdir():
        shutil.rmtree(slot)  # nobody reads from the copy
    give(account, folder.postgres_data, folder.postgres_data / "pg_stat_tmp")
    if not account.is_us:
        for path in folder.postgres_data.rglob("*"):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _state(data: Path) -> dict[str, tuple[int, int]]:
    """What changes when somebody writes there."""
    found = {}
    for path in data.rglob("*"):
        with suppress(OSError):
            seen = path.stat()
            found[str(path)] = (seen.st_size, seen.st_mtime_ns)
    return found


def _role(here: dict[str, str | int]) -> str | None:
    """A role of those that are usual; None as long as none is let in."""
    for name in USUAL_ROLES:
        try:
            with connection({**here, "user": name, "dbname": "template1"}) as link:
                if link.execute(SUPERUSER).fetchone() == ("on",):
                    return name
        except LettaOpsError:
            continue
    return None


def _lettas(here: dict[str, str | int], role: str) -> str:
    """The database with Letta's tables; of several, the one with most agents is for people to choose."""
    with connection({**here, "user": role, "dbname": "template1"}) as link:
        names = [str(name) for (name,) in link.execute(DATABASES)]
    found = []
    for name in names:
        with connection({**here, "user": role, "dbname": name}) as link:
            if (link.execute(HOLDS).fetchone() or (0,))[0]:
                found.append(name)
    if len(found) == 1:
        return found[0]
    raise LettaOpsError(
        "not-letta",
        f"of the databases {', '.join(names)}, {'several have' if found else 'none has'} Letta's tables",
        "start the server that it belongs to, and give its URL: --database",
    )
