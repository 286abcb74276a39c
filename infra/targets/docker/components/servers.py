"""The Letta servers of the docker target: named after their configuration, never published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pulumi

from infra.sensitive import Sensitive, revealed
from infra.stack.deployment import SERVICE_SERVER
from infra.stack.server_environment import (
    IMPORT_FIRST,
    SECRETS,
    launch_document,
    secret_values,
    server_environment,
)
from infra.targets.docker.components.base import Base
from infra.targets.docker.components.container import SHAPE_DIGEST, Shape, container, own_tmpfs
from infra.targets.docker.components.context import StackContext
from infra.targets.docker.components.inputs import secret_file
from infra.targets.docker.names import LAUNCH, PYTHON, SECRETS_FOLDER, SERVER_PORT, SERVER_USER

HOME = PurePosixPath("/home/letta")
SANDBOX = PurePosixPath("/sandbox")
DRAIN_SECONDS = 300  # requests at hand are answered before a server that was replaced ends
PROCESSES = 1024


class Servers(pulumi.ComponentResource):
    """Outputs: `names` and `ids` of the containers and the `alias` that they share, `ready` to wait
    for, and `hidden` (what logs must not show).
    """

    def __init__(
        self,
        context: StackContext,
        base: Base,
        uri: Sensitive,
        more: Mapping[str, str | Sensitive],
        after: Sequence[pulumi.Resource],
    ) -> None:
        super().__init__("letta-ops:docker:Servers", "servers")
        environment = _environment(context, uri, more)
        secret_names = [*SECRETS, *(key for key, value in more.items() if _hidden(value))]
        self.hidden = secret_values(environment, secret_names)
        document = launch_document(environment, secret_names, IMPORT_FIRST)
        nameless = {**vars(_shape(context, base, "")), "wait": 0, "image": base.images["letta"].tag}
        digest = _digest(context, [document, nameless])
        shape = replace(_shape(context, base, digest), hidden=self.hidden)
        self.alias = shape.alias
        file = secret_file(
            context,
            f"server-environment-{digest}",
            base.images["letta"].tag,
            f"server-{digest}.json",
            SERVER_USER,
            Sensitive(document),
            pulumi.ResourceOptions(parent=self, depends_on=base.ready),
        )
        self.names = [
            context.names.server(digest, number + 1)
            for number in range(context.settings.server.replicas)
        ]
        self.ids: list[pulumi.Output[str]] = []
        self.ready: list[pulumi.Resource] = []
        for number, name in enumerate(self.names, 1):
            # The first may write what all share (base tools, providers); the others follow it.
            behind = [file, *after, *self.ready[:1]]
            opts = pulumi.ResourceOptions(parent=self, depends_on=behind)
            started = container(context, f"{SERVICE_SERVER}-{digest}-{number}", name, shape, opts)
            self.ids.append(started.id)
            self.ready.append(started.ready)
        self.register_outputs({})


def _environment(
    context: StackContext, uri: Sensitive, more: Mapping[str, str | Sensitive]
) -> dict[str, str]:
    secrets = context.secrets
    made = server_environment(
        uri, secrets["server-password"], secrets["encryption-key"], HOME, SANDBOX
    )
    return {name: str(revealed(value)) for name, value in {**made, **more}.items()}


def _networks(context: StackContext) -> list[str]:
    names, chosen = context.names, context.settings
    database = [chosen.database.network] if chosen.database.network else []
    return [names.inner_network, names.outer_network, names.cache_network, *database]


def _shape(context: StackContext, base: Base, digest: str) -> Shape:
    path = f"{SECRETS_FOLDER}/server-{digest}.json"
    chosen = context.settings
    return Shape(
        service=SERVICE_SERVER,
        image=base.images["letta"],
        networks=_networks(context),
        alias=f"{SERVICE_SERVER}-{digest}",
        memory=chosen.server.memory,
        processes=PROCESSES,
        command=[
            PYTHON, LAUNCH, path, "letta.main:app",
            "server", "--secure", "--host", "0.0.0.0", "--port", str(SERVER_PORT),  # noqa: S104
        ],
        environment={"LETTA_OPS_ENVIRONMENT_FILE": path},
        volumes={
            context.names.volume("home"): str(HOME),
            context.names.volume("secrets"): f"{SECRETS_FOLDER}:ro",
        },
        # Tools of agents are written and run there; packages that they require may hold programs.
        tmpfs={str(SANDBOX): own_tmpfs(SERVER_USER, 512, "mode=0700", "exec")},
        patience=DRAIN_SECONDS,
        wait=chosen.server.start_seconds,
    )  # fmt: skip


def _digest(context: StackContext, parts: list[Any]) -> str:
    """Changes with anything the server is made from.

    So also with an update of ours that changes how containers are made: a container of the same
    name would be replaced by ending it first.
    """
    return context.digest(json.dumps([*parts, SHAPE_DIGEST], sort_keys=True))


def _hidden(value: str | Sensitive) -> bool:
    return isinstance(value, Sensitive)
