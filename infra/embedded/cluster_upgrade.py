"""Another major version of Postgres for a cluster of this machine: pg_upgrade makes a copy beside it.

The cluster itself is read, and never changed: going back is to serve it again. It works where a stack
has its data, and in a throw-away folder.
"""

from __future__ import annotations

import datetime as dt
import os
import shlex
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from infra.accounts import Account, as_account, give, service_account
from infra.database.administration import DatabaseAccess, through_socket
from infra.embedded import supervisor
from infra.embedded.binaries import install_binaries, offered_extensions
from infra.embedded.cluster import MAIN, configure, initialise
from infra.embedded.folders import plain_environment
from infra.embedded.throwaway_postgres import answers, free_port, run_until
from infra.errors import LettaOpsError
from infra.files import write_file
from infra.process import Command, attempt, command, run
from infra.stack.deployment import ADMIN_ROLE, LOOPBACK
from infra.stack.locations import StackFolder, cache_folder

if TYPE_CHECKING:
    import psycopg

BESIDE = "postgres.upgrading"
SIDES = ("before", "after")
# What a change of version leaves beside the cluster.
PREVIOUS, OLDER, UNDONE = "postgres.previous", "postgres.older", "postgres.undone"
KEPT = (PREVIOUS, OLDER, UNDONE)
DROPPING = "postgres.dropping"
END_SECONDS = 600.0  # a large database writes its last checkpoint as long as it takes
OF_ALTER_SYSTEM = "postgresql.auto.conf"
# Whatever was set with ALTER SYSTEM.
NOBODY_ELSES = {"listen_addresses": LOOPBACK, "archive_mode": "off"}
ONLY_ITSELF = "upgrade-{}.conf"  # the settings with which pg_upgrade starts them
ACCESS = "local  all  {admin}  peer map=upgrade\n"
OPERATORS = "upgrade  {user}  {admin}\n"
DATABASES = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"
EXTENSIONS = "SELECT extname, extversion FROM pg_extension ORDER BY 1"
# What was sorted by a C library, or an ICU, that sorts differently now.
SORTED_OTHERWISE = """
SELECT EXISTS (SELECT FROM pg_database d WHERE d.datname = current_database()
    AND d.datcollversion IS DISTINCT FROM pg_database_collation_actual_version(d.oid))
OR EXISTS (SELECT FROM pg_collation c WHERE c.collversion IS NOT NULL
    AND c.collversion IS DISTINCT FROM pg_collation_actual_version(c.oid))
"""
REINDEX, REFRESH = "REINDEX DATABASE {}", "ALTER DATABASE {} REFRESH COLLATION VERSION"


@dataclass(frozen=True)
class SideServer:
    """One of the two clusters, served to nobody else: the administrator's way in, and its port."""

    access: DatabaseAccess
    port: int


@dataclass(frozen=True)
class ClusterUpgrade:
    """The cluster of `folder`, which nobody serves, and a copy of it of the major version `after`."""

    folder: StackFolder
    before: str
    after: str

    @property
    def beside(self) -> Path:
        return beside(self.folder)

    def prepare(self) -> None:
        """What can be done while the cluster still serves: the new one, which is empty."""
        clear(self.folder)
        account = service_account(self.folder, "postgres")
        initialise(account, self.folder, self.after, data=self.beside)

    def run(self) -> None:
        """Make the copy, of what was prepared. Raises LettaOpsError (`postgres-upgrade-failed`) with
        pg_upgrade's own words."""
        account = service_account(self.folder, "postgres")
        scratch = self.beside.with_name(f"{BESIDE}.work")
        give(account, scratch)
        job = self._pg_upgrade(account, scratch)
        done = attempt(
            as_account(account, job), code="postgres-upgrade-failed", hint="", what="pg_upgrade"
        )
        if done.returncode != 0:
            raise self._failed(account, done.stdout + done.stderr)
        self._as(account, "cp", self.folder.postgres_data / OF_ALTER_SYSTEM, self.beside)
        shutil.rmtree(scratch)

    @contextmanager
    def served(self) -> Iterator[tuple[SideServer, SideServer]]:
        """Serve both for the block: the cluster, and the copy, of which what has to be made anew is."""
        import psycopg

        try:
            old = start_beside(self.folder, "before", self.before, self.folder.postgres_data)
            new = start_beside(self.folder, "after", self.after, self.beside)
            for name in _databases(new.access):
                with new.access.examine(name) as link:
                    _freshen(link, name, self.after)
            yield old, new
        except psycopg.Error as error:
            raise LettaOpsError(
                "postgres-upgrade-failed",
                f"PostgreSQL {self.after} does not do its work with the copy: {str(error).strip()}",
                "the cluster was only read, and goes on as it is",
            ) from None
        finally:
            end_side_servers(self.folder)

    def _pg_upgrade(self, account: Account, scratch: Path) -> Command:
        """Nobody is let in but its account, by a socket in a folder of its own."""
        programs = {
            each: install_binaries(cache_folder(), each) / "bin"
            for each in (self.before, self.after)
        }
        files = {
            "hba_file": ACCESS.format(admin=ADMIN_ROLE),
            "ident_file": OPERATORS.format(user=account.name, admin=ADMIN_ROLE),
        }
        options = []
        for setting, text in files.items():
            path = self.folder.postgres_settings(ONLY_ITSELF.format(setting))
            write_file(path, text, 0o600, account.owner)
            options.append(f"-c {setting}={shlex.quote(str(path))}")
        return command(
            programs[self.after] / "pg_upgrade",
            "--old-bindir", programs[self.before], "--new-bindir", programs[self.after],
            "--old-datadir", self.folder.postgres_data, "--new-datadir", self.beside,
            "--username", ADMIN_ROLE, "--socketdir", self.folder.sockets,
            "--jobs", str(os.cpu_count() or 1),
            "--old-options", " ".join(options), "--new-options", " ".join(options),
            directory=scratch, environment=plain_environment(self.folder), umask=0o077,
        )  # fmt: skip

    def _as(self, account: Account, *words: str | Path) -> None:
        """Run one of the system's programs in the copy's folder, as its account."""
        job = command(*words, directory=self.beside, environment=plain_environment(self.folder))
        hint = "the cluster was only read, and goes on as it is"
        run(as_account(account, job), code="postgres-upgrade-failed", hint=hint, what=str(words[0]))

    def _failed(self, account: Account, said: str) -> LettaOpsError:
        """What it has written of it is kept with the logs, but for the dumps: the copy goes."""
        self._as(account, "sh", "-c", "rm -rf pg_upgrade_output.d/*/dump")
        kept = self.folder.logs / f"pg_upgrade-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}"
        where, output = "its lines are above", self.beside / "pg_upgrade_output.d"
        with suppress(OSError):
            output.rename(kept)
            where, said = f"its logs are in {kept}", said.replace(str(output), str(kept))
        lines = "\n".join(f"    {line}" for line in said.strip().splitlines()[-20:])
        return LettaOpsError(
            "postgres-upgrade-failed",
            f"PostgreSQL {self.before} could not be brought to {self.after}:\n{lines}",
            f"{where}; the cluster was only read, and goes on as it is",
        )


def start_beside(folder: StackFolder, side: str, major: str, data: Path) -> SideServer:
    """Serve a cluster to nobody else, until `end_side_servers`. `side`: one of SIDES."""
    account, port, name = service_account(folder, "postgres"), free_port(), _settings(side)
    configure(account, folder, port, name=name, data=data, custom=f"{side}-custom.conf")
    access = through_socket(folder.sockets, port, "beside the stack's own", major)
    programs = install_binaries(cache_folder(), major) / "bin"
    options = [f"--{name}={value}" for name, value in (("port", port), *NOBODY_ELSES.items())]
    run_until(lambda: answers(access), folder, account, programs, *options, configuration=name)
    return SideServer(access, port)


def beside(folder: StackFolder) -> Path:
    """Where the copy of a cluster is made."""
    return folder.postgres_data.with_name(BESIDE)


def clear(folder: StackFolder) -> None:
    """Remove what an upgrade that came to no end has left; the cluster is not touched."""
    end_side_servers(folder)
    for path in [*folder.data.glob(f"{BESIDE}*"), *folder.data.glob(DROPPING)]:
        shutil.rmtree(path)


def end_side_servers(folder: StackFolder) -> None:
    """End the Postgres that serves either cluster beside, and pg_upgrade with what it has started."""
    sides = [str(folder.postgres_settings(_settings(side))) for side in SIDES]
    end_servers(folder, *sides, str(folder.postgres_settings(ONLY_ITSELF.format("hba_file"))))


def end_servers(folder: StackFolder, *marks: str) -> None:
    """End every process of the folder with one of `marks` in its words, and wait for it.

    Raises LettaOpsError (`database-in-use`) for one that does not end.
    """
    while found := [each for each in supervisor.processes(folder) if _has(each, marks)]:
        for process in found:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGINT)  # ends its sessions, writes a checkpoint
        if psutil.wait_procs(found, timeout=END_SECONDS)[1]:
            raise LettaOpsError(
                "database-in-use",
                f"Postgres did not end within {END_SECONDS:.0f} s",
                f"see {folder.log('postgres')}, then run this again",
            )


def serves(folder: StackFolder) -> bool:
    """Whether a Postgres serves the cluster in its place."""
    main = str(folder.postgres_settings(MAIN))
    return any(_has(each, (main,)) for each in supervisor.processes(folder))


def _has(process: psutil.Process, marks: Sequence[str]) -> bool:
    try:
        return any(mark in word for word in process.cmdline() for mark in marks)
    except psutil.Error:
        return False


def _settings(side: str) -> str:
    return f"postgresql-{side}.conf"


def _databases(access: DatabaseAccess) -> list[str]:
    with access.connect(access.maintenance) as link:
        return [str(name) for (name,) in link.execute(DATABASES)]


def _freshen(link: psycopg.Connection[Any], name: str, major: str) -> None:
    """Extensions in the version of their programs; indexes anew where text is sorted otherwise now."""
    from psycopg import sql

    offered = offered_extensions(major)
    for extension, version in link.execute(EXTENSIONS).fetchall():
        if offered.get(extension, version) != version:
            link.execute(sql.SQL("ALTER EXTENSION {} UPDATE").format(sql.Identifier(extension)))
    if link.execute(SORTED_OTHERWISE).fetchone() == (True,):
        for statement in (REINDEX, REFRESH):
            link.execute(sql.SQL(statement).format(sql.Identifier(name)))
