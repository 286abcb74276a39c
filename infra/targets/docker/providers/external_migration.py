"""Migrating a Postgres that we didn't make: alembic in a container, over the direct URL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from infra.sensitive import Sensitive
from infra.stack.database_url import as_document, secrets_of
from infra.stack.locations import StackFolder
from infra.targets.docker.migrations import environment, job, run
from infra.targets.docker.names import PYTHON
from infra.targets.docker.providers.migration import ContainerMigration
from infra.targets.external_database.preflight import MIGRATE
from infra.targets.providers.migration import failed_hint, stack_key
from infra.targets.providers.provider import Properties


class ExternalMigration(ContainerMigration):
    """Inputs: `release`, `uri` (the direct one), `prefix`, `image`, `networks`. Output: `revision`."""

    def alembic(
        self, folder: StackFolder, inputs: Properties, keep: Callable[[str], None], log: Path
    ) -> None:
        uri, key = Sensitive(inputs["uri"]), stack_key(folder)
        secrets = (*secrets_of(uri), *([] if key is None else [key]))
        document = {
            "target": as_document(uri),
            "environment": environment("", key),
            "secrets": [secret.reveal() for secret in secrets],
        }
        arguments = [PYTHON, "-c", MIGRATE.read_text()]
        run(job(inputs, arguments, json.dumps(document), secrets), keep, failed_hint(log))
