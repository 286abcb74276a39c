"""Running a release's migrations with its own Python on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infra.accounts import as_account, service_account
from infra.embedded.folders import plain_environment
from infra.embedded.release import RELEASES, InstalledRelease, installed
from infra.process import command, follow
from infra.sensitive import Sensitive
from infra.stack.deployment import DATABASE_NAME, LOOPBACK, OWNER_ROLE, Database, Role, postgres_uri
from infra.stack.locations import StackFolder
from infra.targets.providers import migration
from infra.targets.providers.provider import Properties


class EmbeddedMigration(migration.Migration):
    """Further inputs: `owner_password`, `cache`, `python` (of the installed release)."""

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


Migration = EmbeddedMigration  # its name in the state of stacks from before the docker target
