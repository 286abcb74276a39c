"""Running a release's migrations with its own Python on this machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.accounts import as_account, service_account
from infra.embedded.folders import plain_environment
from infra.embedded.release import InstalledRelease, installed
from infra.process import command, follow
from infra.sensitive import Sensitive
from infra.stack.deployment import DATABASE_NAME, LOOPBACK, OWNER_ROLE, Database, Role, postgres_uri
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
        where = _where(inputs)
        password = Sensitive(inputs["owner_password"])
        role = Role(OWNER_ROLE, password)
        target = Database(LOOPBACK, int(inputs["port"]), DATABASE_NAME, role, role)
        # pg8000, which alembic speaks, refuses `ssl` and `sslmode`: the URI has neither.
        uri = postgres_uri(target, role)
        job = command(
            where.python, "-m", "alembic", "upgrade", "head",
            directory=where.source,
            environment={
                **plain_environment(folder),
                "LETTA_PG_URI": uri.reveal(),
                "PYTHONDONTWRITEBYTECODE": "1",
                "OTEL_SDK_DISABLED": "true",
                "MEMGPT_CONFIG_PATH": "/dev/null",
            },
            secrets=(password, uri),
        )  # fmt: skip
        follow(
            as_account(service_account(folder, "server"), job),
            keep,
            code="migration-failed",
            hint=migration.failed_hint(log),
            what="migrating the database",
        )


def _where(inputs: Properties) -> InstalledRelease:
    release = RELEASES[inputs["release"]]
    return installed(release, Path(inputs["cache"]), Path(inputs["python"]))
