"""Bringing a database to a release's schema: alembic, run once, alone, logged without secrets."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from infra.accounts import as_account, service_account
from infra.deployment import (
    DATABASE_NAME,
    LOOPBACK,
    OWNER_ROLE,
    Database,
    Role,
    postgres_uri,
)
from infra.embedded.database import administrator, revision
from infra.embedded.folders import plain_environment
from infra.embedded.provider import Properties, Provider
from infra.errors import LettaOpsError
from infra.locations import StackFolder
from infra.process import command, follow
from infra.release import RELEASES, installed
from infra.sensitive import Sensitive

LOCK_KEY = 0x6C657474615F6F70  # "letta_op": one migration at a time, whoever starts it


class Migration(Provider):
    """Inputs: `release`, `port`, `owner_password`, `cache`, `python`. Output: `revision`.

    Runs the release's own alembic migrations once, as a step of its own with a log of its own;
    the server's start never migrates. `remove` leaves the schema: it is data.
    """

    compared: ClassVar[tuple[str, ...]] = ("release", "port")

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        return inputs["release"], {"revision": upgrade(folder, inputs)}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        """Compare the database's revision, when it can be reached, with the one we left it at."""
        try:
            found = revision(folder, int(outputs["port"]))
        except LettaOpsError:
            return None  # Postgres is down: its own service says so
        same = found == outputs["revision"]
        return None if same else f"the database is at {found}, not {outputs['revision']}"


def upgrade(folder: StackFolder, inputs: Mapping[str, Any]) -> str:
    """Migrate to the head of `inputs["release"]` and return the revision that the database has then.

    Raises LettaOpsError: `newer-schema` when the database is ahead of the release,
    `migration-failed` with the last lines of the log.
    """
    release = RELEASES[inputs["release"]]
    port = int(inputs["port"])
    where = installed(release, Path(inputs["cache"]), Path(inputs["python"]))
    with administrator(folder, port) as link:
        link.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        before = revision(folder, port)
        if before == release.alembic_head:
            return before
        if before is not None and not _knows(where.source, before):
            raise LettaOpsError(
                "newer-schema",
                f"the database is at revision {before}, which Letta {release.version} doesn't know",
                "use the release that wrote this database, or restore a backup of this one",
            )
        _alembic(folder, inputs, where.python, where.source)
        after = revision(folder, port)
    if after != release.alembic_head:
        raise LettaOpsError(
            "migration-failed",
            f"the database is at revision {after} after the migration, not {release.alembic_head}",
            f"read the newest {folder.logs}/migration-*.log",
        )
    return after


def _alembic(folder: StackFolder, inputs: Mapping[str, Any], python: Path, source: Path) -> None:
    password = Sensitive(inputs["owner_password"])
    role = Role(OWNER_ROLE, password)
    target = Database(LOOPBACK, int(inputs["port"]), DATABASE_NAME, role, role)
    # pg8000, which alembic speaks, refuses `ssl` and `sslmode`: the URI has neither.
    uri = postgres_uri(target, role)
    started = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    job = command(
        python, "-m", "alembic", "upgrade", "head",
        directory=source,
        environment={
            **plain_environment(folder),
            "LETTA_PG_URI": uri.reveal(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OTEL_SDK_DISABLED": "true",
            "MEMGPT_CONFIG_PATH": "/dev/null",
        },
        secrets=(password, uri),
    )  # fmt: skip
    log = folder.logs / f"migration-{started}.log"
    with log.open("x") as sink:
        log.chmod(0o600)

        def keep(line: str) -> None:
            sink.write(line + "\n")
            sink.flush()

        follow(
            as_account(service_account(folder, "server"), job),
            keep,
            code="migration-failed",
            hint=f"read {log}; the database is unchanged (migrations are one transaction)",
            what="migrating the database",
        )


def _knows(source: Path, wanted: str) -> bool:
    versions = source / "alembic" / "versions"
    return any(f'"{wanted}"' in path.read_text() for path in versions.glob("*.py"))
