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
    """`name` is the live database's name, `side_oid` the number of the restored one."""

    backup: str
    name: str
    side_oid: int
    had_database: bool
    had_memory: bool
    old_key: str | None  # what the profile said, a reference or the key itself: mode 0600

    @property
    def side(self) -> str:
        """The restored database before the switch."""
        return self.name + "_restoring"

    @property
    def previous(self) -> str:
        """The replaced one after it; it stays until the next restore is proven."""
        return self.name + "_previous"

    @property
    def older(self) -> str:
        """What an earlier restore has replaced, until this one is proven."""
        return self.name + "_older"

    @property
    def undone(self) -> str:
        """The restored one after going back."""
        return self.name + "_undone"

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
