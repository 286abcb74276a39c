"""Pulumi's side of our providers: one factory for all resources, and the inputs that many share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import new_class
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi import dynamic

from infra.sensitive import Sensitive, revealed
from infra.stack.backup_settings import BackupSettings
from infra.stack.keys import keys_of
from infra.stack.locations import StackFolder
from infra.targets.providers.provider import Provider
from infra.targets.providers.record import ProfileRecord
from infra.targets.providers.service import SupervisedService


class Resource(dynamic.Resource, module="letta-ops", name="Resource"):
    """A resource of a provider of ours. Its inputs and outputs are its attributes."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> pulumi.Output[Any]: ...


def resource(
    provider: Provider,
    name: str,
    folder: StackFolder,
    inputs: Mapping[str, Any],
    opts: pulumi.ResourceOptions | None = None,
) -> Resource:
    """Declare a resource; `inputs` are the provider's, but for the stack's folder, which all have."""
    known = {"state": str(folder.state), "stack": folder.stack}
    secret = pulumi.ResourceOptions(additional_secret_outputs=list(provider.secret_outputs))
    return _type(provider.kind or type(provider).__name__)(
        provider,
        name,
        {**known, **inputs, **dict.fromkeys(provider.outputs)},
        pulumi.ResourceOptions.merge(opts, secret),
    )


@cache
def _type(kind: str) -> type[Resource]:
    """Pulumi takes a resource's type from its class."""
    return new_class(kind, (Resource,), {"module": "letta-ops", "name": kind})


def service(
    name: str,
    folder: StackFolder,
    inputs: Mapping[str, Any],
    opts: pulumi.ResourceOptions | None = None,
) -> Resource:
    """Declare a supervised service (see `SupervisedService`)."""
    return resource(SupervisedService(), name, folder, {"name": name, **inputs}, opts)


def record(folder: StackFolder, values: Mapping[str, Any], after: pulumi.Resource) -> Resource:
    """Declare the plain part of the profile, written when everything else is there."""
    opts = pulumi.ResourceOptions(depends_on=[after])
    return resource(ProfileRecord(), "profile", folder, {"values": values}, opts)


def secret_input(value: Sensitive | None) -> pulumi.Output[str] | str:
    """A value that Pulumi keeps encrypted; an empty text for none, since it drops null."""
    return pulumi.Output.secret(value.reveal()) if value is not None else ""


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
    return {**dict.fromkeys(keys_of(BackupSettings), ""), **hidden}
