"""Secrets of tools: on request only, into the file that the successor has where there is no keychain."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.files import write_private
from infra.sensitive import Sensitive
from ops_cli.exit import layout
from ops_cli.exit.placing import Stage
from ops_cli.exit.v1 import Source

NAME = re.compile(r"[A-Z_][A-Z0-9_]*")  # of the successor
INDEX = "index"  # in the place of a name: which names an agent has


@dataclass(frozen=True)
class Secrets:
    """That they come along; `key` opens them, where it is not the source's own."""

    key: Sensitive | None = None


def secrets_of(
    source: Source, agents: Sequence[str], wanted: Secrets
) -> tuple[dict[str, Sensitive], list[str]]:
    """Those of some agents by the successor's names for them, and what there is to say.

    Raises LettaOpsError: `secret-unreadable`.
    """
    found: dict[str, Sensitive] = {}
    notes: list[str] = []
    for identifier in agents:
        for name, value in source.secret_values(source.agent(identifier), wanted.key).items():
            key = _key(layout.local_id(identifier), name.upper())
            if not NAME.fullmatch(name.upper()) or key in found:
                notes.append(f"{identifier}: the successor can't have a secret called {name}")
            else:
                found[key] = value
    return found, notes


def read_secrets(store: Path) -> dict[str, Any]:
    """Those that a store has. Raises LettaOpsError (`store-damaged`)."""
    path = store / layout.SECRETS
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    secrets = found.get("secrets") if isinstance(found, dict) else None
    if not isinstance(secrets, dict):
        raise LettaOpsError(
            "store-damaged",
            f"{path} can't be read; nothing was changed",
            "correct it, or go without --with-secrets",
        )
    return secrets


def add_secrets(
    stage: Stage, there: Mapping[str, Any], secrets: Mapping[str, Sensitive], *, replace: bool
) -> int:
    """Add `secrets` to those that are `there`, and return how many these were. One that is there stays as
    it is, but with `replace`: then a copy of the file is set aside."""
    path = stage.destination / layout.SECRETS
    new = {name: value for name, value in secrets.items() if replace or name not in there}
    if not new:
        return 0
    if path.is_file():
        stage.set_aside(layout.SECRETS)
    merged = {**there, **{name: value.reveal() for name, value in new.items()}}
    for agent in {name.split(":")[1] for name in new}:
        begin = _key(agent, "")
        names = {name.removeprefix(begin) for name in merged if name.startswith(begin)}
        merged[_key(agent, INDEX)] = json.dumps(sorted(names - {INDEX}))
    layout.make_private(path.parent)
    write_private(path, json.dumps({"secrets": merged}, indent=2) + "\n")
    return len(new)


def _key(agent: str, name: str) -> str:
    return f"agent:{agent}:secrets:{name}"
