"""What every component of a docker stack needs to know."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from infra.stack.locations import StackFolder
from infra.stack.secrets import StackSecrets
from infra.targets.docker.names import LABEL_DEPLOYMENT, Names
from infra.targets.docker.settings import DockerSettings


@dataclass(frozen=True)
class StackContext:
    """What every component of a docker stack needs to know."""

    folder: StackFolder
    settings: DockerSettings
    secrets: StackSecrets

    @property
    def names(self) -> Names:
        return self.settings.names

    def digest(self, text: str) -> str:
        """Eight digits that change with `text`, and tell nothing of the secrets in it."""
        key = self.secrets["encryption-key"].reveal().encode()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:8]

    def labels(self, service: str) -> dict[str, str]:
        return {**self.names.labels(service), LABEL_DEPLOYMENT: self.secrets.id}
