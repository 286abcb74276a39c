"""The last migration of a stack to another release: what it replaced, and of which release that is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.files import write_private
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder


@dataclass(frozen=True)
class Upgrade:
    """`previous_oid` is the number of the database that it replaced, and that was left untouched."""

    before: str  # releases
    after: str
    previous_oid: int
    at: str
    backup: str


def keep_upgrade(deployment: Deployment, upgrade: Upgrade) -> None:
    write_private(_file(deployment), json.dumps(asdict(upgrade)) + "\n")


def last_upgrade(deployment: Deployment) -> Upgrade | None:
    """None where there was none, or where it was written by another version of letta-ops."""
    try:
        return Upgrade(**json.loads(_file(deployment).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def release_of(deployment: Deployment, oid: int) -> str | None:
    """The release of a database that the last migration has replaced; None for any other."""
    upgrade = last_upgrade(deployment)
    return upgrade.before if upgrade and oid and upgrade.previous_oid == oid else None


def _file(deployment: Deployment) -> Path:
    return stack_folder(deployment.stack).root / "upgrade.json"
