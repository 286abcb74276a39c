"""The mark by which a backup stays, whatever the rules of retention say: `keep.json` beside it."""

from __future__ import annotations

import datetime as dt
import json

from backups.catalog import NO_REASON, Backup, write_object
from backups.manifest import KEEP
from backups.stores.store import Store


def keep(store: Store, backup: Backup, reason: str | None, now: dt.datetime) -> str:
    """Mark `backup`; return the reason that the mark gives. An older mark is replaced."""
    given = reason or NO_REASON
    mark = {"reason": given, "at": now.isoformat()}
    write_object(store, backup.object(KEEP), json.dumps(mark, indent=1))
    return given


def release(store: Store, backup: Backup) -> None:
    """Take the mark away; nothing happens when there is none."""
    store.delete(backup.object(KEEP))
