"""What a restore is about to switch, written down before it begins: so that anybody can go back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.deployment import Deployment
from infra.files import write_private
from infra.locations import stack_folder


@dataclass(frozen=True)
class Journal:
    """`side` is the restored database before the switch, `previous` the replaced one after it."""

    backup: str
    name: str
    side: str
    previous: str
    had_database: bool
    had_memory: bool
    old_key: str | None  # what the profile said, a reference or the key itself: mode 0600

    def write(self, path: Path) -> None:
        write_private(path, json.dumps(asdict(self)) + "\n")


def journal_file(deployment: Deployment) -> Path:
    return stack_folder(deployment.stack).root / "restore.json"


def read_journal(path: Path) -> Journal | None:
    """The journal of a restore that has not ended; None: there is none."""
    try:
        return Journal(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
