"""The Docker Engine: reaching it, and its failures in words that a person can act on.

Which engine that is, `address` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.process import TAIL_LINES
from infra.sensitive import Sensitive, redact
from infra.targets.docker.engine.address import address
from infra.targets.docker.names import LABEL_PREFIX, LABEL_SERVICE

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image
    from docker.models.volumes import Volume

OLDEST_API = (1, 41)  # Engine 20.10: what HostConfig.Init, PidsLimit and health need is older
TIMEOUT_SECONDS = 120


@contextmanager
def engine(timeout: float = TIMEOUT_SECONDS) -> Iterator[DockerClient]:
    """Yield a client for the engine; what goes wrong inside comes out as LettaOpsError.

    Raises LettaOpsError: `no-engine`, `engine-permission`, `engine-too-old`, `engine-over-ssh`,
    `image-missing`, `port-taken`, `disk-full`, or `engine` with the engine's own words.
    """
    import docker
    import docker.errors
    import requests.exceptions

    if address().startswith("ssh://"):
        raise over_ssh()
    try:
        client = docker.from_env(timeout=int(timeout))
        _ensure_new_enough(client.version())
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise unreachable(error) from None
    try:
        yield client
    except docker.errors.ImageNotFound as error:
        raise missing_image(error.explanation or str(error)) from None
    except docker.errors.APIError as error:
        raise explain(str(error.explanation or error)) from None
    except requests.exceptions.RequestException as error:
        raise unreachable(error) from None
    finally:
        client.close()


def own_containers(
    client: DockerClient, prefix: str, service: str | None = None
) -> list[Container]:
    """Every container of the stack (running or not), oldest first; `service` narrows it."""
    labels = [f"{LABEL_PREFIX}={prefix}"]
    if service is not None:
        labels.append(f"{LABEL_SERVICE}={service}")
    found = client.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
    return sorted(found, key=lambda container: str(container.attrs["Created"]))


def find_container(client: DockerClient, name: str) -> Container | None:
    import docker.errors

    try:
        return client.containers.get(name)
    except docker.errors.NotFound:
        return None


def find_image(client: DockerClient, name: str) -> Image | None:
    import docker.errors

    try:
        return client.images.get(name)
    except docker.errors.ImageNotFound:
        return None


def find_volume(client: DockerClient, name: str) -> Volume | None:
    import docker.errors

    try:
        return client.volumes.get(name)
    except docker.errors.NotFound:
        return None


def is_well(container: Container) -> bool:
    """Whether it runs, and is healthy where it has a health check."""
    health = container.attrs["State"].get("Health", {}).get("Status", "healthy")
    return container.status == "running" and health == "healthy"


def last_lines(name: str, secrets: Iterable[Sensitive], count: int = TAIL_LINES) -> str:
    """The last lines of a container's log, redacted and indented, for an error's message."""
    with engine() as client:
        found = find_container(client, name)
        raw = b"" if found is None else found.logs(tail=count)
    text = redact(raw.decode(errors="replace").rstrip(), secrets)
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    (it is empty)"


def over_ssh() -> LettaOpsError:
    server = address().removeprefix("ssh://")
    return LettaOpsError(
        "engine-over-ssh",
        f"the Docker engine at {address()} would be reached over SSH, which Pulumi's side can't",
        f"forward its socket: `ssh -nNT -L $PWD/docker.sock:/var/run/docker.sock {server}`, then"
        " DOCKER_HOST=unix://$PWD/docker.sock; what the stack publishes is on that machine's loopback",
    )


def unreachable(error: BaseException) -> LettaOpsError:
    message = str(error)
    if "Permission denied" in message or "PermissionError" in message:
        return LettaOpsError(
            "engine-permission",
            f"this user may not use the Docker engine at {address()}",
            "add the user to the group `docker` (it is as powerful as root) and log in again, run"
            " as root, or name a rootless engine with DOCKER_HOST",
        )
    return LettaOpsError(
        "no-engine",
        f"no Docker engine answers at {address()}",
        "start it (`systemctl start docker`), install one (Debian: docker.io), or name another"
        " with DOCKER_HOST",
    )


def missing_image(message: str) -> LettaOpsError:
    return LettaOpsError(
        "image-missing",
        f"an image is not on the engine and can't be pulled: {message}",
        "run `letta-ops up` again: it builds our images; where nothing can be pulled, name a base"
        " image that is there with `--config image.base=NAME`",
    )


# What the engine says -> code, and the next step.
KNOWN = (
    ("port is already allocated", "port-taken",
     "end the other program, or choose another port: `letta-ops up --config server.port=PORT`"),
    ("address already in use", "port-taken",
     "end the other program, or choose another port: `letta-ops up --config server.port=PORT`"),
    ("no space left on device", "disk-full",
     "free space on the engine's disk (see `docker system df`), then run the same command again"),
    ("No such image", "image-missing",
     "run `letta-ops up` again: it builds our images"),
    ("pull access denied", "image-missing",
     "run `letta-ops up` again: it builds our images"),
    ("volume is in use", "volume-in-use",
     "stop the containers that the message names, then run the same command again"),
    ("Pool overlaps", "network-exhausted",
     "remove networks that nobody uses: `docker network prune`"),
    ("could not find an available", "network-exhausted",
     "remove networks that nobody uses: `docker network prune`"),
    ("address pools have been fully subnetted", "network-exhausted",
     "remove networks that nobody uses: `docker network prune`"),
    ("configured logging driver does not support reading", "engine-keeps-no-logs",
     "set a log-driver that can be read in the engine's daemon.json (json-file, local, journald)"),
)  # fmt: skip


def explain(message: str) -> LettaOpsError:
    """Turn the engine's own words into our error."""
    for mark, code, hint in KNOWN:
        if mark.lower() in message.lower():
            return LettaOpsError(code, f"the Docker engine says: {message.strip()}", hint)
    return LettaOpsError(
        "engine",
        f"the Docker engine says: {message.strip()}",
        "mend the cause, then run the same command again: nothing is lost",
    )


def _ensure_new_enough(version: dict[str, Any]) -> None:
    api = str(version.get("ApiVersion", "0"))
    if tuple(int(part) for part in api.split(".")) < OLDEST_API:
        needed = ".".join(str(part) for part in OLDEST_API)
        raise LettaOpsError(
            "engine-too-old",
            f"the Docker engine {version.get('Version')} speaks API {api}; {needed} is needed",
            "update it to Docker Engine 20.10 or newer",
        )
