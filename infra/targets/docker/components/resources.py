"""Pulumi's side of the docker target's own providers: a typed resource class for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.targets.docker.images.images import BuildSettings, tag
from infra.targets.docker.names import Names
from infra.targets.docker.providers.certificate import OwnCertificate
from infra.targets.docker.providers.cluster import DatabaseCluster
from infra.targets.docker.providers.database import LettaDatabase
from infra.targets.docker.providers.image import BuiltImage
from infra.targets.docker.providers.migration import ContainerMigration
from infra.targets.docker.providers.route import Route
from infra.targets.docker.providers.running import RunningContainer
from infra.targets.docker.providers.secret_file import SecretFile
from infra.targets.resources import Resource


def secret_input(value: Sensitive | None) -> pulumi.Output[str] | str:
    """A value that Pulumi keeps encrypted; an empty text for none, since it drops null."""
    return pulumi.Output.secret(value.reveal()) if value is not None else ""


def build_inputs(name: str, release: str, settings: BuildSettings) -> dict[str, Any]:
    """What `BuiltImage` takes: which image, and how to build it."""
    return {
        "name": name,
        "release": release,
        "tag": tag(name, release, settings),
        "base": settings.base,
        "packages": settings.packages,
        "ca_bundle": str(settings.ca_bundle or ""),
        "proxy": secret_input(settings.proxy),
        "index_url": secret_input(settings.index_url),
        "apt_mirror": settings.apt_mirror or "",
    }


class Build(Resource, module="letta-ops", name="BuiltImage"):
    image_id: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        folder: StackFolder,
        release: str,
        settings: BuildSettings,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = build_inputs(name, release, settings)
        # Not `tag`: that attribute becomes the output of this name.
        self.known_tag = str(properties["tag"])
        super().__init__(BuiltImage(), f"build-{name}", folder, properties, ("image_id",), opts)


class Cluster(Resource, module="letta-ops", name="DatabaseCluster"):
    identifier: pulumi.Output[str]

    def __init__(
        self,
        folder: StackFolder,
        names: Names,
        image: str,
        deployment_id: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {"prefix": names.prefix, "image": image, "deployment_id": deployment_id}
        super().__init__(DatabaseCluster(), "cluster", folder, properties, ("identifier",), opts)


class Database(Resource, module="letta-ops", name="LettaDatabase"):
    def __init__(
        self,
        folder: StackFolder,
        container: str,
        owner: Sensitive,
        reader: Sensitive,
        deployment_id: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {
            "container": container,
            "owner_password": secret_input(owner),
            "reader_password": secret_input(reader),
            "deployment_id": deployment_id,
        }
        super().__init__(LettaDatabase(), "database", folder, properties, (), opts)


class MigrationJob(Resource, module="letta-ops", name="Migration"):
    revision: pulumi.Output[str]

    def __init__(
        self,
        folder: StackFolder,
        names: Names,
        release: str,
        image: str,
        context: Mapping[str, Any],
        networks: Sequence[str],
        server_uri: Sensitive,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {
            "prefix": names.prefix,
            "release": release,
            "image": image,
            "networks": list(networks),
            "server_uri": secret_input(server_uri),
            **context,
        }
        super().__init__(ContainerMigration(), "migration", folder, properties, ("revision",), opts)


class File(Resource, module="letta-ops", name="SecretFile"):
    def __init__(
        self,
        resource_name: str,
        folder: StackFolder,
        names: Names,
        image: str,
        name: str,
        owner: int,
        content: Sensitive,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {
            "prefix": names.prefix,
            "image": image,
            "name": name,
            "owner": owner,
            "content": secret_input(content),
        }
        super().__init__(SecretFile(), resource_name, folder, properties, (), opts)


class Running(Resource, module="letta-ops", name="RunningContainer"):
    def __init__(
        self,
        resource_name: str,
        folder: StackFolder,
        container: str,
        container_id: pulumi.Input[str],
        limit: int,
        seconds: int,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {
            "container": container,
            "container_id": container_id,
            "limit": limit,
            "seconds": seconds,
        }
        super().__init__(RunningContainer(), resource_name, folder, properties, (), opts)


class Certificate(Resource, module="letta-ops", name="OwnCertificate"):
    fingerprint: pulumi.Output[str]

    def __init__(
        self,
        folder: StackFolder,
        names: Names,
        image: str,
        host: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {"prefix": names.prefix, "image": image, "host": host}
        outputs = ("fingerprint", "not_after")
        super().__init__(OwnCertificate(), "certificate", folder, properties, outputs, opts)


class RouteResource(Resource, module="letta-ops", name="Route"):
    def __init__(
        self,
        folder: StackFolder,
        properties: Mapping[str, Any],
        secrets: Sequence[Sensitive],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        hidden = pulumi.Output.secret([secret.reveal() for secret in secrets])
        super().__init__(Route(), "route", folder, {**properties, "secrets": hidden}, (), opts)
