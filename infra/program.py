"""What `pulumi up` runs: read the stack's configuration, then declare the target's resources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.runtime.config import CONFIG, is_config_secret

from infra.errors import LettaOpsError
from infra.pulumi_cli import last_error
from infra.stack.locations import StackFolder, stack_folder, state_folder
from infra.stack.profile import flatten
from infra.targets import named, settings


def main() -> None:
    """Build the stack that Pulumi is running. An expected error ends it with its message alone."""
    folder = StackFolder(state_folder(), pulumi.get_stack())
    try:
        stack_folder(folder.stack)
        values, secret_keys = configuration(pulumi.get_project())
        chosen = settings(folder.stack, values, secret_keys)
        named(chosen.target).declare(folder, chosen)
    except LettaOpsError as error:
        last_error.keep(folder, error)
        raise pulumi.RunError(str(error)) from None


def configuration(project: str) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the project's configuration as flat keys, and which of them Pulumi keeps encrypted.

    `pulumi config set server.port 9000` and `--path server.port` mean the same.
    """
    values: dict[str, Any] = {}
    secret_keys: set[str] = set()
    for full, text in CONFIG.get().items():
        namespace, _, name = full.partition(":")
        if namespace != project:
            continue
        found = dict(_flat(name, text))
        values |= found
        if is_config_secret(full):
            secret_keys |= found.keys()
    return values, frozenset(secret_keys)


def _flat(name: str, text: str) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except ValueError:
        return {name: text}
    return dict(flatten(tree, f"{name}.")) if isinstance(tree, Mapping) else {name: text}
