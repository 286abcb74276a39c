"""Before anything is made on a Postgres that is there already: can Letta's own drivers use it?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from infra.database.claim import CLAIMED
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.stack.profile import remembered
from infra.stack.secrets import StackSecrets
from infra.targets.docker.engine.client import engine, find_image
from infra.targets.docker.engine.oneshot import Job, run_once
from infra.targets.docker.images.recipes import tag
from infra.targets.docker.names import PYTHON, SOURCE, Names
from infra.targets.docker.providers.built_image import BuiltImage
from infra.targets.docker.settings import DockerSettings
from infra.targets.external_database.preflight import PROBE, ensure_fit, from_here
from infra.targets.external_database.rules import Wanted, as_error
from infra.targets.providers.provider import Properties, Provider

BRIDGE = "bridge"  # Docker's own network: the stack's aren't there yet
SECONDS = 180.0


class DatabaseCheck(Provider):
    """Inputs: those of `BuiltImage` for Letta's image, `prefix`, `servers` and `direct` (URLs),
    `own_direct`, `network`, `replicas`, `pool_size`, `deployment_id`, `has_key`, `looked`.

    The first resource of a stack on an external database; everything else waits for it. `looked`
    says that the program has done it already, which it does when it finds the image.
    """

    compared: ClassVar[tuple[str, ...]] = (
        "tag", "servers", "direct", "network", "replicas", "pool_size", "deployment_id",
    )  # fmt: skip

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        if not inputs["looked"]:
            BuiltImage().make(folder, inputs)
            wanted = Wanted(
                inputs["deployment_id"],
                inputs["release"],
                inputs["replicas"],
                inputs["pool_size"],
                bool(inputs["own_direct"]),
                bool(inputs["has_key"]),
                claimed=bool(remembered(folder.profile, CLAIMED)),
            )
            servers, direct = Sensitive(inputs["servers"]), Sensitive(inputs["direct"])
            names = Names(inputs["prefix"])
            ensure_fit(
                servers, direct, wanted, partial(look, names, inputs["tag"], inputs["network"])
            )
        return folder.stack, {}


def image_is_there(settings: DockerSettings) -> bool:
    """Whether Letta's image is on the engine, so that the program itself can look."""
    with engine() as client:
        wanted = tag("letta", settings.release, settings.image)
        return find_image(client, wanted) is not None


def ensure_usable(folder: StackFolder, settings: DockerSettings, secrets: StackSecrets) -> None:
    """Raise LettaOpsError with everything that speaks against the external database.

    Looks from inside a container when the image is there; else only whether this machine reaches
    it: `DatabaseCheck` does the rest when it has built the image.
    """
    database = settings.external
    assert database is not None  # noqa: S101  # called for an external database only
    url, direct = database.url, database.direct
    _ensure_network(settings.database.network)
    if not image_is_there(settings):
        if found := from_here(direct):
            raise as_error([found])
        return
    wanted = Wanted(
        secrets.id,
        settings.release,
        settings.server.replicas,
        settings.database.pool_size,
        own_direct=direct is not url,
        has_key=not secrets.fresh,
        claimed=bool(remembered(folder.profile, CLAIMED)),
    )
    image = tag("letta", settings.release, settings.image)
    ensure_fit(url, direct, wanted, partial(look, settings.names, image, settings.database.network))


def look(
    names: Names,
    image: str,
    network: str,
    asked: Mapping[str, Any],
    secrets: tuple[Sensitive, ...],
) -> Any:
    """Run the probe in a container of `image`, and return its document."""
    job = Job(
        names.container("preflight"),
        image,
        [PYTHON, "-c", PROBE.read_text()],
        names.labels("preflight"),
        networks=[BRIDGE, *([network] if network else [])],
        stdin=json.dumps({**asked, "versions": f"{SOURCE}/alembic/versions"}),
        timeout=SECONDS,
        secrets=secrets,
    )
    done = run_once(job)
    try:
        return json.loads(done.lines[-1])
    except (IndexError, ValueError):
        tail = "\n".join(f"    {line}" for line in done.lines[-5:])
        raise LettaOpsError(
            "database-preflight",
            f"the external database could not be looked at (exit code {done.code}):\n{tail}",
            "see whether Postgres is well, and its log; then run the same command again",
        ) from None


def _ensure_network(network: str) -> None:
    if not network:
        return
    import docker.errors

    with engine() as client:
        try:
            client.networks.get(network)
        except docker.errors.NotFound:
            raise LettaOpsError(
                "network-missing",
                f"there is no Docker network {network} (database.network)",
                "name the one that the database is in: `docker network ls`",
            ) from None
