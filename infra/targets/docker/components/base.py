"""What the containers of a stack stand on: networks, volumes, images."""

from __future__ import annotations

import pulumi
import pulumi_docker as docker

from infra.targets.docker.components.container import Image, image
from infra.targets.docker.components.context import StackContext
from infra.targets.docker.names import DATA_VOLUMES, VOLUMES


class Base(pulumi.ComponentResource):
    """Outputs: `images` by name, and `ready`: networks and volumes to wait for."""

    def __init__(
        self, context: StackContext, image_names: list[str], opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__("letta-ops:docker:Base", "base", {}, opts)
        opts = pulumi.ResourceOptions(parent=self)
        self.images: dict[str, Image] = {name: image(context, name, opts) for name in image_names}
        own = "postgres" in image_names  # an external database has no volume here
        self.ready: list[pulumi.Resource] = [
            self._network(context, "inner", context.names.inner_network, internal=True),
            self._network(context, "outer", context.names.outer_network, internal=False),
            self._network(context, "cache", context.names.cache_network, internal=True),
            *(self._volume(context, what) for what in VOLUMES if what != "database" or own),
        ]
        self.register_outputs({})

    def _network(
        self, context: StackContext, name: str, real: str, *, internal: bool
    ) -> docker.Network:
        return docker.Network(
            f"network-{name}",
            name=real,
            driver="bridge",
            internal=internal,
            labels=[
                docker.NetworkLabelArgs(label=label, value=value)
                for label, value in sorted(context.labels("network").items())
            ],
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _volume(self, context: StackContext, what: str) -> docker.Volume:
        # Data outlives `destroy`: only `destroy --delete-data` removes it, by itself.
        kept = what in DATA_VOLUMES
        return docker.Volume(
            f"volume-{what}",
            name=context.names.volume(what),
            labels=[
                docker.VolumeLabelArgs(label=label, value=value)
                for label, value in sorted(context.labels(f"volume-{what}").items())
            ],
            # One that was put back by hand has no labels, and is as good.
            opts=pulumi.ResourceOptions(
                parent=self, retain_on_delete=kept, ignore_changes=["labels"]
            ),
        )
