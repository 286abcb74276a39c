"""What of the stack configuration is for the docker target alone: images, TLS, replicas, database."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from infra.stack.deployment import LOOPBACK, SERVICE_MODEL
from infra.stack.keys import (
    By,
    File,
    OneOf,
    Reading,
    Section,
    between,
    is_secret,
    keys_of,
    matching,
    port_from,
    read,
    setting,
)
from infra.stack.settings import ServerSection, Settings
from infra.targets.docker.images.recipes import BuildSettings
from infra.targets.docker.names import MODEL_PORT, PREFIX, Names
from infra.targets.external_database.settings import ExternalDatabase, ExternalDatabaseSection

MOST_MEMORY = 1024**2  # MiB
LEAST_MEMORY = 512  # MiB: a server has some 300 before it answers anybody
HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?"
EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+"
HTTPS_URL = r"https://[A-Za-z0-9._~:/?&=%-]+"


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"must be an IP address, not {text!r}") from None
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(PREFIX, text):
        raise ValueError("use lower-case letters, digits and dashes")
    return text


class ContainerSection(Section):
    table: ClassVar[str] = "containers."

    prefix: Annotated[str | None, By(_prefix)] = setting(
        None, "what names of containers, networks and volumes begin with; by default letta-STACK"
    )


class DockerServerSection(ServerSection):
    bind: Annotated[str, By(_address)] = setting(
        LOOPBACK, "the address of this machine that clients reach; beyond loopback only with TLS"
    )
    replicas: Annotated[int, between(1, 16)] = setting(1, "how many servers")
    memory: Annotated[int, between(LEAST_MEMORY, MOST_MEMORY)] = setting(2048, "MiB of each server")
    start_seconds: Annotated[int, between(10, 3600)] = setting(
        180, "within which a new server must be healthy"
    )


class DockerDatabaseSection(ExternalDatabaseSection):
    of_external: ClassVar[tuple[str, ...]] = (*ExternalDatabaseSection.of_external, "network")

    memory: Annotated[int, between(128, MOST_MEMORY)] = setting(1024, "MiB of the container")
    pool_size: Annotated[int, between(1, 1000)] = setting(25, "connections of each server")
    network: str = setting("", "Docker's, which everything that speaks to the database joins")


class TlsSection(Section):
    """How the proxy gets its certificate; `mode` off means plain HTTP, on loopback only."""

    table: ClassVar[str] = "tls."

    mode: Annotated[Literal["off", "internal", "files", "acme"], OneOf()] = setting(
        "off", "where the proxy's certificate comes from"
    )
    host: Annotated[str, matching(HOST)] = setting("localhost", "the name that clients use")
    certificate: File | None = setting(None, "a chain in PEM form, for mode files")
    key: File | None = setting(None, "its key, for mode files")
    email: Annotated[str, matching(EMAIL)] = setting(
        "", "whom an authority writes to, for mode acme"
    )
    acme_directory: Annotated[str, matching(HTTPS_URL)] = setting("", "by default Let's Encrypt")
    acme_ca: File | None = setting(None, "certificates that sign the directory's own, in PEM form")
    http_port: Annotated[int, port_from(1)] = setting(
        80, "where an authority looks for its challenge"
    )

    def contradictions(self) -> Iterator[str]:
        given = self.model_fields_set
        if self.mode == "files" and (self.certificate is None or self.key is None):
            yield "tls.mode: files needs tls.certificate and tls.key"
        if self.mode in ("files", "acme") and "host" not in given:
            yield f"tls.host: is missing; {self.mode} needs the name that clients use"
        if self.mode == "acme" and not self.email:
            yield "tls.email: is missing; acme needs whom to tell of a certificate"
        if self.mode == "off" and given & {"host", "certificate", "key"}:
            yield "tls.mode: is off, but other tls keys are set; choose a mode"

    @property
    def on(self) -> bool:
        return self.mode != "off"


class ProxySection(Section):
    table: ClassVar[str] = "proxy."

    max_request: Annotated[int, between(1, 10_000)] = setting(100, "MiB of one request")


class DockerSettings(Settings):
    """Those of a stack of containers."""

    containers: ContainerSection = setting(ContainerSection(), "its containers")
    server: DockerServerSection = setting(DockerServerSection(), "the Letta server")
    database: DockerDatabaseSection = setting(DockerDatabaseSection(), "its Postgres")
    tls: TlsSection = setting(TlsSection(), "the proxy's certificate")
    proxy: ProxySection = setting(ProxySection(), "what stands before the servers")
    image: BuildSettings = setting(BuildSettings(), "how images are built")

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.model == "smollm2":
            yield "model: smollm2 runs on this machine itself; configure a provider"
        if not self.tls.on and not ipaddress.ip_address(self.server.bind).is_loopback:
            yield (
                f"server.bind: {self.server.bind} is beyond loopback, where the password would be"
                " sent in the clear; set tls.mode to internal, files or acme"
            )

    @property
    def names(self) -> Names:
        return Names(self.containers.prefix or f"letta-{self.stack}")

    @property
    def external(self) -> ExternalDatabase | None:
        """The database, where it is not the stack's own."""
        return self.database.external(self.references)

    @property
    def server_url(self) -> str:
        if self.tls.on:
            return f"https://{self.tls.host}:{self.server.port}"
        bind = self.server.bind
        return f"http://{f'[{bind}]' if ':' in bind else bind}:{self.server.port}"

    @property
    def model_url(self) -> str:
        return f"http://{self.names.container(SERVICE_MODEL)}:{MODEL_PORT}/v1"

    @property
    def ports(self) -> Mapping[str, int]:
        """The proxy's alone: nothing else is published."""
        return {"server.port": self.server.port}


def names_of(stack: str, values: Mapping[str, Any]) -> Names:
    """What a stack's containers are called, however wrong the rest of `values` is."""
    return Names(str(values.get("containers.prefix") or f"letta-{stack}"))


def docker_settings(settings: Settings) -> DockerSettings:
    """Those of a docker stack."""
    assert isinstance(settings, DockerSettings)  # noqa: S101  # nobody else's come here
    return settings


def build_settings(values: Mapping[str, Any]) -> BuildSettings:
    """How a stack's images are built, however wrong the rest of `values` is; what Pulumi keeps encrypted
    is taken from the environment."""
    known = keys_of(BuildSettings)
    plain = {
        key: values[key] for key, field in known.items() if key in values and not is_secret(field)
    }
    return read(BuildSettings, plain, Reading())
