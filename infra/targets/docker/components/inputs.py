"""Inputs that several of the docker target's components give to their resources."""

from __future__ import annotations

from typing import Any

import pulumi

from infra.sensitive import Sensitive
from infra.targets.docker.components.context import StackContext
from infra.targets.docker.images.recipes import BuildSettings, tag
from infra.targets.docker.providers.secret_file import SecretFile
from infra.targets.resources import Resource, resource, secret_input


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


def secret_file(
    context: StackContext,
    resource_name: str,
    image: str,
    name: str,
    owner: int,
    content: Sensitive,
    opts: pulumi.ResourceOptions,
) -> Resource:
    """A file `name` in the stack's secrets volume, which the account `owner` of a container may read."""
    inputs = {
        "prefix": context.names.prefix,
        "image": image,
        "name": name,
        "owner": owner,
        "content": secret_input(content),
    }
    return resource(SecretFile(), resource_name, context.folder, inputs, opts)
