"""What stands beside the servers: the fake model, Redis, and the proxy in front."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import pulumi
import pulumi_docker as docker

from infra.sensitive import Sensitive
from infra.stack.deployment import SERVICE_MODEL, SERVICE_PROXY, SERVICE_REDIS
from infra.targets.docker.components.base import Base
from infra.targets.docker.components.container import Shape, container, own_tmpfs
from infra.targets.docker.components.context import StackContext
from infra.targets.docker.components.inputs import secret_file
from infra.targets.docker.names import (
    MODEL_PORT,
    PROXY_CHALLENGE_PORT,
    PROXY_PORT,
    PROXY_TLS_PORT,
    PROXY_USER,
    PYTHON,
    REDIS_USER,
    SECRETS_FOLDER,
)
from infra.targets.docker.providers.certificate import OwnCertificate
from infra.targets.docker.proxy_settings import ACME_CA, CERTIFICATE, KEY
from infra.targets.resources import resource

FAKE_MODEL = "/opt/letta-ops/fake_model.py"
HEALTH = "/opt/letta-ops/healthcheck.py"
# Letta gives Redis no password: who may speak to it is decided by the network alone.
REDIS_SETTINGS = """\
bind 0.0.0.0
protected-mode no
save ""
appendonly no
maxmemory 128mb
maxmemory-policy volatile-lru
hz 1
dir /tmp
"""


def fake_model(context: StackContext, base: Base) -> pulumi.Resource:
    """The model that comes with a stack when no provider is configured."""
    shape = Shape(
        service=SERVICE_MODEL,
        image=base.images["letta"],
        networks=[context.names.inner_network],
        memory=256,
        processes=128,
        health=[PYTHON, "-I", "-S", HEALTH, str(MODEL_PORT), "/health"],
        command=[PYTHON, FAKE_MODEL, "--host", "0.0.0.0", "--port", str(MODEL_PORT)],  # noqa: S104
        wait=60,
    )
    return container(
        context,
        SERVICE_MODEL,
        context.names.container(SERVICE_MODEL),
        shape,
        pulumi.ResourceOptions(parent=base, depends_on=base.ready),
    ).ready


def redis(context: StackContext, base: Base) -> pulumi.Resource:
    """What several servers share while they work: locks, and streams of runs in the background."""
    opts = pulumi.ResourceOptions(parent=base, depends_on=base.ready)
    tag = base.images["redis"].tag
    file = secret_file(
        context, "redis-settings", tag, "redis.conf", REDIS_USER, Sensitive(REDIS_SETTINGS), opts
    )
    shape = Shape(
        service=SERVICE_REDIS,
        image=base.images["redis"],
        networks=[context.names.cache_network],
        memory=256,
        processes=64,
        volumes={context.names.volume("secrets"): f"{SECRETS_FOLDER}:ro"},
        wait=60,
    )
    return container(
        context,
        SERVICE_REDIS,
        context.names.container(SERVICE_REDIS),
        shape,
        pulumi.ResourceOptions(parent=base, depends_on=[file]),
    ).ready


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


class Proxy(pulumi.ComponentResource):
    """Declared after the servers: where its container must be replaced, they have proven themselves.

    Outputs: `container` (see `Started`), and `files` (digest of the certificates that were given)."""

    def __init__(self, context: StackContext, base: Base, after: Sequence[pulumi.Resource]) -> None:
        super().__init__("letta-ops:docker:Proxy", "proxy-front")
        chosen = context.settings
        given = {
            CERTIFICATE: chosen.tls.certificate,
            KEY: chosen.tls.key,
            ACME_CA: chosen.tls.acme_ca,
        }
        contents = {name: path.read_text() for name, path in given.items() if path is not None}
        self.files: pulumi.Input[str] = _digest(contents.values())
        opts = pulumi.ResourceOptions(parent=self, depends_on=base.ready)
        tag = base.images["proxy"].tag
        written: list[pulumi.Resource] = [
            secret_file(context, name, tag, name, PROXY_USER, Sensitive(text), opts)
            for name, text in contents.items()
        ]
        if chosen.tls.mode == "internal":
            inputs = {"prefix": context.names.prefix, "image": tag, "host": chosen.tls.host}
            own = resource(OwnCertificate(), "certificate", context.folder, inputs, opts)
            self.files = own.fingerprint
            written.append(own)
        ports = [
            docker.ContainerPortArgs(
                internal=PROXY_TLS_PORT if chosen.tls.on else PROXY_PORT,
                external=context.settings.server.port,
                ip=chosen.server.bind,
            )
        ]
        if chosen.tls.mode == "acme":
            challenge = chosen.tls.http_port
            ports.append(
                docker.ContainerPortArgs(
                    internal=PROXY_CHALLENGE_PORT, external=challenge, ip=chosen.server.bind
                )
            )
        self.container = container(
            context,
            SERVICE_PROXY,
            context.names.container(SERVICE_PROXY),
            Shape(
                service=SERVICE_PROXY,
                image=base.images["proxy"],
                networks=[context.names.inner_network, context.names.outer_network],
                memory=256,
                processes=256,
                volumes={
                    context.names.volume("proxy"): "/data",
                    context.names.volume("secrets"): f"{SECRETS_FOLDER}:ro",
                },
                tmpfs={"/run/proxy": own_tmpfs(PROXY_USER, 16, "noexec")},
                ports=ports,
                patience=60,
            ),
            pulumi.ResourceOptions(parent=self, depends_on=[*base.ready, *written, *after]),
        )
        self.register_outputs({})
