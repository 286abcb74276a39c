"""The target local: Postgres, the Letta server and a model as processes of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.embedded import supervisor
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.stack.keys import Reading, keys_of, read
from infra.stack.locations import StackFolder
from infra.stack.settings import Settings
from infra.targets.local.settings import LocalSettings, local_settings
from infra.targets.target import Host, Installation, Requirement, data_is_there


class Local:
    """See `infra.targets.target.Target`."""

    settings = LocalSettings
    refreshes = False  # each provider looks at its own thing whenever it is asked for a difference

    def environment(self) -> Mapping[str, str]:
        return {}

    def declare(self, folder: StackFolder, settings: Settings) -> None:
        from infra.targets.local.program import declare

        declare(folder, local_settings(settings))

    def remove_unfinished(
        self, folder: StackFolder, configuration: Mapping[str, Any], state: Mapping[str, Any]
    ) -> Sequence[str]:
        return ()

    def explain(
        self, folder: StackFolder, configuration: Mapping[str, Any], message: str
    ) -> LettaOpsError | None:
        return None

    def remove(
        self, folder: StackFolder, configuration: Mapping[str, Any], *, delete_data: bool
    ) -> None:
        supervisor.stop(folder)  # also what Pulumi's state knew nothing of

    def data(self, folder: StackFolder, configuration: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def forget_lost_data(self, folder: StackFolder, configuration: Mapping[str, Any]) -> None:
        if folder.has_data:
            raise data_is_there(str(folder.postgres_data), f"mv {folder.postgres_data}")

    def requirements(
        self, folder: StackFolder, configuration: Mapping[str, Any], *, chosen: bool
    ) -> Iterator[Requirement]:
        if chosen:
            yield _ports(folder, configuration)

    def client_requirements(self) -> Iterator[Requirement]:
        return iter(())

    def installation(self, name: str) -> Installation | None:  # none has a name
        return None

    def host(self, deployment: Deployment) -> Host | None:
        from infra.targets.local.host import LocalHost

        # A profile may have been copied here from the machine that it describes.
        folder = deployment.folder
        return LocalHost(deployment, folder) if folder and folder.root.is_dir() else None


def _ports(folder: StackFolder, configuration: Mapping[str, Any]) -> Requirement:
    from infra.targets.local.preflight import taken_ports

    # What else is wrong with the configuration is no matter of ports.
    ours = [*(name for name in keys_of(LocalSettings) if name.endswith("port")), "model"]
    reading = Reading()
    settings = read(LocalSettings, {name: configuration.get(name, "") for name in ours}, reading)
    if taken := [*reading.problems, *taken_ports(folder, settings)]:
        hint = f"end the other program, or `letta-ops --stack {folder.stack} up --config KEY=PORT`"
        return Requirement("ports", False, "; ".join(taken), hint)
    ports = ", ".join(f"{port} ({name})" for name, port in settings.ports.items())
    return Requirement("ports", True, f"free, or this stack's own: {ports}")
