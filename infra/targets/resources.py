"""Pulumi's side of the embedded providers: a typed resource class for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi import dynamic

from infra.sensitive import Sensitive, revealed
from infra.stack.backup_settings import DEFAULTS
from infra.stack.locations import StackFolder
from infra.targets.local.providers.cluster import PostgresCluster
from infra.targets.local.providers.migration import EmbeddedMigration
from infra.targets.local.providers.runtime import LettaRelease, SmolLM2
from infra.targets.providers.database import LettaDatabase
from infra.targets.providers.endpoints import ModelEndpoints
from infra.targets.providers.generated import GeneratedValue
from infra.targets.providers.provider import Provider
from infra.targets.providers.record import ProfileRecord
from infra.targets.providers.service import SupervisedService


def inputs(folder: StackFolder, **properties: Any) -> dict[str, Any]:
    """The inputs that every embedded resource has, and `properties`."""
    return {"state": str(folder.state), "stack": folder.stack, **properties}


def _options(
    opts: pulumi.ResourceOptions | None, secret: tuple[str, ...] = ()
) -> pulumi.ResourceOptions:
    own = pulumi.ResourceOptions(additional_secret_outputs=list(secret))
    return pulumi.ResourceOptions.merge(opts, own)


class Generated(dynamic.Resource, module="letta-ops", name="GeneratedValue"):
    """A secret or an id, made once. Its `value` is a Pulumi secret either way."""

    value: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        folder: StackFolder,
        key: str,
        proposed: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        hidden = pulumi.Output.secret(proposed)
        properties = inputs(folder, key=key, proposed=hidden, value=None)
        super().__init__(GeneratedValue(), name, properties, _options(opts, ("value",)))


class Resource(dynamic.Resource, module="letta-ops", name="Resource"):
    """Base of the resources below: `provider` is given by the subclass."""

    def __init__(
        self,
        provider: Provider,
        name: str,
        folder: StackFolder,
        properties: Mapping[str, Any],
        outputs: tuple[str, ...],
        opts: pulumi.ResourceOptions | None,
    ) -> None:
        empty = dict.fromkeys(outputs)
        super().__init__(provider, name, {**inputs(folder, **properties), **empty}, _options(opts))


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
        super().__init__(LettaDatabase(), "database", folder, properties, (), opts)


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


def urls(providers: Mapping[str, str | Sensitive]) -> Any:
    """The providers' URLs as an input; secret when one of them is."""
    plain = {name: revealed(url) for name, url in providers.items()}
    hidden = any(isinstance(url, Sensitive) for url in providers.values())
    return pulumi.Output.secret(plain) if hidden else plain


def backup_settings(given: Mapping[str, str | Sensitive]) -> dict[str, Any]:
    """The profile's keys about backups; what is not given is taken out of it."""
    hidden = {
        key: pulumi.Output.secret(value.reveal()) if isinstance(value, Sensitive) else value
        for key, value in given.items()
    }
    return {**dict.fromkeys(DEFAULTS, ""), **hidden}


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


class Service(Resource, module="letta-ops", name="SupervisedService"):
    def __init__(
        self,
        name: str,
        folder: StackFolder,
        properties: Mapping[str, Any],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(SupervisedService(), name, folder, {"name": name, **properties}, (), opts)


class Record(Resource, module="letta-ops", name="ProfileRecord"):
    def __init__(
        self,
        folder: StackFolder,
        values: Mapping[str, Any],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(ProfileRecord(), "profile", folder, {"values": values}, (), opts)
