"""The Docker engine: how it is reached, what it says when it refuses, and its images."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker.utils
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from requests.exceptions import RequestException

SECONDS = 120.0  # for one answer of the engine
LOCAL = "unix:///var/run/docker.sock"


class ResourceError(Exception):
    """Why something could not be done, as one sentence for a person."""


class InitializationError(ResourceError):
    """It was made, and then something failed: it stays in the state, with the errors beside it."""

    def __init__(self, message: str, identity: str) -> None:
        super().__init__(message)
        self.identity = identity


class Engine:
    """A connection to the engine, made when it is first needed; for all threads of the plugin."""

    def __init__(self, host: str | None = None, interrupted: threading.Event | None = None) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._client: APIClient | None = None
        self.interrupted = interrupted or threading.Event()

    @property
    def client(self) -> APIClient:
        with self._lock:
            if self._client is None:
                self._client = self._connected()
            return self._client

    def _connected(self) -> APIClient:
        settings: dict[str, Any] = dict(docker.utils.kwargs_from_env())
        if self._host:
            settings["base_url"] = self._host
        host = settings.get("base_url", LOCAL)
        try:
            return APIClient(version="auto", timeout=SECONDS, **settings)  # type: ignore[arg-type]
        except (DockerException, RequestException):
            raise ResourceError(
                f"the Docker engine at {host} cannot be reached: is it running, and may this user"
                " use it? (DOCKER_HOST or the provider's `host` names another one)"
            ) from None


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn the engine's refusals of the block into a ResourceError that begins with `what`."""
    try:
        yield
    except (DockerException, RequestException) as error:
        raise ResourceError(f"{what}: {sentence(error)}") from None


def sentence(error: Exception) -> str:
    """What the engine said, on one line."""
    words = error.explanation if isinstance(error, APIError) else None
    text = words.decode(errors="replace") if isinstance(words, bytes) else words
    return " ".join(str(text or error).split())


def ensure_image(engine: Engine, name: str, platform: str | None = None) -> dict[str, Any]:
    """Return the engine's description of an image, pulling it when it is not there."""
    with told(f"unable to look for image {name}"):
        if found := find_image(engine, name):
            return found
    with told(f"unable to pull image {name}"):
        for line in engine.client.pull(name, stream=True, decode=True, platform=platform):
            if isinstance(line, Mapping) and "error" in line:
                raise ResourceError(f"unable to pull image {name}: {line['error']}")
        if found := find_image(engine, name):
            return found
    raise ResourceError(f"unable to find or pull image {name}")


def find_image(engine: Engine, name: str) -> dict[str, Any] | None:
    """Return the engine's description of a local image, or None."""
    try:
        return dict(engine.client.inspect_image(name))  # type: ignore[no-untyped-call]
    except NotFound:
        return None


def as_labels(labels: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """Labels as the engine takes them, from Pulumi's list of pairs."""
    return {item["label"]: item["value"] for item in labels or []}


def from_labels(labels: Mapping[str, str] | None) -> list[dict[str, str]]:
    """Labels as Pulumi has them, from the engine's mapping."""
    return [{"label": name, "value": value} for name, value in sorted((labels or {}).items())]
