"""A release's own migrations, run by its interpreter on this machine, as its server's account."""

from __future__ import annotations

from collections.abc import Callable

from infra.accounts import as_account, service_account
from infra.embedded.folders import plain_environment
from infra.embedded.release import InstalledRelease
from infra.process import command, follow
from infra.sensitive import Sensitive
from infra.stack.deployment import Database, postgres_uri
from infra.stack.locations import StackFolder

# Most of its start is to import the models, while the collector looks at objects that stay.
ALEMBIC = """\
import gc
gc.disable()
import letta.orm
gc.freeze()
gc.enable()
from alembic.config import main
main(prog="alembic")
"""


def upgrade(
    folder: StackFolder,
    release: InstalledRelease,
    database: Database,
    revision: str,
    keep: Callable[[str], None],
    hint: str,
    encryption_key: Sensitive | None = None,
) -> None:
    """Bring `database` up to `revision` ("head": the newest), as its owner; `keep` is told every line.

    With an `encryption_key` migrations encrypt what older releases held in the clear.

    Raises LettaOpsError (`migration-failed`).
    """
    role = database.owner
    # pg8000, which alembic speaks, refuses `ssl` and `sslmode`: the URI has neither.
    uri = postgres_uri(database, role)
    key = {} if encryption_key is None else {"LETTA_ENCRYPTION_KEY": encryption_key.reveal()}
    hidden = [each for each in (role.password, encryption_key) if each is not None]
    job = command(
        release.python, "-c", ALEMBIC, "upgrade", revision,
        directory=release.source,
        environment={
            **plain_environment(folder),
            "LETTA_PG_URI": uri.reveal(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OTEL_SDK_DISABLED": "true",
            "MEMGPT_CONFIG_PATH": "/dev/null",
            **key,
        },
        secrets=(uri, *hidden),
    )  # fmt: skip
    follow(
        as_account(service_account(folder, "server"), job),
        keep,
        code="migration-failed",
        hint=hint,
        what="migrating the database",
    )
