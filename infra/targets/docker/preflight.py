"""What must be true before the docker target makes anything: engine, data, port, space."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from infra.database.claim import CLAIMED
from infra.errors import LettaOpsError
from infra.stack.deployment import (
    SERVICE_MODEL,
    SERVICE_POSTGRES,
    SERVICE_PROXY,
    SERVICE_REDIS,
)
from infra.stack.locations import StackFolder, cache_folder, ensure_writable
from infra.stack.profile import remembered
from infra.stack.secrets import StackSecrets
from infra.targets.docker import agent_guard
from infra.targets.docker.engine.client import engine, find_container, find_volume
from infra.targets.docker.names import IDENTIFIER, LABEL_PREFIX, Names
from infra.targets.docker.port import ensure_port
from infra.targets.docker.providers.cluster import ensure_home, ensure_volume
from infra.targets.docker.providers.database_preflight import ensure_usable
from infra.targets.docker.settings import DockerSettings

if TYPE_CHECKING:
    from docker import DockerClient

NEW_BYTES = 4 * 1024**3  # images, and room to grow
RUNNING_BYTES = 200 * 1024**2


def ensure_possible(folder: StackFolder, settings: DockerSettings, secrets: StackSecrets) -> None:
    """Raise LettaOpsError when the stack can't be made here; nothing has been touched then."""
    chosen = settings
    names = chosen.names
    if secrets.key_lost:
        raise LettaOpsError(
            "profile-lost",
            f"{folder.profile} knows this deployment, but not its encryption key",
            "put your copy of the file back: a new key could not read what the old one has"
            f" encrypted. `letta-ops --stack {folder.stack} up` looks for it in Pulumi's state too",
        )
    ensure_writable(folder.root)
    ensure_writable(cache_folder())
    with engine() as client:
        _ensure_space(client, names)
        _ensure_no_strangers(client, folder, settings)
        ensure_port(client, settings.stack, names, chosen.server.bind, settings.server.port)
        if chosen.external is None:
            _ensure_known(client, folder, names, secrets)
            _ensure_alone(client, names)
    recorded = remembered(folder.profile, IDENTIFIER)
    if chosen.external is None:
        ensure_volume(folder, names, recorded)
    else:
        ensure_usable(folder, settings, secrets)
    if recorded is not None or remembered(folder.profile, CLAIMED):
        ensure_home(names)
    agent_guard.count_before(
        folder,
        {"uri": chosen.external.direct.reveal()}
        if chosen.external
        else {"container": names.container(SERVICE_POSTGRES)},
        secrets.id,
    )


def _ensure_known(
    client: DockerClient, folder: StackFolder, names: Names, secrets: StackSecrets
) -> None:
    """A volume with data, and no profile with the key to it: a new key couldn't read the old data."""
    if not secrets.fresh or find_volume(client, names.volume("database")) is None:
        return
    raise LettaOpsError(
        "profile-lost",
        f"the volume {names.volume('database')} is there already, but {folder.profile} knows no"
        " secrets for it",
        f"put your copy of {folder.profile.name} back, or choose another name with"
        f" `letta-ops --stack {folder.stack} up --config containers.prefix=NAME`; to begin anew,"
        f" remove the volume: `docker volume rm {names.volume('database')}`",
    )


def _ensure_no_strangers(
    client: DockerClient, folder: StackFolder, settings: DockerSettings
) -> None:
    """What has a name of ours and isn't ours is in the way, and never taken for ours."""
    names = settings.names
    services = [SERVICE_PROXY, SERVICE_REDIS]  # servers have a digest in their names
    services += [SERVICE_POSTGRES] if settings.external is None else []
    services += [SERVICE_MODEL] if settings.model != "none" else []
    containers = {
        str(each.name): each.labels
        for each in client.containers.list(all=True, ignore_removed=True)
        if each.name in [names.container(service) for service in services]
    }
    networks = {
        str(each.name): each.attrs.get("Labels") or {}
        for each in client.networks.list(names=list(names.networks))
        if each.name in names.networks
    }
    for kind, found in (("container", containers), ("network", networks)):
        for name, labels in found.items():
            if labels.get(LABEL_PREFIX) != names.prefix:
                raise LettaOpsError(
                    "name-taken",
                    f"a {kind} {name} is on the engine, and not of letta-ops",
                    f"remove it (`docker {kind} rm {name}`), or choose other names:"
                    f" `letta-ops --stack {folder.stack} up --config containers.prefix=NAME`",
                )


def _ensure_alone(client: DockerClient, names: Names) -> None:
    """Two servers on one data folder destroy it: Postgres' own lock doesn't see into containers."""
    volume = names.volume("database")
    using = client.containers.list(filters={"volume": volume}, ignore_removed=True)
    others = [each for each in using if each.labels.get(LABEL_PREFIX) != names.prefix]
    if others:
        raise LettaOpsError(
            "volume-in-use",
            f"the volume {volume} is in use by {', '.join(str(each.name) for each in others)}",
            f"stop it (`docker stop {others[0].name}`), then run the same command again",
        )


def _ensure_space(client: DockerClient, names: Names) -> None:
    """Where the engine's folder is on this machine: elsewhere its disk can't be seen."""
    root = str(client.info().get("DockerRootDir") or "")
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        return  # it is elsewhere, or only root may look
    running = find_container(client, names.container(SERVICE_PROXY)) is not None
    needed = RUNNING_BYTES if running else NEW_BYTES
    if free < needed:
        raise LettaOpsError(
            "disk-full",
            f"only {free / 1024**2:.0f} MiB are free for the Docker engine ({root}); the stack needs"
            f" {needed / 1024**2:.0f} MiB",
            "free some space: `docker system df` shows what takes it",
        )
