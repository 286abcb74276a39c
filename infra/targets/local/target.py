"""The target local: Postgres, the Letta server and a model as processes of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.embedded import supervisor
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.stack.locations import StackFolder
from infra.stack.settings import ModelChoice, Reader, Settings
from infra.targets.local import settings as own
from infra.targets.target import Host, Requirement


class LocalPart:
    """See `infra.stack.settings.TargetPart`."""

    keys = own.DEFAULTS
    lowest_port = own.LOWEST_PORT

    def parse(self, reader: Reader, model: ModelChoice) -> own.LocalSettings:
        return own.parse_ports(reader, model)


class Local:
    """See `infra.targets.target.Target`."""

    part = LocalPart()
    refreshes = False  # each provider looks at its own thing whenever it is asked for a difference

    def declare(self, folder: StackFolder, settings: Settings) -> None:
        from infra.targets.local.program import declare

        declare(folder, settings)

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

    def requirements(
        self, folder: StackFolder, configuration: Mapping[str, Any], *, chosen: bool
    ) -> Iterator[Requirement]:
        if chosen:
            yield _ports(folder, configuration)

    def client_requirements(self) -> Iterator[Requirement]:
        return iter(())

    def host(self, deployment: Deployment) -> Host | None:
        from infra.targets.local.host import LocalHost

        # A profile may have been copied here from the machine that it describes.
        folder = deployment.folder
        return LocalHost(deployment, folder) if folder and folder.root.is_dir() else None


def _ports(folder: StackFolder, configuration: Mapping[str, Any]) -> Requirement:
    from infra.stack.settings import parse
    from infra.targets.local.preflight import taken_ports

    # What else is wrong with the configuration is no matter of ports.
    values = {name: configuration[name] for name in (*own.PORTS, "model") if name in configuration}
    try:
        settings = own.local_settings(parse(folder.stack, values, {"": LocalPart()}, ""))
        taken = list(taken_ports(folder, settings))
    except LettaOpsError as error:
        return Requirement("ports", False, error.message, error.hint)
    if taken:
        hint = f"end the other program, or `letta-ops --stack {folder.stack} up --config KEY=PORT`"
        return Requirement("ports", False, "; ".join(taken), hint)
    ports = ", ".join(f"{port} ({name})" for name, port in settings.ports.items())
    return Requirement("ports", True, f"free, or this stack's own: {ports}")
