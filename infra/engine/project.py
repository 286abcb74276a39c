"""The Pulumi project that `letta-ops` runs, written into the stack's folder.

It runs the same program as the checkout's Pulumi.yaml, with a copy of the stack's configuration.
That configuration has one home: `infra/stacks` of the checkout, as for a literal `pulumi up`, or the
state folder where letta-ops was installed without one. The copy lets an installed wheel provision,
and keeps the passphrase's salt of this machine out of a file that is under version control.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.files import write_file, write_private
from infra.locations import StackFolder
from infra.profiles import flatten

PROJECT = "letta-ops"
PROGRAM = Path(__file__).parent.parent


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


def configured(folder: StackFolder, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The stack's configuration in flat keys (`server.port`); {} where nothing is configured."""
    section = _load(configuration_file(folder, environment)).get("config") or {}
    return {name.partition(":")[2]: value for name, value in flatten(section)}


def configuration_file(folder: StackFolder, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the configuration of a stack is kept; LETTA_OPS_STACKS names another folder."""
    name = f"Pulumi.{folder.stack}.yaml"
    if chosen := environment.get("LETTA_OPS_STACKS"):
        return Path(chosen) / name
    checkout = (PROGRAM.parent / "Pulumi.yaml").is_file()
    return (PROGRAM / "stacks" if checkout else folder.state / "stacks") / name


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
