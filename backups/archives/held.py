"""What still holds what was erased: backups, agent archives, and what a restore has set aside."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backups.archives.place import ENDING, archives_in
from backups.catalog import deployment_id, read_catalog
from backups.restoring.generations import generations_of
from backups.restoring.restore import kept_generations
from backups.retention import end_of
from backups.scope import scope_of
from backups.stores.store import Store
from infra.stack.deployment import Deployment


@dataclass(frozen=True)
class Holder:
    """`kind`: backup, archive, or what a restore sets aside; `until` is in words. A backup
    goes at `latest` then, where backups go on and `backup prune` is run, and no `until` says more."""

    kind: str
    name: str
    until: str
    latest: dt.datetime | None = None

    def as_json(self) -> dict[str, Any]:
        moment = self.latest
        return {
            "kind": self.kind,
            "name": self.name,
            "until": self.until,
            "latest": moment and moment.isoformat(),
        }


def holders(
    deployment: Deployment, store: Store, archives: Path, since: dt.datetime | None
) -> Iterator[Holder]:
    """Yield what may hold rows that were made at `since` or later. What lies elsewhere (exported files,
    copies of a store) nobody knows.

    Raises LettaOpsError of the store and of the database.
    """
    backups = read_catalog(store, deployment_id(deployment)).backups
    for backup in backups:
        if since is None or backup.manifest.created_at >= since:
            end = end_of(backup, backups, deployment.backups.retention, dt.datetime.now(dt.UTC))
            label = f" of label {backup.manifest.label}" if backup.manifest.label else ""
            conditions = [
                f"{end.latest:%Y-%m-%d} (`backup prune`)",
                *([f"{end.newer} newer backup(s){label} are there"] if end.newer else []),
                *(f"no longer {reason}" for reason in end.reasons),
            ]
            yield Holder("backup", backup.id, ", and ".join(conditions), end.latest)
    for path in sorted(archives.glob(f"*{ENDING}")) if archives.is_dir() else ():
        written = dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
        if since is None or written >= since:
            yield Holder("archive", str(path), "you delete it")
    for place, entry in archives_in(store, deployment_id(deployment)):
        if since is None or entry.modified >= since:
            yield Holder("archive", str(place), "you delete it (`agent archives --delete`)")
    with generations_of(deployment, scope_of(deployment)) as generations:
        for name in kept_generations(deployment, generations):
            yield Holder(
                generations.noun, name, "the next restore, or `backup restore --drop-previous`"
            )
