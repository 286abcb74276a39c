"""The stack's secrets and its id: generated once, remembered in the profile, secret in the state."""

from __future__ import annotations

import pulumi

from infra.stack.locations import StackFolder
from infra.stack.profile import SECRET_PATHS
from infra.stack.secrets import StackSecrets
from infra.targets.resources import Generated


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
        made = {
            name: Generated(name, folder, path, known[name].reveal(), opts)
            for name, path in SECRET_PATHS.items()
        }
        self._values = {name: generated.value for name, generated in made.items()}
        last = pulumi.ResourceOptions(parent=self, depends_on=list(made.values()))
        self.deployment_id = Generated("deployment-id", folder, "id", known.id, last).value
        self.register_outputs({})

    def __getitem__(self, name: str) -> pulumi.Output[str]:
        return self._values[name]
