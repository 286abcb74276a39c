"""What of the stack configuration is for the docker target alone: images, TLS, replicas, database."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.sensitive import Sensitive
from infra.stack.database_url import url_problems
from infra.stack.deployment import LOOPBACK, SERVICE_MODEL
from infra.stack.references import is_reference
from infra.stack.settings import Reader, Settings
from infra.targets.docker.images.images import PACKAGES, BuildSettings
from infra.targets.docker.names import MODEL_PORT, Names

DEFAULTS: Mapping[str, Any] = {
    "containers.prefix": "",  # letta-<stack>
    "server.bind": LOOPBACK,
    "server.replicas": 1,
    "server.memory": 2048,  # MiB
    "server.start_seconds": 180,  # until a new server must be healthy
    "redis": "auto",
    "database.mode": "container",
    "database.memory": 1024,  # MiB
    "database.pool_size": 25,
    "database.url": "",
    "database.direct_url": "",
    "database.network": "",
    "tls.mode": "off",
    "tls.host": "",
    "tls.certificate": "",
    "tls.key": "",
    "tls.email": "",
    "tls.acme_directory": "",
    "tls.acme_ca": "",
    "tls.http_port": 80,  # where an ACME authority looks for the answer to its challenge
    "proxy.max_request": 100,  # MiB
    "image.base": "",
    "image.packages": "",
    "image.ca_bundle": "",
    "image.proxy": "",
    "image.index_url": "",
    "image.apt_mirror": "",
}
SECRET = ("database.url", "database.direct_url")
TLS_MODES = ("off", "internal", "files", "acme")
MOST_REPLICAS = 16
HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?"
EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+"
HTTPS_URL = r"https://[A-Za-z0-9._~:/?&=%-]+"


@dataclass(frozen=True)
class Tls:
    """How the proxy gets its certificate; `mode` off means plain HTTP, on loopback only."""

    mode: str = "off"
    host: str = "localhost"
    certificate: Path | None = None
    key: Path | None = None
    email: str = ""
    acme_directory: str = ""
    acme_ca: Path | None = None
    http_port: int = 80

    @property
    def on(self) -> bool:
        return self.mode != "off"


@dataclass(frozen=True)
class ExternalDatabase:
    """A Postgres that is there already. `direct` goes past a transaction pooler (for migrations).

    `network` is one of Docker's, which everything that speaks to the database joins.
    """

    url: Sensitive
    direct: Sensitive
    reference: str | None = None  # of `direct`, as it was configured: what the profile keeps
    network: str = ""


@dataclass(frozen=True)
class ContainerSettings:
    """The docker target's part of Settings; memory in MiB."""

    names: Names
    server_port: int = 8283
    bind: str = LOOPBACK
    replicas: int = 1
    server_memory: int = 2048
    start_seconds: int = 180
    database_memory: int = 1024
    pool_size: int = 25
    redis: bool = False
    max_request: int = 100
    tls: Tls = Tls()
    build: BuildSettings = field(default_factory=BuildSettings)
    database: ExternalDatabase | None = None

    @property
    def host(self) -> str:
        """The host in the URL by which clients know the server."""
        return self.tls.host if self.tls.on else LOOPBACK

    @property
    def server_url(self) -> str:
        return f"{'https' if self.tls.on else 'http'}://{self.host}:{self.server_port}"

    @property
    def model_url(self) -> str:
        return f"http://{self.names.container(SERVICE_MODEL)}:{MODEL_PORT}/v1"

    @property
    def ports(self) -> Mapping[str, int]:
        """The proxy's alone: nothing else is published."""
        return {"server.port": self.server_port}


def names_of(stack: str, values: Mapping[str, Any]) -> Names:
    """What a stack's containers are called, however wrong the rest of `values` is."""
    return Names(str(values.get("containers.prefix") or f"letta-{stack}"))


def docker_settings(settings: Settings) -> ContainerSettings:
    """Of a stack's settings those of this target."""
    assert isinstance(settings.own, ContainerSettings)  # noqa: S101  # nobody else's come here
    return settings.own


def parse_containers(reader: Reader) -> ContainerSettings:
    """Read this target's part of the configuration; what is wrong is added to its problems."""
    names = names_of(reader.stack, reader.values)
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,48}", names.prefix):
        reader.problems.append("containers.prefix: use lower-case letters, digits and dashes")
    if reader.values.get("model") == "smollm2":
        reader.problems.append("model: smollm2 runs on this machine itself; configure a provider")
    replicas = reader.number("server.replicas", 1, MOST_REPLICAS)
    redis = reader.choice("redis", ("auto", "true", "false"))
    tls = _tls(reader)
    bind = _bind(reader, tls)
    return ContainerSettings(
        names=names,
        server_port=int(port) if (port := reader.text("server.port")).isdecimal() else 0,
        bind=bind,
        replicas=replicas,
        server_memory=reader.number("server.memory", 64, 1024**2),
        start_seconds=reader.number("server.start_seconds", 10, 3600),
        database_memory=reader.number("database.memory", 128, 1024**2),
        pool_size=reader.number("database.pool_size", 1, 1000),
        redis=redis == "true" or (redis == "auto" and replicas > 1),
        max_request=reader.number("proxy.max_request", 1, 10_000),
        tls=tls,
        build=_build(reader),
        database=_database(reader),
    )


def _tls(reader: Reader) -> Tls:
    mode = reader.choice("tls.mode", TLS_MODES)
    certificate, key = reader.file("tls.certificate"), reader.file("tls.key")
    host = reader.text("tls.host")
    if mode == "files" and (certificate is None or key is None):
        reader.problems.append("tls.mode: files needs tls.certificate and tls.key")
    if mode in ("files", "acme") and not host:
        reader.problems.append(f"tls.host: is missing; {mode} needs the name that clients use")
    if mode == "acme" and not reader.text("tls.email"):
        reader.problems.append("tls.email: is missing; acme needs whom to tell of a certificate")
    if mode == "off" and (host or certificate or key):
        reader.problems.append("tls.mode: is off, but other tls keys are set; choose a mode")
    return Tls(
        mode=mode,
        host=reader.matching("tls.host", HOST) or "localhost",
        certificate=certificate,
        key=key,
        email=reader.matching("tls.email", EMAIL),
        acme_directory=reader.matching("tls.acme_directory", HTTPS_URL),
        acme_ca=reader.file("tls.acme_ca"),
        http_port=reader.number("tls.http_port", 1, 65535),
    )


def _bind(reader: Reader, tls: Tls) -> str:
    text = reader.text("server.bind")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        reader.problems.append(f"server.bind: must be an IP address, not {text!r}")
        return LOOPBACK
    if not address.is_loopback and not tls.on:
        reader.problems.append(
            f"server.bind: {text} is beyond loopback, where the password would be sent in the clear;"
            " set tls.mode to internal, files or acme"
        )
    return text


def _build(reader: Reader) -> BuildSettings:
    chosen: dict[str, Any] = {
        "ca_bundle": reader.file("image.ca_bundle"),
        "proxy": reader.sensitive("image.proxy"),
        "index_url": reader.sensitive("image.index_url"),
        "apt_mirror": reader.text("image.apt_mirror") or None,
    }
    if base := reader.text("image.base"):
        chosen["base"] = base
    if day := reader.day("image.packages"):
        chosen["packages"] = max(day, PACKAGES)
    return BuildSettings(**chosen)


def _database(reader: Reader) -> ExternalDatabase | None:
    mode = reader.choice("database.mode", ("container", "external"))
    if mode != "external":
        for name in (*SECRET, "database.network"):
            if reader.text(name):
                reader.problems.append(f"{name}: is set, but database.mode is not external")
        return None
    for name in SECRET:
        text = reader.text(name)
        if text and not is_reference(text) and name not in reader.secret_keys:
            reader.problems.append(
                f"{name}: is in plain text; use a reference (env:NAME, file:PATH, cmd:COMMAND) or"
                " `pulumi config set --secret`"
            )
    url = reader.sensitive("database.url")
    if url is None:
        reader.problems.append("database.url: is missing; database.mode is external")
        return None
    direct = reader.sensitive("database.direct_url") or url
    problems = [f"database.url: {words}" for words in url_problems(url)]
    if direct is not url:
        problems += [f"database.direct_url: {words}" for words in url_problems(direct)]
    reader.problems.extend(problems)
    if problems:
        return None
    configured = reader.text("database.direct_url") or reader.text("database.url")
    reference = configured if is_reference(configured) else None
    return ExternalDatabase(url, direct, reference, reader.text("database.network"))
