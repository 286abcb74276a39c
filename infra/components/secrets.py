"""The stack's secrets and its id: generated once, remembered in the profile, secret in the state."""

from __future__ import annotations

import pulumi

from infra.components.embedded import Generated
from infra.locations import StackFolder
from infra.profiles import SECRET_PATHS
from infra.stack_secrets import StackSecrets


class Secrets(pulumi.ComponentResource):
    """Outputs: one secret for each name of `letta-ops secret show`, and `deployment_id`."""

    def __init__(
        self,
        folder: StackFolder,
        known: StackSecrets,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("letta-ops:local:Secrets", "secrets", {}, opts)
        opts = pulumi.ResourceOptions(parent=self)
        self._values = {
            name: Generated(name, folder, path, known[name].reveal(), opts).value
            for name, path in SECRET_PATHS.items()
        }
        self.deployment_id = Generated("deployment-id", folder, "id", known.id, opts).value
        self.register_outputs({})

    def __getitem__(self, name: str) -> pulumi.Output[str]:
        return self._values[name]
