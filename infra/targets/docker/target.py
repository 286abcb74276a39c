"""The target docker: Postgres, servers and a proxy in hardened containers of our own images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.database.claim import CLAIMED
from infra.embedded import supervisor
from infra.errors import LettaOpsError
from infra.pulumi_cli.recovery import ids_of, unfinished
from infra.stack.deployment import Deployment
from infra.stack.keys import Reading, read
from infra.stack.locations import StackFolder
from infra.stack.profile import remember, remembered
from infra.stack.secrets import kept_value
from infra.stack.settings import Settings
from infra.targets.docker import settings as own
from infra.targets.docker.names import IDENTIFIER, Names
from infra.targets.target import Host, Installation, Requirement, data_is_there

ENGINE_SECONDS = 10.0
# What the engine's `info` calls them.
LIMITS = {"memory": "MemoryLimit", "processes": "PidsLimit"}
KINDS = ("docker:index/container:Container", "docker:index/network:Network")


class Docker:
    """See `infra.targets.target.Target`."""

    settings = own.DockerSettings
    refreshes = True  # a container may have been changed or removed by hand

    def declare(self, folder: StackFolder, settings: Settings) -> None:
        from infra.targets.docker.program import declare

        declare(folder, own.docker_settings(settings))

    def environment(self) -> Mapping[str, str]:
        from infra.targets.docker.engine.address import variables

        return variables()

    def remove_unfinished(
        self, folder: StackFolder, configuration: Mapping[str, Any], state: Mapping[str, Any]
    ) -> Sequence[str]:
        from infra.targets.docker.removal import remove_unfinished

        deployment = remembered(folder.profile, "id")
        if deployment is None:
            return ()
        names = own.names_of(folder.stack, configuration)
        making, known = unfinished(state, KINDS), ids_of(state, KINDS)
        return remove_unfinished(names, str(deployment), making, known)

    def explain(
        self, folder: StackFolder, configuration: Mapping[str, Any], message: str
    ) -> LettaOpsError | None:
        from infra.targets.docker.failure import explain_failure

        return explain_failure(message)

    def remove(
        self, folder: StackFolder, configuration: Mapping[str, Any], *, delete_data: bool
    ) -> None:
        from infra.targets.docker.removal import remove_all

        supervisor.stop(folder)  # the scheduler's keeper
        names = own.names_of(folder.stack, configuration)
        remove_all(names, kept_value(folder, "id"), delete_data)

    def data(self, folder: StackFolder, configuration: Mapping[str, Any]) -> Sequence[str]:
        names = own.names_of(folder.stack, configuration)
        kinds = ("home",) if remembered(folder.profile, CLAIMED) else ("database", "home")
        return [f"volume {names.volume(kind)}" for kind in kinds]

    def forget_lost_data(self, folder: StackFolder, configuration: Mapping[str, Any]) -> None:
        from infra.targets.docker.engine.client import engine, find_volume

        if remembered(folder.profile, CLAIMED):
            raise data_is_there("the external database", "see docs/external-database.md")
        volume = own.names_of(folder.stack, configuration).volume("database")
        with engine() as client:
            if find_volume(client, volume) is not None:
                raise data_is_there(
                    f"the volume {volume}", f"docker volume rm {volume}, if it is empty,"
                )
        remember(folder.profile, {IDENTIFIER: None})
        folder.agent_count.unlink(missing_ok=True)

    def requirements(
        self, folder: StackFolder, configuration: Mapping[str, Any], *, chosen: bool
    ) -> Iterator[Requirement]:
        yield container_engine(needed=chosen)
        if chosen:
            yield _published(folder.stack, configuration)

    def client_requirements(self) -> Iterator[Requirement]:
        yield container_engine(needed=True)

    def installation(self, name: str) -> Installation | None:
        from infra.targets.docker.foreign import installation

        return installation(name)

    def host(self, deployment: Deployment) -> Host | None:
        from infra.targets.docker.host import DockerHost

        prefix = deployment.placement.get("containers.prefix")
        if prefix is None:
            return None
        container = deployment.placement.get("database.container")
        return DockerHost(deployment, Names(prefix), container)


def container_engine(needed: bool) -> Requirement:
    """The Docker engine. None at all is a failure only for a stack that runs in containers."""
    from infra.targets.docker.engine.address import address
    from infra.targets.docker.engine.client import engine

    try:
        with engine(ENGINE_SECONDS) as client:
            facts = client.info()
    except LettaOpsError as error:
        if needed:
            return Requirement("docker", False, error.message, error.hint)
        return Requirement(
            "docker", True, f"{error.message}; only stacks of target docker need one"
        )
    parts = [
        f"engine {facts.get('ServerVersion')} at {address()}",
        f"storage {facts.get('Driver')}",
        f"cgroup v{facts.get('CgroupVersion', '1')}",
    ]
    if any("rootless" in option for option in facts.get("SecurityOptions") or ()):
        parts.append("rootless")
    unlimited = [word for word, key in LIMITS.items() if facts.get(key) is False]
    if unlimited:
        parts.append(f"can't limit {' and '.join(unlimited)}")
    return Requirement(
        "docker",
        not (needed and unlimited),
        ", ".join(parts),
        "let the engine's kernel and cgroups limit containers (Debian: cgroup_enable=memory)"
        if unlimited
        else "",
    )


def _published(stack: str, configuration: Mapping[str, Any]) -> Requirement:
    """The one port that a stack of containers has on this machine."""
    from infra.targets.docker.engine.client import engine
    from infra.targets.docker.port import ensure_port

    reading = Reading()
    ours = {name: configuration.get(name, "") for name in ("server.port", "server.bind")}
    server = read(own.DockerServerSection, ours, reading)
    if reading.problems:
        hint = f"correct it: `letta-ops --stack {stack} up --config KEY=VALUE`"
        return Requirement("ports", False, "; ".join(reading.problems), hint)
    names = own.names_of(stack, configuration)
    try:
        with engine(ENGINE_SECONDS) as client:
            ensure_port(client, stack, names, server.bind, server.port)
    except LettaOpsError as error:
        return Requirement("ports", False, error.message, error.hint)
    return Requirement("ports", True, f"free, or this stack's own: {server.port} (server.port)")
