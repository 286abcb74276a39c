"""The Pulumi project that `letta-ops` runs, written into the stack's folder.

It runs the same program as the checkout's Pulumi.yaml, with a copy of the stack's configuration.
That configuration has one home: `infra/stacks` of the checkout, as for a literal `pulumi up`, or the
state folder where letta-ops was installed without one. The copy lets an installed wheel provision,
and keeps the passphrase's salt of this machine out of a file that is under version control.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.files import write_file, write_private
from infra.stack.locations import StackFolder
from infra.stack.profile import flatten

PROJECT = "letta-ops"
Judge = Callable[[str, Mapping[str, Any], frozenset[str], Mapping[str, str]], object]
PROGRAM = Path(__file__).parent.parent
SCHEMA = "schema.json"  # beside the stack files; editors find it by their first line
HEADER = (
    f"# yaml-language-server: $schema={SCHEMA}\n# docs/configuration.md says what each key means.\n"
)


def write_project(
    folder: StackFolder,
    config: Mapping[str, str],
    judge: Judge,
    *,
    keep: bool,
    environment: Mapping[str, str] = os.environ,
) -> Path:
    """Write the project of the stack and return its folder.

    `config` (flat keys) is laid over the stack's configuration, and with `keep` stays there: `judge`
    raises what is wrong with the whole (see `infra.targets.settings`).
    """
    home = configuration_file(folder, environment)
    document = _load(home)
    _set(document, config)
    if config and keep:
        # Judged before it is kept: what is refused, a key in plain text above all, is not written.
        judge(folder.stack, *_flat(document), environment)
        _write(home, HEADER + _yaml(document))
    settings = folder.project / home.name
    if not _holds_encrypted(document):
        # Only what is encrypted needs the salt it was encrypted with; else this machine's is kept,
        # whatever another clone, or a literal `pulumi up` with another passphrase, wrote there.
        document.pop("encryptionsalt", None)
        salt = {key: value for key, value in _load(settings).items() if key == "encryptionsalt"}
        document = {**salt, **document}
    write_private(settings, _yaml(document))
    project = {
        "name": PROJECT,
        "main": str(PROGRAM),
        "runtime": {"name": "python", "options": {"virtualenv": sys.prefix}},
    }
    write_file(folder.project / "Pulumi.yaml", _yaml(project), 0o600)
    return folder.project


def configured(folder: StackFolder, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The stack's configuration in flat keys (`server.port`); {} where nothing is configured."""
    return _flat(_load(configuration_file(folder, environment)))[0]


def plain_settings(folder: StackFolder) -> dict[str, Any]:
    """The stack's configuration in flat keys, without what is encrypted; URLs without passwords."""
    values, encrypted = _flat(_load(configuration_file(folder)))
    return {
        key: re.sub(r"//[^/@\s]*@", "//", value) if isinstance(value, str) else value
        for key, value in values.items()
        if key not in encrypted
    }


def configuration_file(folder: StackFolder, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the configuration of a stack is kept; LETTA_OPS_STACKS names another folder."""
    name = f"Pulumi.{folder.stack}.yaml"
    if chosen := environment.get("LETTA_OPS_STACKS"):
        return Path(chosen) / name
    checkout = (PROGRAM.parent / "Pulumi.yaml").is_file()
    return (PROGRAM / "stacks" if checkout else folder.state / "stacks") / name


def _flat(document: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """The configuration of a stack file in flat keys, and which of them are encrypted."""
    section = document.get("config") or {}
    if not isinstance(section, Mapping):
        raise LettaOpsError(
            "configuration", "`config` must be a mapping", "correct the stack's file"
        )
    values = {name.partition(":")[2]: value for name, value in flatten(section)}
    encrypted = {name for name in values if name.endswith(".secure")}
    plain = {name.removesuffix(".secure"): value for name, value in values.items()}
    return plain, frozenset(name.removesuffix(".secure") for name in encrypted)


def _holds_encrypted(document: Mapping[str, Any]) -> bool:
    return bool(_flat(document)[1])


def _write(path: Path, text: str) -> None:
    try:
        write_file(path, text, 0o644)
    except OSError as error:
        raise LettaOpsError(
            "configuration",
            f"{path} cannot be written: {error.strerror}",
            "name a folder for the configuration of stacks with LETTA_OPS_STACKS",
        ) from None


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
