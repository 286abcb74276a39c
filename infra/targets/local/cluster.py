"""The cluster of a local stack, and another major version of it: two folders that change places.

Which of them serves is read from their PG_VERSION, so that going back needs to know no more than the
version, also after `kill -9` at any line.
"""

from __future__ import annotations

import os
import shutil
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
    ClusterUpgrade,
    beside,
    clear,
    end_side_servers,
    start_beside,
)
from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_POSTGRES, SERVICE_SERVER, Deployment
from infra.stack.locations import StackFolder

if TYPE_CHECKING:
    from infra.targets.local.host import LocalHost

PREVIOUS, OLDER, UNDONE = "postgres.previous", "postgres.older", "postgres.undone"


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

    def go_back(self, major: str) -> None:
        self._stop()
        live, previous, older = map(self._place, ("postgres", PREVIOUS, OLDER))
        if major_of(live) != major:
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

    @contextmanager
    def aside(self) -> Iterator[tuple[DatabaseAccess, DatabaseAccess] | None]:
        data = self._place(UNDONE)
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
        found = {name: self._place(name) for name in (PREVIOUS, OLDER, UNDONE)}
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
        """Stop what serves: where its supervisor is gone, what outlived it."""
        if supervisor.process(self._folder) is None:
            supervisor.end_leftovers(self._folder)
            return
        for service in (SERVICE_SERVER, SERVICE_POSTGRES):
            if service in supervisor.states(self._folder):
                self._host.stop(service)

    def _remove(self, name: str) -> None:
        if self._place(name).exists():
            shutil.rmtree(self._place(name))

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
