"""Is this machine able to run a stack? Looks, and changes nothing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.stack.locations import StackFolder, cache_folder
from infra.targets.docker.names import Names
from ops_cli.invocation import Invocation

PYTHONS = ((3, 11), (3, 14))  # from, and before
GIB = 1024**3
ENGINE_SECONDS = 10.0
LIMITS = {"memory": "MemoryLimit", "processes": "PidsLimit"}  # what the engine's `info` calls them


@dataclass(frozen=True)
class Trait:
    """One thing that a stack needs of a machine: is it there, what was seen, what to do."""

    name: str
    passed: bool
    detail: str
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(invocation: Invocation) -> tuple[Trait, ...]:
    """Examine this machine; with a profile of the user's own, only what using that needs."""
    if invocation.profile is not None:
        engines = (container_engine(needed=True),) if _in_containers(invocation) else ()
        return (python_version(), *engines, _profile(invocation))
    return (
        python_version(),
        *_folders(invocation.folder),
        pulumi(),
        container_engine(_in_containers(invocation)),
        _ports(invocation.folder),
        _profile(invocation),
    )


def python_version(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Trait:
    """Judge the Python that runs us."""
    detail = f"{'.'.join(map(str, version))} ({sys.executable})"
    fits = PYTHONS[0] <= version[:2] < PYTHONS[1]
    return Trait(
        "python", fits, detail, "" if fits else "install letta-ops with 3.11, 3.12 or 3.13"
    )


def folder(name: str, path: Path, variable: str, needed: float = 2 * GIB) -> Trait:
    """Can we write to `path`, which need not be there yet, and has its disk `needed` bytes free?"""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        hint = f"make {there} writable for this user, or name another folder with {variable}"
        return Trait(name, False, f"{path}: not writable", hint)
    free = shutil.disk_usage(there).free
    detail = f"{path}: writable, {free / GIB:.1f} GiB free"
    if free < needed:
        hint = f"free {needed / GIB:.0f} GiB, or name a folder on another disk with {variable}"
        return Trait(name, False, detail, hint)
    return Trait(name, True, detail)


def pulumi() -> Trait:
    """Which Pulumi CLI `up` would take. None at all is no failure: `up` gets one."""
    from infra.pulumi_cli.cli import present
    from infra.pulumi_cli.cli_cache import PULUMI_VERSION

    reasons: list[str] = []
    found = present(os.environ, cache_folder(), reasons)
    if found is None:
        reasons.append(f"the first `up` gets {PULUMI_VERSION}, which takes minutes")
        return Trait("pulumi", True, "; ".join(reasons))
    return Trait("pulumi", True, f"{found.executable} ({found.origin}, {found.plugins} plugins)")


def container_engine(needed: bool) -> Trait:
    """The Docker engine. None at all is a failure only for a stack that runs in containers."""
    from infra.targets.docker.engine.client import engine, host

    try:
        with engine(ENGINE_SECONDS) as client:
            facts = client.info()
    except LettaOpsError as error:
        if needed:
            return Trait("docker", False, error.message, error.hint)
        return Trait("docker", True, f"{error.message}; only stacks of target docker need one")
    parts = [
        f"engine {facts.get('ServerVersion')} at {host()}",
        f"storage {facts.get('Driver')}",
        f"cgroup v{facts.get('CgroupVersion', '1')}",
    ]
    if any("rootless" in option for option in facts.get("SecurityOptions") or ()):
        parts.append("rootless")
    unlimited = [word for word, key in LIMITS.items() if facts.get(key) is False]
    if unlimited:
        parts.append(f"can't limit {' and '.join(unlimited)}")
    return Trait(
        "docker",
        not (needed and unlimited),
        ", ".join(parts),
        "let the engine's kernel and cgroups limit containers (Debian: cgroup_enable=memory)"
        if unlimited
        else "",
    )


def _in_containers(invocation: Invocation) -> bool:
    """Whether the stack runs in containers, or is configured to; what can't be read says no."""
    from infra.pulumi_cli.project import configured

    try:
        return invocation.deployment().target == "docker"
    except LettaOpsError:
        try:
            # A stack that is called `docker` is of that target unless told otherwise.
            return bool(configured(invocation.folder).get("target", invocation.stack) == "docker")
        except LettaOpsError:
            return False  # other traits say so


def _folders(stack: StackFolder) -> Iterator[Trait]:
    yield folder("state folder", stack.state, "LETTA_OPS_STATE")
    yield folder("cache folder", cache_folder(), "LETTA_OPS_CACHE")


def _ports(stack: StackFolder) -> Trait:
    from infra.pulumi_cli.project import configured
    from infra.stack.settings import PORTS, container_names, parse
    from infra.targets.local.preflight import taken_ports

    try:
        chosen = configured(stack)
        if names := container_names(stack.stack, chosen):
            return _published(stack, names, chosen)
        values = {name: chosen[name] for name in (*PORTS, "model") if name in chosen}
        settings = parse(stack.stack, values)
        taken = list(taken_ports(stack, settings))
    except LettaOpsError as error:
        return Trait("ports", False, error.message, error.hint)
    if taken:
        hint = f"end the other program, or `letta-ops --stack {stack.stack} up --config KEY=PORT`"
        return Trait("ports", False, "; ".join(taken), hint)
    ports = ", ".join(f"{port} ({name})" for name, port in settings.ports.items())
    return Trait("ports", True, f"free, or this stack's own: {ports}")


def _published(stack: StackFolder, names: Names, chosen: Mapping[str, Any]) -> Trait:
    """The one port that a stack of containers has on this machine."""
    from infra.stack.deployment import LOOPBACK
    from infra.stack.settings import DEFAULTS
    from infra.targets.docker.engine.client import engine
    from infra.targets.docker.port import ensure_port

    port = int(chosen.get("server.port", DEFAULTS["server.port"]))
    try:
        with engine(ENGINE_SECONDS) as client:
            ensure_port(client, stack.stack, names, str(chosen.get("server.bind", LOOPBACK)), port)
    except LettaOpsError as error:
        return Trait("ports", False, error.message, error.hint)
    return Trait("ports", True, f"free, or this stack's own: {port} (server.port)")


def _profile(invocation: Invocation) -> Trait:
    try:
        deployment = invocation.deployment()
    except LettaOpsError as error:
        if error.code == "profile-missing" and invocation.profile is None:
            return Trait("profile", True, "none yet: `letta-ops up` writes it")
        return Trait("profile", False, error.message, error.hint)
    return Trait(
        "profile", True, f"{deployment.profile or 'the environment'}: {deployment.server.url}"
    )
