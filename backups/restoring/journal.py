"""What a restore is about to switch, written down before it begins: so that anybody can go back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backups.catalog import deployment_id
from backups.manifest import LETTA, WHOLE
from backups.scope import scope_of
from infra.errors import LettaOpsError
from infra.files import write_private
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder

NAME_BYTES = 63  # Postgres' NAMEDATALEN, without the byte behind it


@dataclass(frozen=True)
class Journal:
    """`name` is the live database's name, and in the scope `letta` that of the schema with the live
    tables; `side_oid` is the number of what was restored (see `Generations`)."""

    deployment: str  # its id: of several that share a stack's name, and so this file
    backup: str
    name: str
    side_oid: int
    had_database: bool
    had_memory: bool
    # What the profile said of encryption keys, where the backup's is taken over: mode 0600.
    old_keys: dict[str, Any] | None
    # Of a restore that was proven: it goes on when it was interrupted, once it has begun.
    undoes: bool = False
    provisions: bool = False  # going back ends with `up`: the schema has to be put right
    proven: bool = False  # nobody goes back any more
    record: str | None = None  # the id of its record in the audit trail
    scope: str = WHOLE
    # What was restored has clients before it is live: going back keeps it.
    has_standby: bool = False
    # Of a migration: going back brings the stack back to this release.
    release: str | None = None
    # Of one to another major version of Postgres: going back brings its cluster back to this one.
    cluster: str | None = None

    @property
    def migrates(self) -> bool:
        """Whether it is of a migration, and not of a restore."""
        return self.release is not None or self.cluster is not None

    @property
    def side(self) -> str:
        """The restored database before the switch."""
        return beside(self._begin, "_restoring")

    @property
    def previous(self) -> str:
        """The replaced one after it; it stays until the next restore is proven."""
        return beside(self._begin, "_previous")

    @property
    def older(self) -> str:
        """What an earlier restore has replaced, until this one is proven."""
        return beside(self._begin, "_older")

    @property
    def undone(self) -> str:
        """The restored one after going back."""
        return beside(self._begin, "_undone")

    @property
    def _begin(self) -> str:
        return LETTA if self.scope == LETTA else self.name

    def write(self, path: Path) -> None:
        write_private(path, json.dumps(asdict(self)) + "\n")


def beside(name: str, ending: str) -> str:
    """The name of a database that belongs to `name`. What doesn't fit, Postgres would cut off: of a long
    name so much that `name` itself is what is left."""
    whole = name + ending
    if len(whole.encode()) <= NAME_BYTES:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    kept = name.encode()[: NAME_BYTES - len(ending) - len(digest) - 1].decode(errors="ignore")
    return f"{kept}_{digest}{ending}"


def names_of(deployment: Deployment) -> Journal:
    """A journal that only tells what the databases, or schemas, of a restore are called."""
    name = deployment.database.name if deployment.database else ""
    identifier = deployment_id(deployment)
    scope = scope_of(deployment)
    return Journal(
        identifier, "", name, 0, had_database=True, had_memory=True, old_keys=None, scope=scope
    )


def journal_file(deployment: Deployment) -> Path:
    return stack_folder(deployment.stack).root / "restore.json"


def read_journal(deployment: Deployment) -> Journal | None:
    """The journal of a restore of `deployment` that has not ended; None: there is none.

    Raises LettaOpsError (`journal-damaged`) for one that can't be understood.
    """
    found = _read(deployment)
    return found if found is not None and found.deployment == deployment_id(deployment) else None


def ensure_no_other(deployment: Deployment) -> None:
    """Raise LettaOpsError (`restore-unfinished`) while another deployment's journal is in the place."""
    found = _read(deployment)
    if found is not None and found.deployment != deployment_id(deployment):
        raise LettaOpsError(
            "restore-unfinished",
            f"a restore of deployment {found.deployment} was interrupted, and is not undone yet",
            "run a `letta-ops backup create` with its profile, or name another --stack for this one",
        )


def _read(deployment: Deployment) -> Journal | None:
    path = journal_file(deployment)
    try:
        return Journal(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise LettaOpsError(
            "journal-damaged",
            f"{path} tells of a restore that was interrupted, in words that are not understood",
            "use the letta-ops that wrote it; or see which database lives, then remove the file",
        ) from None
