"""Migrating a Postgres that we didn't make: alembic in a container, over the direct URL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from infra.errors import LettaOpsError
from infra.process import TAIL_LINES
from infra.sensitive import Sensitive
from infra.stack.database_url import as_document, secrets_of
from infra.stack.locations import StackFolder
from infra.targets.docker.engine.oneshot import Job, run_once
from infra.targets.docker.names import PYTHON, SOURCE, Names
from infra.targets.docker.providers.migration import ContainerMigration, environment
from infra.targets.external_database.preflight import MIGRATE
from infra.targets.providers.migration import failed_hint, stack_key
from infra.targets.providers.provider import Properties


class ExternalMigration(ContainerMigration):
    """Inputs: `release`, `uri` (the direct one), `prefix`, `image`, `networks`. Output: `revision`."""

    def alembic(
        self, folder: StackFolder, inputs: Properties, keep: Callable[[str], None], log: Path
    ) -> None:
        names, uri = Names(inputs["prefix"]), Sensitive(inputs["uri"])
        key = stack_key(folder)
        secrets = (*secrets_of(uri), *([] if key is None else [key]))
        document = {
            "target": as_document(uri),
            "environment": environment("", key),
            "secrets": [secret.reveal() for secret in secrets],
        }
        job = Job(
            names.container("migration"),
            inputs["image"],
            [PYTHON, "-c", MIGRATE.read_text()],
            names.labels("migration"),
            networks=inputs["networks"],
            stdin=json.dumps(document),
            directory=SOURCE,
            timeout=3600.0,
            secrets=secrets,
        )
        done = run_once(job, keep)
        if done.code != 0:
            tail = "\n".join(f"    {line}" for line in done.lines[-TAIL_LINES:])
            raise LettaOpsError(
                "migration-failed",
                f"migrating the database failed with exit code {done.code}:\n{tail}",
                failed_hint(log),
            )
