"""What was rehearsed, and what was applied: kept in the stack's folder, for the command after it."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.files import make_folder, write_private
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder

FOLDER = "migrations"


@dataclass(frozen=True)
class Rehearsal:
    """One rehearsal of a migration. `seconds`: of the migrations alone. `growth`: in bytes."""

    id: str
    deployment: str
    backup: str
    revision: str | None
    release: str
    passed: bool
    at: str
    seconds: float
    total_seconds: float
    rows: int
    size: int
    growth: int
    locks: dict[str, str] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    # The major version of Postgres that was gone to; None where it was a release.
    postgres: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def age_seconds(self) -> float:
        return (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(self.at)).total_seconds()


def keep(deployment: Deployment, rehearsal: Rehearsal) -> Path:
    """Write it down and return where."""
    path = _folder(deployment) / f"rehearsal-{rehearsal.id}.json"
    make_folder(path.parent)
    write_private(path, json.dumps(rehearsal.as_json(), indent=1) + "\n")
    return path


def last_rehearsal(
    deployment: Deployment,
    identifier: str,
    revision: str | None,
    release: str,
    postgres: str | None = None,
) -> Rehearsal | None:
    """The newest one of this deployment, from this revision to this release, or this version of Postgres;
    None: there is none."""
    for path in sorted(_folder(deployment).glob("rehearsal-*.json"), reverse=True):
        try:
            found = Rehearsal(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            continue  # of another version of letta-ops: it proves nothing here
        seen = (found.deployment, found.revision, found.release, found.postgres)
        if seen == (identifier, revision, release, postgres):
            return found
    return None


def _folder(deployment: Deployment) -> Path:
    return stack_folder(deployment.stack).root / FOLDER
