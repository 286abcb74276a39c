"""Pulumi's side of the local target's own providers: a typed resource class for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.targets.local.providers.cluster import PostgresCluster
from infra.targets.local.providers.database import LocalDatabase
from infra.targets.local.providers.endpoints import ModelEndpoints
from infra.targets.local.providers.migration import EmbeddedMigration
from infra.targets.local.providers.runtime import LettaRelease, SmolLM2
from infra.targets.resources import Resource, urls


class Cluster(Resource, module="letta-ops", name="PostgresCluster"):
    configuration: pulumi.Output[str]
    binaries: pulumi.Output[str]
    digest: pulumi.Output[str]

    def __init__(
        self, folder: StackFolder, port: int, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        outputs = ("configuration", "binaries", "digest")
        super().__init__(PostgresCluster(), "cluster", folder, {"port": port}, outputs, opts)


class ReleaseInstallation(Resource, module="letta-ops", name="LettaRelease"):
    cache: pulumi.Output[str]
    python: pulumi.Output[str]
    interpreter: pulumi.Output[str]

    def __init__(
        self, folder: StackFolder, release: str, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        outputs = ("cache", "python", "interpreter")
        super().__init__(LettaRelease(), "release", folder, {"release": release}, outputs, opts)


class SmolLM2Installation(Resource, module="letta-ops", name="SmolLM2"):
    venv: pulumi.Output[str]

    def __init__(
        self,
        folder: StackFolder,
        python: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(SmolLM2(), "smollm2", folder, {"python": python}, ("venv",), opts)


class DatabaseInside(Resource, module="letta-ops", name="LettaDatabase"):
    def __init__(
        self,
        folder: StackFolder,
        port: int,
        owner_password: pulumi.Input[str],
        reader_password: pulumi.Input[str],
        deployment_id: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {
            "port": port,
            "owner_password": owner_password,
            "reader_password": reader_password,
            "deployment_id": deployment_id,
        }
        super().__init__(LocalDatabase(), "database", folder, properties, (), opts)


class SchemaMigration(Resource, module="letta-ops", name="Migration"):
    revision: pulumi.Output[str]

    def __init__(
        self,
        folder: StackFolder,
        port: int,
        owner_password: pulumi.Input[str],
        installation: ReleaseInstallation,
        release: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {
            "release": release,
            "port": port,
            "owner_password": owner_password,
            "cache": installation.cache,
            "python": installation.python,
        }
        super().__init__(EmbeddedMigration(), "migration", folder, properties, ("revision",), opts)


class Endpoints(Resource, module="letta-ops", name="ModelEndpoints"):
    def __init__(
        self,
        folder: StackFolder,
        place: Mapping[str, Any],
        providers: Mapping[str, str | Sensitive],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {**place, "urls": urls(providers)}
        super().__init__(ModelEndpoints(), "endpoints", folder, properties, (), opts)
