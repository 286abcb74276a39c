"""The backups that a store holds: found by their manifests, nothing else counts."""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from backups.manifest import DRILLS, KEEP, MANIFEST, Manifest, parse_manifest
from backups.parallel import in_parallel
from backups.stores.store import Store
from backups.verdicts import FAILED, PASSED
from infra.errors import ConfigurationError, LettaOpsError
from infra.stack.deployment import Deployment

NEWEST = "latest"
NO_REASON = "no reason given"


@dataclass(frozen=True)
class Drill:
    """The verdict of one drill: `passed`, `failed` or `unverified`; `seconds` is the real RTO."""

    at: dt.datetime
    verdict: str
    seconds: float
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Backup:
    """One complete backup in a store, and what is kept beside it.

    `kept` is the reason that its `keep` mark gives. `drills`, oldest first, go back only to the last
    that passed, unless it was read with every drill.
    """

    manifest: Manifest
    kept: str | None
    drills: tuple[Drill, ...]

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def last_drill(self) -> Drill | None:
        return self.drills[-1] if self.drills else None

    @property
    def last_passed(self) -> Drill | None:
        return next((drill for drill in reversed(self.drills) if drill.verdict == PASSED), None)

    @property
    def last_judged(self) -> Drill | None:
        """The last drill that found anything: `unverified` takes nothing back."""
        judging = (drill for drill in reversed(self.drills) if drill.verdict in (PASSED, FAILED))
        return next(judging, None)

    @property
    def judged(self) -> str | None:
        """What that drill found."""
        return None if self.last_judged is None else self.last_judged.verdict

    def object(self, name: str) -> str:
        """The name in the store of what lies beside the manifest."""
        return f"{folder_of(self.manifest.deployment, self.id)}{name}"


@dataclass(frozen=True)
class Damaged:
    """Something that has a manifest, which can't be read: it is no backup, and it is no rubbish."""

    folder: str
    error: LettaOpsError

    @property
    def deployment(self) -> str:
        return self.folder.partition("/")[0]

    @property
    def id(self) -> str:
        return self.folder.rstrip("/").rpartition("/")[2]


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
        found = [backup for backup in self.backups if word and backup.id.startswith(word)]
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
            if word and damaged.id.startswith(word):
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


def deployment_id(deployment: Deployment) -> str:
    """Under which id the deployment's backups are kept; one that we didn't provision may have none
    in its profile: its server's URL stands for it then.

    Raises ConfigurationError for an id that can't be the name of a folder.
    """
    if deployment.id is None:
        parts = urlsplit(deployment.server.url.rstrip("/"))
        place = f"{parts.scheme}://{deployment.server.host}:{deployment.server.port}{parts.path}"
        return str(uuid.uuid5(uuid.NAMESPACE_URL, place))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", deployment.id):
        raise ConfigurationError(
            str(deployment.profile or "the profile"),
            [f"id: {deployment.id!r} can't be the name of a folder in a store"],
            "use letters, digits, dots, dashes and underscores, beginning with a letter or digit",
        )
    return deployment.id


def read_catalog(store: Store, deployment: str | None, *, every_drill: bool = False) -> Catalog:
    """Read what `store` holds of `deployment`, or of every one with None.

    Raises what the store raises; a manifest that is damaged or newer is told in `damaged`. Of the
    drills those back to the last that passed are read, or all with `every_drill`.
    """
    folders: dict[str, dict[str, dt.datetime]] = {}
    for entry in store.entries(f"{deployment}/" if deployment else ""):
        owner, _, rest = entry.name.partition("/")
        backup, slash, name = rest.partition("/")
        if slash and not owner.startswith("_"):  # agent archives: no deployment is called so
            folders.setdefault(folder_of(owner, backup), {})[name] = entry.modified
    complete = [folder for folder in sorted(folders) if MANIFEST in folders[folder]]
    found = in_parallel(
        lambda folder: _examine(store, folder, sorted(folders[folder]), every_drill), complete
    )
    backups = [each for each in found if isinstance(each, Backup)]
    backups.sort(key=lambda backup: (backup.manifest.created_at, backup.id))
    damaged = tuple(each for each in found if isinstance(each, Damaged))
    incomplete = {
        folder: max(names.values()) for folder, names in folders.items() if MANIFEST not in names
    }
    return Catalog(tuple(backups), damaged, incomplete)


def newest_of_all(store: Store) -> Backup | None:
    """The newest backup of any deployment, found by the names: one manifest is read, not each."""
    paths = (entry.name.split("/") for entry in store.entries(""))
    complete = [(path[1], path[0]) for path in paths if path[2:] == [MANIFEST]]
    for id_, owner in sorted(complete, reverse=True):
        backup = _examine(store, folder_of(owner, id_), [], every_drill=False)
        if isinstance(backup, Backup):
            return backup
    return None


def read_object(store: Store, name: str) -> bytes:
    """Return a small object whole."""
    with store.read(name) as source:
        pieces = iter(lambda: source.read(1 << 16), b"")
        return b"".join(pieces)


def write_object(store: Store, name: str, text: str, *, exclusive: bool = False) -> None:
    with store.write(name, exclusive=exclusive) as sink:
        sink.write(text.encode())


def _examine(
    store: Store, folder: str, names: list[str], every_drill: bool
) -> Backup | Damaged | None:
    """What a folder with a manifest holds; None when that was pruned since it was listed."""
    try:
        manifest = parse_manifest(read_object(store, folder + MANIFEST), folder + MANIFEST)
        if folder_of(manifest.deployment, manifest.id) != folder:
            raise _misplaced(manifest, folder)
    except LettaOpsError as error:
        if error.code == "object-missing":
            return None
        if error.code not in ("manifest-damaged", "manifest-newer", "object-is-link"):
            raise
        return Damaged(folder, error)
    kept = None
    if KEEP in names and (mark := _small(store, folder + KEEP)) is not None:
        kept = str(mark.get("reason") or NO_REASON)
    return Backup(manifest, kept, _drills(store, folder, names, every_drill))


def _misplaced(manifest: Manifest, folder: str) -> LettaOpsError:
    return LettaOpsError(
        "manifest-damaged",
        f"{folder}{MANIFEST} is that of {folder_of(manifest.deployment, manifest.id)}",
        "move the folder to where its manifest says that it is",
    )


def _drills(store: Store, folder: str, names: list[str], every_drill: bool) -> tuple[Drill, ...]:
    """Oldest first. They are many after a year, so that the old ones are read only when asked for."""
    found: list[Drill] = []
    for name in reversed(names):
        if name.startswith(DRILLS) and (drill := _drill(_small(store, folder + name) or {})):
            found.append(drill)
            if drill.verdict == PASSED and not every_drill:
                break
    return tuple(sorted(found, key=lambda drill: drill.at))


def _drill(document: Mapping[str, Any]) -> Drill | None:
    """A verdict that can't be read is none."""
    try:
        at = dt.datetime.fromisoformat(document["at"])
        verdict, seconds = str(document["verdict"]), float(document["seconds"])
    except (KeyError, ValueError, TypeError):
        return None
    return None if at.tzinfo is None else Drill(at, verdict, seconds, document)


def _small(store: Store, name: str) -> dict[str, Any] | None:
    """The document at `name`: {} when it is unreadable, None when it is gone."""
    try:
        found = json.loads(read_object(store, name))
    except LettaOpsError as error:
        if error.code == "object-missing":
            return None
        if error.code == "object-is-link":
            return {}
        raise
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
