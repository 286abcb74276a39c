"""The deployment's configuration as a backup keeps it: everything but secrets."""

from __future__ import annotations

from typing import Any

from infra.pulumi_cli.project import plain_settings
from infra.stack.deployment import Deployment
from infra.stack.profile import plain_values


def plain_configuration(deployment: Deployment) -> dict[str, Any]:
    """Return the stack's settings and its profile in flat keys, without what is secret."""
    folder = deployment.folder
    return {
        "stack": deployment.stack,
        "target": deployment.target,
        "release": deployment.release,
        "settings": {} if folder is None else plain_settings(folder),
        "profile": {} if deployment.profile is None else plain_values(deployment.profile),
    }
