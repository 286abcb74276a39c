"""The Letta servers of the docker target: named after their configuration, never published."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import pulumi
import pulumi_docker as docker

from infra.components.container import Place, Shape, container
from infra.components.container_base import Base
from infra.components.container_resources import File
from infra.components.letta import IMPORT_FIRST, SECRETS, server_environment
from infra.containers.migration import LAUNCH, PYTHON
from infra.containers.names import SECRETS_FOLDER, SERVER_PORT, SERVER_USER
from infra.deployment import SERVICE_SERVER
from infra.launch_document import launch_document, secret_values
from infra.sensitive import Sensitive, revealed

HOME = PurePosixPath("/home/letta")
SANDBOX = PurePosixPath("/sandbox")
START_SECONDS = 240
DRAIN_SECONDS = 300  # requests at hand are answered before a server that was replaced ends
PROCESSES = 1024


class Servers(pulumi.ComponentResource):
    """Outputs: `names` of the containers, `ready` to wait for, `hidden` (what logs must not show)."""

    def __init__(
        self,
        place: Place,
        base: Base,
        uri: Sensitive,
        more: Mapping[str, str | Sensitive],
        after: Sequence[pulumi.Resource],
    ) -> None:
        super().__init__("letta-ops:docker:Servers", "servers")
        assert place.settings.containers is not None  # noqa: S101
        environment = _environment(place, uri, more)
        secret_names = [*SECRETS, *(key for key, value in more.items() if _hidden(value))]
        self.hidden = secret_values(environment, secret_names)
        document = launch_document(environment, secret_names, IMPORT_FIRST)
        memory = place.settings.containers.server_memory
        digest = _digest(place, document, base.images["letta"].tag, memory)
        file = File(
            f"server-environment-{digest}",
            place.folder,
            place.names,
            base.images["letta"].tag,
            f"server-{digest}.json",
            SERVER_USER,
            Sensitive(document),
            pulumi.ResourceOptions(parent=self, depends_on=base.ready),
        )
        path = f"{SECRETS_FOLDER}/server-{digest}.json"
        shape = Shape(
            service=SERVICE_SERVER,
            image=base.images["letta"],
            networks=_networks(place),
            memory=memory,
            processes=PROCESSES,
            command=[
                PYTHON, LAUNCH, path, "letta.main:app",
                "server", "--secure", "--host", "0.0.0.0", "--port", str(SERVER_PORT),  # noqa: S104
            ],
            environment={"LETTA_OPS_ENVIRONMENT_FILE": path},
            volumes={
                place.names.volume("home"): str(HOME),
                place.names.volume("secrets"): f"{SECRETS_FOLDER}:ro",
            },
            # Tools of agents are written and run there.
            tmpfs={str(SANDBOX): f"rw,nosuid,nodev,size=256m,mode=0700,uid={SERVER_USER},gid={SERVER_USER}"},
            patience=DRAIN_SECONDS,
            wait=START_SECONDS,
        )  # fmt: skip
        self.names = [
            place.names.server(digest, number + 1)
            for number in range(place.settings.containers.replicas)
        ]
        self.ready: list[docker.Container] = []
        for number, name in enumerate(self.names, 1):
            # The first may write what all share (base tools, providers); the others follow it.
            behind = [file, *after, *self.ready[:1]]
            opts = pulumi.ResourceOptions(parent=self, depends_on=behind)
            self.ready.append(
                container(place, f"{SERVICE_SERVER}-{digest}-{number}", name, shape, opts)
            )
        self.register_outputs({})


def _environment(
    place: Place, uri: Sensitive, more: Mapping[str, str | Sensitive]
) -> dict[str, str]:
    secrets = place.secrets
    made = server_environment(
        uri, secrets["server-password"], secrets["encryption-key"], HOME, SANDBOX
    )
    return {name: str(revealed(value)) for name, value in {**made, **more}.items()}


def _networks(place: Place) -> list[str]:
    names, settings = place.names, place.settings.containers
    cache = [names.cache_network] if settings is not None and settings.redis else []
    return [names.inner_network, names.outer_network, *cache]


def _digest(place: Place, document: str, image: str, memory: int) -> str:
    """Eight digits that change with anything the server starts from, and say nothing of its secrets."""
    key = place.secrets["encryption-key"].reveal().encode()
    whole = json.dumps([document, image, memory, _networks(place)])
    return hmac.new(key, whole.encode(), hashlib.sha256).hexdigest()[:8]


def _hidden(value: str | Sensitive) -> bool:
    return isinstance(value, Sensitive)
