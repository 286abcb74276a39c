"""Running a release's migrations with its own Python on this machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.embedded.alembic import upgrade
from infra.embedded.release import InstalledRelease, installed
from infra.sensitive import Sensitive
from infra.stack.deployment import DATABASE_NAME, LOOPBACK, OWNER_ROLE, Database, Role
from infra.stack.locations import StackFolder
from infra.stack.releases import RELEASES
from infra.targets.local.postgres import administrator
from infra.targets.providers import migration
from infra.targets.providers.provider import Properties

if TYPE_CHECKING:
    import psycopg


class EmbeddedMigration(migration.Migration):
    """Further inputs: `owner_password`, `cache`, `python` (of the installed release)."""

    compared: ClassVar[tuple[str, ...]] = ("release", "port")

    def administrator(
        self, folder: StackFolder, inputs: Properties
    ) -> AbstractContextManager[psycopg.Connection[Any]]:
        return administrator(folder, int(inputs["port"]))

    def knows(self, folder: StackFolder, inputs: Properties, revision: str) -> bool:
        return _where(inputs).knows(revision)

    def alembic(
        self, folder: StackFolder, inputs: Properties, keep: Callable[[str], None], log: Path
    ) -> None:
        role = Role(OWNER_ROLE, Sensitive(inputs["owner_password"]))
        target = Database(LOOPBACK, int(inputs["port"]), DATABASE_NAME, role, role)
        hint, key = migration.failed_hint(log), migration.stack_key(folder)
        upgrade(folder, _where(inputs), target, "head", keep, hint, key)


def _where(inputs: Properties) -> InstalledRelease:
    release = RELEASES[inputs["release"]]
    return installed(release, Path(inputs["cache"]), Path(inputs["python"]))
