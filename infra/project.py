"""The Pulumi project that `letta-ops` runs, written into the stack's folder.

It runs the same program as the checkout's Pulumi.yaml, with a copy of the stack's configuration.
That configuration has one home: `infra/stacks` of the checkout, as for a literal `pulumi up`, or the
state folder where letta-ops was installed without one. The copy lets an installed wheel provision,
and keeps the passphrase's salt of this machine out of a file that is under version control.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.files import write_file, write_private
from infra.locations import StackFolder

PROJECT = "letta-ops"
PROGRAM = Path(__file__).parent


def write_project(
    folder: StackFolder,
    config: Mapping[str, str],
    *,
    keep: bool,
    environment: Mapping[str, str] = os.environ,
) -> Path:
    """Write the project of the stack and return its folder.

    `config` (flat keys) is laid over the stack's configuration, and with `keep` stays there.
    """
    home = configuration_file(folder, environment)
    document = _load(home)
    _set(document, config)
    if config and keep:
        write_file(home, _yaml(document), 0o644)
    settings = folder.project / home.name
    # A salt in the configuration wins: what it holds encrypted can't be read with another.
    salt = {key: value for key, value in _load(settings).items() if key == "encryptionsalt"}
    write_private(settings, _yaml({**salt, **document}))
    project = {
        "name": PROJECT,
        "main": str(PROGRAM),
        "runtime": {"name": "python", "options": {"virtualenv": sys.prefix}},
    }
    write_file(folder.project / "Pulumi.yaml", _yaml(project), 0o600)
    return folder.project


def configuration_file(folder: StackFolder, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the configuration of a stack is kept; LETTA_OPS_STACKS names another folder."""
    name = f"Pulumi.{folder.stack}.yaml"
    if chosen := environment.get("LETTA_OPS_STACKS"):
        return Path(chosen) / name
    checkout = (PROGRAM.parent / "Pulumi.yaml").is_file()
    return (PROGRAM / "stacks" if checkout else folder.state / "stacks") / name


def break_dead_lock(folder: StackFolder) -> str | None:
    """Remove the locks of Pulumi runs on this machine that died; say so. Live ones are left.

    Pulumi's file backend locks a stack with a file that says who holds it, and never removes it
    for a process that was killed.
    """
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
    return (
        f"an earlier run ({', '.join(broken)}) was killed; its lock is removed" if broken else None
    )


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


def _set(document: dict[str, Any], config: Mapping[str, str]) -> None:
    """Set flat keys in a stack's configuration; an empty value removes its key."""
    section = document.setdefault("config", {})
    for key, value in config.items():
        _drop_nested(section, key)
        section.pop(f"{PROJECT}:{key}", None)
        if value:
            section[f"{PROJECT}:{key}"] = value


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
