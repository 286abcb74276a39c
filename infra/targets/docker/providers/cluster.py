"""The Postgres cluster in its volume: made once, recognised for ever, never silently replaced.

The container's start never makes one: a volume that is missing, empty or somebody else's would look
like a working server without agents.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_POSTGRES
from infra.stack.locations import StackFolder
from infra.stack.profile import remember, remembered
from infra.targets.docker.engine.client import engine, find_container, find_volume
from infra.targets.docker.engine.oneshot import Job, ensure_done
from infra.targets.docker.images.recipes import VERSIONS
from infra.targets.docker.names import IDENTIFIER, LABEL_DEPLOYMENT, Names
from infra.targets.providers.provider import Properties, Provider

DATA_FOLDER = "/var/lib/postgresql/data"


@dataclass(frozen=True)
class Found:
    """What a volume holds: `empty`, `cluster` or `foreign` (files that are no cluster)."""

    state: str
    version: str = ""
    identifier: str = ""


class DatabaseCluster(Provider):
    """Inputs: `prefix`, `image`, `deployment_id`. Output: `identifier` (Postgres' system identifier).

    `make` runs initdb where there never was data; `remove` leaves the data alone.
    """

    outputs: ClassVar[tuple[str, ...]] = ("identifier",)

    compared: ClassVar[tuple[str, ...]] = ("prefix", "deployment_id", "image")

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        names = Names(inputs["prefix"])
        recorded = remembered(folder.profile, IDENTIFIER)
        ensure_volume(folder, names, recorded)
        found = examine(names, inputs["image"])
        if found.state == "foreign":
            raise _not_ours(folder, names, "holds files that are no database")
        if found.state == "empty":
            if recorded is not None:
                raise data_missing(folder, names, "is empty")
            _initdb(names, inputs["image"])
            found = examine(names, inputs["image"])
        elif recorded is None and _label(names) != inputs["deployment_id"]:
            raise _not_ours(folder, names, "holds the database of another deployment")
        if recorded not in (None, found.identifier):
            raise _not_ours(
                folder, names, f"holds cluster {found.identifier}, this stack's is {recorded}"
            )
        if found.version != VERSIONS["postgres"]:
            raise LettaOpsError(
                "database-version",
                f"the volume {names.volume('database')} holds a cluster of PostgreSQL"
                f" {found.version}, and this letta-ops brings {VERSIONS['postgres']}",
                "go on with the letta-ops that made it, until it is brought to the new version",
            )
        remember(folder.profile, {IDENTIFIER: found.identifier})
        return names.volume("database"), {"identifier": found.identifier}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        """Look into the volume, unless Postgres is serving from it right now."""
        names = Names(outputs["prefix"])
        recorded = remembered(folder.profile, IDENTIFIER)
        ensure_volume(folder, names, recorded)
        if recorded is None:
            return "the profile doesn't know the cluster"
        with engine() as client:
            running = find_container(client, names.container(SERVICE_POSTGRES))
            if running is not None and running.status == "running":
                return None
        found = examine(names, outputs["image"])
        same = found.state == "cluster" and found.identifier == recorded
        return None if same else f"the volume {names.volume('database')} holds something else"


def ensure_volume(folder: StackFolder, names: Names, recorded: Any) -> None:
    """Raise LettaOpsError (`data-missing`) when there was data and its volume is gone."""
    if recorded is not None and not _exists(names, "database"):
        raise data_missing(folder, names, "doesn't exist")


def ensure_home(names: Names) -> None:
    """Raise LettaOpsError (`data-missing`) when the volume with the agents' memory files is gone."""
    if not _exists(names, "home"):
        volume = names.volume("home")
        raise LettaOpsError(
            "data-missing",
            f"the volume {volume} doesn't exist, but this deployment has data: the memory that"
            " agents keep in files was in it",
            f"bring the volume back; to go on without, run `docker volume create {volume}`, and restore a"
            " backup, which has that memory",
        )


def examine(names: Names, image: str) -> Found:
    """Say what the database's volume holds; changes nothing."""
    job = Job(
        f"{names.prefix}-examine",
        image,
        ["/usr/local/bin/letta-ops-cluster"],
        names.labels("examine"),
        volumes={names.volume("database"): f"{DATA_FOLDER}:ro"},
    )
    hint = "look at the volume with `docker run`; nothing has been changed"
    lines = ensure_done(job, "database-volume", hint, "looking into the database's volume")
    answer = json.loads(lines[-1])
    return Found(answer["state"], answer.get("version") or "", answer.get("identifier") or "")


def data_missing(folder: StackFolder, names: Names, what: str) -> LettaOpsError:
    return LettaOpsError(
        "data-missing",
        f"the volume {names.volume('database')} {what}, but {folder.profile} says that this"
        " deployment has data: nothing was made, because a new database would look like total loss",
        "bring the volume back (a copy, another engine: is DOCKER_HOST right?); or begin with an empty"
        f" database and restore a backup: `letta-ops --stack {folder.stack} up --data-lost`, then"
        f" `letta-ops --stack {folder.stack} backup restore latest`",
    )


def _not_ours(folder: StackFolder, names: Names, what: str) -> LettaOpsError:
    return LettaOpsError(
        "data-foreign",
        f"the volume {names.volume('database')} {what}: nothing was touched",
        f"choose another name with `letta-ops --stack {folder.stack} up --config"
        " containers.prefix=NAME`, or put this deployment's volume and profile back",
    )


def _initdb(names: Names, image: str) -> None:
    job = Job(
        f"{names.prefix}-initdb",
        image,
        ["/usr/local/bin/letta-ops-initdb"],
        names.labels("initdb"),
        volumes={names.volume("database"): DATA_FOLDER},
        tmpfs=("/tmp", "/run/postgresql"),  # noqa: S108  # inside the container
    )
    hint = "read the lines above; run the same command again when the cause is mended"
    ensure_done(job, "initdb", hint, "making the database cluster")


def _exists(names: Names, what: str) -> bool:
    with engine() as client:
        return find_volume(client, names.volume(what)) is not None


def _label(names: Names) -> str | None:
    with engine() as client:
        found = find_volume(client, names.volume("database"))
    labels = (found.attrs.get("Labels") if found is not None else None) or {}
    return labels.get(LABEL_DEPLOYMENT)
