"""The backups that a store holds: found by their manifests, nothing else counts."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backups.manifest import DRILLS, KEEP, MANIFEST, Manifest, parse_manifest
from backups.stores.store import Store
from infra.errors import LettaOpsError

NEWEST = "latest"


@dataclass(frozen=True)
class Drill:
    """The verdict of one drill: `passed`, `failed` or `unverified`; `seconds` is the real RTO."""

    at: dt.datetime
    verdict: str
    seconds: float
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Backup:
    """One complete backup in a store, and what is kept beside it."""

    manifest: Manifest
    kept: str | None  # the reason that its `keep` mark gives
    drills: tuple[Drill, ...]  # oldest first

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def last_drill(self) -> Drill | None:
        return self.drills[-1] if self.drills else None

    def object(self, name: str) -> str:
        """The name in the store of what lies beside the manifest."""
        return f"{folder_of(self.manifest.deployment, self.id)}{name}"


@dataclass(frozen=True)
class Damaged:
    """Something that has a manifest, which can't be read: it is no backup, and it is no rubbish."""

    folder: str
    error: LettaOpsError


@dataclass(frozen=True)
class Catalog:
    """What a store holds: `backups` oldest first; `damaged`; and `incomplete` folders, without a
    manifest: a backup that is being made, or what is left of one."""

    backups: tuple[Backup, ...]
    damaged: tuple[Damaged, ...]
    incomplete: Mapping[str, dt.datetime]  # folder -> when something was last written into it

    def find(self, word: str) -> Backup:
        """Return the backup whose id is `word` or begins with it; `latest` is the newest.

        Raises LettaOpsError: `no-backup`, `ambiguous-backup`, or the error of a damaged manifest.
        """
        if word == NEWEST and self.backups:
            return self.backups[-1]
        found = [backup for backup in self.backups if backup.id.startswith(word)]
        exact = [backup for backup in found if backup.id == word]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if found:
            raise LettaOpsError(
                "ambiguous-backup",
                f"{word} is the beginning of {', '.join(backup.id for backup in found)}",
                "write more of the id",
            )
        for damaged in self.damaged:
            if damaged.folder.rstrip("/").rpartition("/")[2].startswith(word):
                raise damaged.error
        raise LettaOpsError(
            "no-backup",
            "there is no backup yet" if word == NEWEST else f"there is no complete backup {word}",
            "make one with `letta-ops backup create`"
            if word == NEWEST
            else "see `letta-ops backup list`, and `--all` for those of other deployments",
        )


def folder_of(deployment: str, backup: str) -> str:
    """Where a backup lies in its store, with a slash at the end."""
    return f"{deployment}/{backup}/"


def read_catalog(store: Store, deployment: str | None) -> Catalog:
    """Read what `store` holds of `deployment`, or of every one with None.

    Raises what the store raises; a manifest that is damaged or newer is told in `damaged`.
    """
    folders: dict[str, dict[str, dt.datetime]] = {}
    for entry in store.entries(f"{deployment}/" if deployment else ""):
        owner, _, rest = entry.name.partition("/")
        backup, slash, name = rest.partition("/")
        if slash:
            folders.setdefault(folder_of(owner, backup), {})[name] = entry.modified
    backups, damaged, incomplete = [], [], {}
    for folder, names in sorted(folders.items()):
        if MANIFEST not in names:
            incomplete[folder] = max(names.values())
            continue
        try:
            backups.append(_backup(store, folder, names))
        except LettaOpsError as error:
            if error.code not in ("manifest-damaged", "manifest-newer"):
                raise
            damaged.append(Damaged(folder, error))
    backups.sort(key=lambda backup: (backup.manifest.created_at, backup.id))
    return Catalog(tuple(backups), tuple(damaged), incomplete)


def read_object(store: Store, name: str) -> bytes:
    """Return a small object whole."""
    with store.read(name) as source:
        pieces = iter(lambda: source.read(1 << 16), b"")
        return b"".join(pieces)


def write_object(store: Store, name: str, text: str, *, exclusive: bool = False) -> None:
    with store.write(name, exclusive=exclusive) as sink:
        sink.write(text.encode())


def _backup(store: Store, folder: str, names: Mapping[str, dt.datetime]) -> Backup:
    manifest = parse_manifest(read_object(store, folder + MANIFEST), folder + MANIFEST)
    kept = None
    if KEEP in names:
        kept = str(_small(store, folder + KEEP).get("reason") or "")
    return Backup(manifest, kept, tuple(_drills(store, folder, sorted(names))))


def _drills(store: Store, folder: str, names: list[str]) -> Iterator[Drill]:
    for name in names:
        if name.startswith(DRILLS):
            document = _small(store, folder + name)
            try:
                at = dt.datetime.fromisoformat(document["at"])
                yield Drill(at, str(document["verdict"]), float(document["seconds"]), document)
            except (KeyError, ValueError, TypeError):
                continue  # a verdict that can't be read is none


def _small(store: Store, name: str) -> dict[str, Any]:
    try:
        found = json.loads(read_object(store, name))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
