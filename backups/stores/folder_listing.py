"""Listing a folder store: its files in the order of their whole names, without reading all at once."""

from __future__ import annotations

import datetime as dt
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from backups.stores.store import Entry

DRAFT = ".draft-"  # and a random end; beside the object, so that renaming stays in one file system
LOST_AND_FOUND = "lost+found"  # at the top of a file system, for its administrator only


def files_below(root: Path, prefix: str) -> Iterator[Entry]:
    """Yield the files whose names begin with `prefix`, drafts among them, in the order of names.

    Symbolic links are listed as files, since somebody may have moved those of a backup; where they lead
    is not looked at. Other hidden files are none of ours. Raises OSError.
    """
    return _walk(root, "", prefix)


def is_draft(name: str) -> bool:
    return name.rpartition("/")[2].startswith(DRAFT)


def _walk(folder: Path, above: str, prefix: str) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as found:
            # With its slash: "a-b" comes before "a/b" in the order of whole names.
            steps = sorted(found, key=lambda step: step.name + "/" * _is_folder(step))
    except FileNotFoundError:
        return  # removed meanwhile, or not made yet
    for step in steps:
        name = above + step.name
        if _is_folder(step):
            inside = f"{name}/"
            hidden = step.name.startswith(".") or name == LOST_AND_FOUND
            if not hidden and (inside.startswith(prefix) or prefix.startswith(inside)):
                yield from _walk(Path(step.path), inside, prefix)
        elif name.startswith(prefix) and (step.name.startswith(DRAFT) or step.name[0] != "."):
            with suppress(FileNotFoundError):
                status = step.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                    modified = dt.datetime.fromtimestamp(status.st_mtime, dt.UTC)
                    yield Entry(name, status.st_size, modified)


def _is_folder(step: os.DirEntry[str]) -> bool:
    return step.is_dir(follow_symlinks=False)
