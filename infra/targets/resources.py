"""Pulumi's side of the providers that every target has: a typed resource class for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi import dynamic

from infra.sensitive import Sensitive, revealed
from infra.stack.backup_settings import DEFAULTS
from infra.stack.locations import StackFolder
from infra.targets.providers.generated import GeneratedValue
from infra.targets.providers.provider import Provider
from infra.targets.providers.record import ProfileRecord
from infra.targets.providers.service import SupervisedService


def inputs(folder: StackFolder, **properties: Any) -> dict[str, Any]:
    """The inputs that every resource of ours has, and `properties`."""
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
