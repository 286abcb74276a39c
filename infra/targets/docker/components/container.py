"""One hardened container: what every container of ours has, in one place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pulumi
import pulumi_docker as docker

from infra.sensitive import Sensitive
from infra.targets.docker.components.context import StackContext
from infra.targets.docker.components.inputs import build_inputs
from infra.targets.docker.providers.built_image import BuiltImage
from infra.targets.docker.providers.running import RunningContainer
from infra.targets.resources import resource

RESTART = "unless-stopped"
LOG_OPTIONS = {"max-size": "20m", "max-file": "4"}
SMALL_TMPFS = "rw,nosuid,nodev,noexec,size=64m,mode=1777"


# Changes whenever this file does, and so whenever the containers that it makes may.
SHAPE_DIGEST = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def own_tmpfs(user: int, megabytes: int, *flags: str) -> str:
    """Options of a tmpfs that belongs to `user`. Its mode is that of the image's folder, if any."""
    options = ("rw", "nosuid", "nodev", *flags, f"size={megabytes}m", f"uid={user}", f"gid={user}")
    return ",".join(options)


@dataclass(frozen=True)
class Image:
    """An image that is on the engine: its tag, and its id once it is."""

    tag: str
    id: pulumi.Output[str]


@dataclass(frozen=True)
class Started:
    """A declared container: its id, and the resource after which it runs."""

    id: pulumi.Output[str]
    ready: pulumi.Resource


@dataclass(frozen=True)
class Shape:
    """What differs from container to container. Memory is in MiB, `patience` in seconds."""

    service: str
    image: Image
    networks: Sequence[str]
    memory: int
    processes: int
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)  # no secrets: it can be inspected
    volumes: Mapping[str, str] = field(default_factory=dict)  # volume -> path; `:ro` behind it
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[docker.ContainerPortArgs] = ()
    alias: str = ""  # a name on its first network, which other containers may share
    health: Sequence[str] = ()  # a command; empty: the image's own
    shared_memory: int = 64
    patience: int = 30  # to end by itself, before it is killed
    wait: int = 0  # seconds to wait until it is healthy; 0: not at all
    hidden: Sequence[Sensitive] = ()  # what its log must not show, beside the stack's own secrets


def image(context: StackContext, name: str, opts: pulumi.ResourceOptions) -> Image:
    """Build an image of ours where it is missing, and let Pulumi know it."""
    settings = context.settings
    inputs = build_inputs(name, settings.release, settings.image)
    known_tag = str(inputs["tag"])
    built = resource(BuiltImage(), f"build-{name}", context.folder, inputs, opts)
    known = docker.RemoteImage(
        f"image-{name}",
        name=known_tag,
        keep_locally=True,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[built])),
    )
    return Image(known_tag, known.image_id)


def container(
    context: StackContext, resource_name: str, name: str, shape: Shape, opts: pulumi.ResourceOptions
) -> Started:
    """Declare a container: non-root by its image, read-only, without capabilities, limited."""
    made = docker.Container(
        resource_name,
        name=name,
        image=shape.image.id,
        command=list(shape.command) or None,
        envs=[f"{key}={value}" for key, value in sorted(shape.environment.items())] or None,
        networks_advanced=list(_networks(shape)),
        volumes=[_volume(volume, path) for volume, path in sorted(shape.volumes.items())],
        ports=list(shape.ports) or None,
        healthcheck=_health(shape.health),
        tmpfs={"/tmp": SMALL_TMPFS, **shape.tmpfs},  # noqa: S108  # inside the container
        read_only=True,
        init=True,
        capabilities=docker.ContainerCapabilitiesArgs(drops=["ALL"]),
        security_opts=["no-new-privileges:true"],
        memory=shape.memory,
        memory_swap=shape.memory,
        shm_size=shape.shared_memory,
        log_driver="json-file",
        log_opts=LOG_OPTIONS,
        labels=[
            docker.ContainerLabelArgs(label=label, value=value)
            for label, value in sorted(context.labels(shape.service).items())
        ],
        restart=RESTART,
        # Not `must_run`: a refresh, and so a preview, would remove a container that was stopped.
        must_run=False,
        destroy_grace_seconds=shape.patience,
        stop_timeout=shape.patience,
        # Nor `wait`: a container that failed it is planned to be replaced, or not looked at again.
        # RunningContainer waits, whenever there is something to wait for; and it sees to the share of
        # the processor, which Pulumi's resource says to change, and doesn't.
        opts=pulumi.ResourceOptions.merge(
            opts, pulumi.ResourceOptions(ignore_changes=["cpu_shares"])
        ),
    )
    hidden = [*context.secrets.values.values(), *shape.hidden]
    running = resource(
        RunningContainer(),
        f"{resource_name}-running",
        context.folder,
        {
            "container": name,
            "container_id": made.id,
            "networks": list(shape.networks),
            "alias": shape.alias,
            "limit": shape.processes,
            "seconds": shape.wait,
            "secrets": pulumi.Output.secret([secret.reveal() for secret in hidden]),
        },
        pulumi.ResourceOptions(parent=made),
    )
    return Started(made.id, running)


def _networks(shape: Shape) -> Iterator[docker.ContainerNetworksAdvancedArgs]:
    aliases = [shape.alias] if shape.alias else None
    for network in shape.networks:
        yield docker.ContainerNetworksAdvancedArgs(name=network, aliases=aliases)
        aliases = None


def _health(test: Sequence[str]) -> docker.ContainerHealthcheckArgs | None:
    if not test:
        return None
    return docker.ContainerHealthcheckArgs(
        tests=["CMD", *test], interval="5s", timeout="10s", retries=3, start_period="30s"
    )


def _volume(volume: str, path: str) -> docker.ContainerVolumeArgs:
    target, _, mode = path.partition(":")
    return docker.ContainerVolumeArgs(
        volume_name=volume, container_path=target, read_only=mode == "ro"
    )
