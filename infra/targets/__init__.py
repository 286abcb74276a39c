"""Where stacks run: one folder a target, and the list of them. Outside, `named` and `host` are all.

Other packages may bring targets of their own: entry points of the group `letta_ops.targets`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from infra.stack.deployment import Deployment
    from infra.stack.settings import Settings
    from infra.targets.target import Host, Installation, Target

OURS: Mapping[str, str] = {
    "local": "infra.targets.local.target:Local",
    "docker": "infra.targets.docker.target:Docker",
}
DEFAULT = "local"
GROUP = "letta_ops.targets"


def names() -> tuple[str, ...]:
    """The name of every target, ours first."""
    return (*OURS, *sorted(each.name for each in entry_points(group=GROUP)))


def named(name: str) -> Target:
    """Return the target of this name. Raises LettaOpsError (`unknown-target`)."""
    if name in OURS:
        module, _, attribute = OURS[name].partition(":")
        return cast("Target", getattr(import_module(module), attribute)())
    for found in entry_points(group=GROUP, name=name):
        return cast("Target", found.load()())
    from infra.errors import LettaOpsError

    raise LettaOpsError(
        "unknown-target",
        f"target: {name!r} is unknown; this letta-ops knows {', '.join(names())}",
        "correct it, or update letta-ops",
    )


def is_known(name: str) -> bool:
    """Whether a profile may name it: a target, or none at all."""
    from infra.stack.deployment import EXTERNAL

    return name in (*OURS, EXTERNAL) or name in names()


def default_for(stack: str) -> str:
    """The target of a stack that names none: a stack that is called like one is of that target."""
    return stack if stack in names() else DEFAULT


def chosen(stack: str, configuration: Mapping[str, Any]) -> Target:
    """The target of a stack, however wrong the rest of its configuration (flat keys) is.

    Raises LettaOpsError (`unknown-target`).
    """
    return named(str(configuration.get("target", default_for(stack))))


def settings(
    stack: str,
    configuration: Mapping[str, Any],
    secret_keys: frozenset[str] = frozenset(),
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Read the configuration of a stack (flat keys), its target's own part included.

    `secret_keys` are those that Pulumi keeps encrypted; `environment` is where `env:` looks.
    Raises ConfigurationError with every problem, each with its key path.
    """
    from infra.stack.settings import parse

    default = default_for(stack)
    own = str(configuration.get("target", default))
    return parse(stack, configuration, all_settings(own), default, secret_keys, environment)


def all_settings(needed: str = DEFAULT) -> dict[str, type[Settings]]:
    """What can be configured, by target. That of another package may be broken: then it is so for its
    own stacks alone, to which `needed` is the name."""
    return {name: kind for name in names() if (kind := _settings(name, needed=name == needed))}


def _settings(name: str, *, needed: bool) -> type[Settings] | None:
    try:
        return named(name).settings
    except Exception:
        if needed or name in OURS:
            raise
        return None


def installation(name: str) -> Installation:
    """The server of this name that no stack made, wherever it runs here.

    Raises LettaOpsError: `no-installation`, and those of `Target.installation`.
    """
    from infra.errors import LettaOpsError

    for target in names():
        found = named(target).installation(name)
        if found is not None:
            return found
    raise LettaOpsError(
        "no-installation",
        f"there is no container '{name}' on this machine",
        "see `docker ps --all` for its name; where it is gone, name its data (--data) or its database"
        " (--database)",
    )


def host(deployment: Deployment) -> Host:
    """The deployment where it runs. Raises LettaOpsError (`unknown-target`)."""
    from infra.stack.deployment import EXTERNAL
    from infra.targets.external import ExternalHost

    found = None
    if deployment.target != EXTERNAL:
        found = named(deployment.target).host(deployment)
    return found or ExternalHost(deployment)
