"""The stack's secrets and its id: generated once, remembered in the profile, secret in the state."""

from __future__ import annotations

import pulumi

from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.stack.profile import SECRET_PATHS
from infra.stack.secrets import StackSecrets
from infra.targets.providers.generated import GeneratedValue
from infra.targets.resources import Resource, resource, secret_input


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
            name: _generated(name, folder, path, known[name], opts)
            for name, path in SECRET_PATHS.items()
        }
        self._values = {name: generated.value for name, generated in made.items()}
        last = pulumi.ResourceOptions(parent=self, depends_on=list(made.values()))
        made_id = _generated("deployment-id", folder, "id", Sensitive(known.id), last)
        self.deployment_id: pulumi.Output[str] = made_id.value
        self.register_outputs({})

    def __getitem__(self, name: str) -> pulumi.Output[str]:
        return self._values[name]


def _generated(
    name: str, folder: StackFolder, key: str, proposed: Sensitive, opts: pulumi.ResourceOptions
) -> Resource:
    """A secret or an id, made once. Its `value` is a Pulumi secret either way."""
    inputs = {"key": key, "proposed": secret_input(proposed)}
    return resource(GeneratedValue(), name, folder, inputs, opts)
