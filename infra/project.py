"""The Pulumi project that `letta-ops` runs, written into the stack's folder.

It names the same program as the checkout's Pulumi.yaml, and takes the stack's configuration from
the checkout's `infra/stacks`, when there is one. Being a copy, it lets an installed wheel provision,
and keeps the passphrase's salt of this machine out of the checkout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.files import write_file, write_private
from infra.locations import StackFolder

PROJECT = "letta-ops"
PROGRAM = Path(__file__).parent


def write_project(folder: StackFolder, config: Mapping[str, str]) -> Path:
    """Write the project of the stack with its configuration and return its folder.

    `config` (flat keys) is kept: in the checkout's file of this stack when there is one, else in
    the project.
    """
    source = PROGRAM / "stacks" / f"Pulumi.{folder.stack}.yaml"
    document = {
        "name": PROJECT,
        "main": str(PROGRAM),
        "runtime": {"name": "python", "options": {"virtualenv": sys.prefix}},
    }
    write_file(folder.project / "Pulumi.yaml", _yaml(document), 0o600)
    settings = folder.project / f"Pulumi.{folder.stack}.yaml"
    mine = _load(settings)
    if config:
        keeper = source if source.is_file() else settings
        _keep(keeper, _load(keeper), config)
        mine = _load(settings)
    if source.is_file():
        # A salt in the checkout's file wins: its encrypted values can't be read with another.
        salt = {key: mine[key] for key in ("encryptionsalt",) if key in mine}
        mine = {**salt, **_load(source)}
        write_private(settings, _yaml(mine))
    return folder.project


def break_dead_lock(folder: StackFolder) -> str | None:
    """Remove the locks of Pulumi runs on this machine that died; say so. Live ones are left.

    Pulumi's file backend locks a stack with a file that says who holds it, and never removes it
    for a process that was killed.
    """
    import socket

    locks = folder.state / ".pulumi" / "locks"
    broken = []
    for path in locks.rglob(f"{folder.stack}/*.json") if locks.is_dir() else ():
        try:
            holder = json.loads(path.read_text())
        except (OSError, ValueError):
            holder = {}
        alive = _alive(int(holder.get("pid", 0)))
        if holder and (holder.get("hostname") != socket.gethostname() or alive):
            continue
        path.unlink(missing_ok=True)
        broken.append(f"pid {holder.get('pid', '?')}")
    return f"an earlier run ({', '.join(broken)}) was killed; its lock is removed" if broken else None


def live_lock(folder: StackFolder) -> int | None:
    """Return the pid of a Pulumi run on this machine that holds the stack's lock, or None."""
    locks = folder.state / ".pulumi" / "locks"
    for path in locks.rglob(f"{folder.stack}/*.json") if locks.is_dir() else ():
        try:
            pid = int(json.loads(path.read_text())["pid"])
        except (OSError, ValueError, KeyError):
            continue
        if _alive(pid):
            return pid
    return None


def exists(folder: StackFolder, environment: Mapping[str, str]) -> bool | None:
    """Whether the stack is in our file backend; None when the user chose another backend."""
    if environment.get("PULUMI_BACKEND_URL") != f"file://{folder.state}":
        return None
    names = (f"{folder.stack}.json", f"{folder.stack}.json.gz", f"{folder.stack}.json.zst")
    stacks = folder.state / ".pulumi" / "stacks" / PROJECT
    return any((stacks / name).is_file() for name in names)


def _keep(path: Path, document: dict[str, Any], config: Mapping[str, str]) -> None:
    section = document.setdefault("config", {})
    for key, value in config.items():
        full = f"{PROJECT}:{key}"
        _drop_nested(section, key)
        if value == "":
            section.pop(full, None)
        else:
            section[full] = value
    write_private(path, _yaml(document)) if PROGRAM not in path.parents else write_file(
        path, _yaml(document), 0o644
    )


def _drop_nested(section: dict[str, Any], key: str) -> None:
    """Remove `key` where it is written as nested tables, so that it isn't there twice."""
    top, *rest = key.split(".")
    table = section.get(f"{PROJECT}:{top}")
    for step in rest[:-1]:
        table = table.get(step) if isinstance(table, dict) else None
    if rest and isinstance(table, dict):
        table.pop(rest[-1], None)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def _load(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        return {}
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise LettaOpsError(
            "configuration", f"{path} cannot be read: {error}", "correct the file"
        ) from None
    return document if isinstance(document, dict) else {}


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(document), sort_keys=False))
