"""Is this machine able to run a stack? Looks, and changes nothing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from infra.errors import LettaOpsError
from infra.stack.locations import StackFolder, cache_folder
from infra.targets.target import Requirement
from ops_cli.invocation import Invocation

PYTHONS = ((3, 11), (3, 14))  # from, and before
GIB = 1024**3


def examine(invocation: Invocation) -> tuple[Requirement, ...]:
    """Examine this machine; with a profile of the user's own, only what using that needs."""
    if invocation.profile is not None:
        return (python_version(), *_client(invocation), _profile(invocation))
    return (
        python_version(),
        *_folders(invocation.folder),
        pulumi(),
        *_targets(invocation),
        _profile(invocation),
    )


def python_version(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Requirement:
    """Judge the Python that runs us."""
    detail = f"{'.'.join(map(str, version))} ({sys.executable})"
    fits = PYTHONS[0] <= version[:2] < PYTHONS[1]
    return Requirement(
        "python", fits, detail, "" if fits else "install letta-ops with 3.11, 3.12 or 3.13"
    )


def folder(name: str, path: Path, variable: str, needed: float = 2 * GIB) -> Requirement:
    """Can we write to `path`, which need not be there yet, and has its disk `needed` bytes free?"""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        hint = f"make {there} writable for this user, or name another folder with {variable}"
        return Requirement(name, False, f"{path}: not writable", hint)
    free = shutil.disk_usage(there).free
    detail = f"{path}: writable, {free / GIB:.1f} GiB free"
    if free < needed:
        hint = f"free {needed / GIB:.0f} GiB, or name a folder on another disk with {variable}"
        return Requirement(name, False, detail, hint)
    return Requirement(name, True, detail)


def pulumi() -> Requirement:
    """Which Pulumi CLI `up` would take. None at all is no failure: `up` gets one."""
    from infra.pulumi_cli.cli import present
    from infra.pulumi_cli.cli_cache import PULUMI_VERSION

    reasons: list[str] = []
    found = present(os.environ, cache_folder(), reasons)
    if found is None:
        reasons.append(f"the first `up` gets {PULUMI_VERSION}, which takes minutes")
        return Requirement("pulumi", True, "; ".join(reasons))
    return Requirement(
        "pulumi", True, f"{found.executable} ({found.origin}, {found.plugins} plugins)"
    )


def _folders(stack: StackFolder) -> Iterator[Requirement]:
    yield folder("state folder", stack.state, "LETTA_OPS_STATE")
    yield folder("cache folder", cache_folder(), "LETTA_OPS_CACHE")


def _targets(invocation: Invocation) -> Iterator[Requirement]:
    """What the targets need: of the stack's own everything, of others what is worth knowing."""
    from infra.pulumi_cli.project import configured
    from infra.targets import default_for, named, names

    try:
        configuration = configured(invocation.folder)
        own = str(configuration.get("target", default_for(invocation.stack)))
        named(own)  # or say that there is none
        for name in sorted(names(), key=lambda name: name == own):
            target = named(name)
            yield from target.requirements(invocation.folder, configuration, chosen=name == own)
    except LettaOpsError as error:
        yield Requirement("configuration", False, error.message, error.hint)


def _client(invocation: Invocation) -> Iterator[Requirement]:
    """What using a profile of the user's own needs beside it; what can't be read says nothing."""
    from infra.stack.deployment import EXTERNAL
    from infra.targets import named

    try:
        target = invocation.deployment().target
        if target != EXTERNAL:
            yield from named(target).client_requirements()
    except LettaOpsError:
        return  # other requirements say so


def _profile(invocation: Invocation) -> Requirement:
    try:
        deployment = invocation.deployment()
    except LettaOpsError as error:
        if error.code == "profile-missing" and invocation.profile is None:
            return Requirement("profile", True, "none yet: `letta-ops up` writes it")
        return Requirement("profile", False, error.message, error.hint)
    return Requirement(
        "profile", True, f"{deployment.profile or 'the environment'}: {deployment.server.url}"
    )
