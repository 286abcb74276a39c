"""Finding the provider that a stack's state names, wherever it is now.

Pulumi keeps the pickled provider of every resource in its state: ours are pickled as this function and
a name. So this module must be found under its own name for ever.
"""

from __future__ import annotations

import importlib
from typing import Any

# Where each provider is now. A name here is in the state of people's stacks: it never goes, and
# `LettaDatabase` was once that of every target.
MODULES = {
    "BuiltImage": "infra.targets.docker.providers.built_image",
    "ContainerMigration": "infra.targets.docker.providers.migration",
    "DatabaseCheck": "infra.targets.docker.providers.database_preflight",
    "DatabaseCluster": "infra.targets.docker.providers.cluster",
    "EmbeddedMigration": "infra.targets.local.providers.migration",
    "ExternalDatabase": "infra.targets.external_database.mark",
    "ExternalMigration": "infra.targets.docker.providers.external_migration",
    "GeneratedValue": "infra.targets.providers.generated",
    "LettaDatabase": "infra.targets.docker.providers.database",
    "LocalDatabase": "infra.targets.local.providers.database",
    "LettaRelease": "infra.targets.local.providers.runtime",
    "ModelEndpoints": "infra.targets.local.providers.endpoints",
    "OwnCertificate": "infra.targets.docker.providers.certificate",
    "PostgresCluster": "infra.targets.local.providers.cluster",
    "ProfileRecord": "infra.targets.providers.record",
    "Route": "infra.targets.docker.providers.route",
    "RunningContainer": "infra.targets.docker.providers.running",
    "SecretFile": "infra.targets.docker.providers.secret_file",
    "SmolLM2": "infra.targets.local.providers.runtime",
    "SupervisedService": "infra.targets.providers.service",
    "Valkey": "infra.targets.local.providers.runtime",
}


def provider_named(name: str) -> Any:
    """Return the provider that a stack's state names."""
    return getattr(importlib.import_module(MODULES[name]), name)()
