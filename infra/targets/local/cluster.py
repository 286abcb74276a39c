"""The cluster of a local stack, and another major version of it: two folders that change places.

Which of them serves is read from their PG_VERSION, so that going back needs to know no more than the
version, also after `kill -9` at any line.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from infra.accounts import service_account
from infra.database.administration import DatabaseAccess, owner_access
from infra.database.connection import database_of
from infra.embedded import supervisor
from infra.embedded.binaries import MAJOR, MAJORS, offered_extensions
from infra.embedded.cluster import configuration_problem, major_of
from infra.embedded.cluster_upgrade import (
    BESIDE,
    DROPPING,
    KEPT,
    OLDER,
    PREVIOUS,
    UNDONE,
    ClusterUpgrade,
    beside,
    clear,
    end_side_servers,
    serves,
    start_beside,
)
from infra.embedded.throwaway_postgres import answers
from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_POSTGRES, SERVICE_SERVER, Deployment
from infra.stack.locations import StackFolder

if TYPE_CHECKING:
    from infra.targets.local.host import LocalHost

START_SECONDS = 60.0


class LocalCluster:
    """See `infra.targets.target.Cluster`."""

    majors: Sequence[str] = MAJORS
    setting = "database.postgres"
    previous = PREVIOUS
    undone = UNDONE

    def __init__(self, host: LocalHost) -> None:
        self._host = host

    @property
    def major(self) -> str:
        return major_of(self._folder.postgres_data) or MAJOR

    @property
    def replaced(self) -> str | None:
        return major_of(self._place(PREVIOUS))

    @property
    def size(self) -> int:
        return _size(self._folder.postgres_data)

    def offered(self, major: str) -> Mapping[str, str]:
        return offered_extensions(major)

    def configuration_problem(self, major: str) -> str | None:
        return configuration_problem(service_account(self._folder, "postgres"), self._folder, major)

    def prepare(self, major: str) -> None:
        ClusterUpgrade(self._folder, self.major, major).prepare()

    def upgrade(self, major: str) -> None:
        self._stop()
        ClusterUpgrade(self._folder, self.major, major).run()

    @contextmanager
    def both(self) -> Iterator[tuple[DatabaseAccess, DatabaseAccess]]:
        upgrade = ClusterUpgrade(self._folder, self.major, major_of(self._place(BESIDE)) or MAJOR)
        database = database_of(self._deployment)
        with ExitStack() as stack:
            sides = stack.enter_context(upgrade.served())
            old, new = (
                stack.enter_context(owner_access(replace(database, port=side.port)))
                for side in sides
            )
            yield old, new

    def exchange(self) -> None:
        live, previous = self._folder.postgres_data, self._place(PREVIOUS)
        self._remove(OLDER)
        if previous.exists():
            self._rename(previous, self._place(OLDER))
        self._rename(live, previous)
        self._rename(beside(self._folder), live)

    def start(self) -> bool:
        if supervisor.process(self._folder) is None:
            return False
        self._host.start(SERVICE_POSTGRES)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with self._host.administrator() as access:
                if answers(access):
                    return True
            time.sleep(supervisor.POLL_SECONDS)
        return False

    def go_back(self, major: str) -> bool:
        self._stop()
        live, previous, older = map(self._place, ("postgres", PREVIOUS, OLDER))
        exchanged = major_of(live) != major
        if exchanged:
            if major_of(previous) != major:
                raise LettaOpsError(
                    "data-missing",
                    f"neither {live} nor {previous} is the cluster of PostgreSQL {major}",
                    "put it back there, then run this again; what is there was not touched",
                )
            if live.exists():
                self._remove(UNDONE)
                self._rename(live, self._place(UNDONE))
            self._rename(previous, live)
        if older.exists() and not previous.exists():
            self._rename(older, previous)
        clear(self._folder)
        return exchanged

    @contextmanager
    def aside(self, name: str) -> Iterator[tuple[DatabaseAccess, DatabaseAccess] | None]:
        data = self._place(name)
        if (major := major_of(data)) is None:
            yield None
            return
        try:
            side = start_beside(self._folder, "before", major, data)
            with owner_access(replace(database_of(self._deployment), port=side.port)) as owner:
                yield side.access, owner
        finally:
            end_side_servers(self._folder)

    def kept(self) -> Mapping[str, int]:
        found = {name: self._place(name) for name in KEPT}
        return {name: _size(path) for name, path in found.items() if path.exists()}

    def drop(self, *names: str) -> None:
        for name in names:
            self._remove(name)

    @property
    def _folder(self) -> StackFolder:
        return self._host.folder

    @property
    def _deployment(self) -> Deployment:
        return self._host.deployment

    def _place(self, name: str) -> Path:
        return self._folder.data / name

    def _stop(self) -> None:
        """Stop what serves: where its supervisor is gone, what outlived it.

        Raises LettaOpsError (`database-in-use`) where Postgres goes on: no folder may be moved then.
        """
        if supervisor.process(self._folder) is None:
            supervisor.end_leftovers(self._folder)
        for service in (SERVICE_SERVER, SERVICE_POSTGRES):
            if service in supervisor.states(self._folder):
                self._host.stop(service)
        if serves(self._folder):
            raise LettaOpsError(
                "database-in-use",
                f"Postgres goes on serving {self._folder.postgres_data}",
                f"see {self._folder.log(SERVICE_POSTGRES)}, then run this again",
            )

    def _remove(self, name: str) -> None:
        """Half of one must not look like one: it has another name before anything of it goes."""
        dropping = self._place(DROPPING)
        if dropping.exists():
            shutil.rmtree(dropping)
        if self._place(name).exists():
            self._rename(self._place(name), dropping)
            shutil.rmtree(dropping)

    def _rename(self, old: Path, new: Path) -> None:
        old.rename(new)
        descriptor = os.open(self._folder.data, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _size(folder: Path) -> int:
    """Of a cluster that may serve meanwhile: files come and go."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118  # thousands
    return size
