"""Putting restored memory in the place of what is there, and back: safe to kill between any two steps.

All is done by renaming folders of `.letta`, so that their names say how far it has come:

    memfs            live
    memfs.part       is being written: never looked at, removed by the next write
    memfs.restoring  written whole, waits
    memfs.swapping   as before, and from here on `memfs.before` can only be what was live a moment ago
    memfs.before     what was live before the last swap
    memfs.older      what was live before the swap ahead of that one: an undo brings it back as `before`
    memfs.undoing    was live, its predecessor goes back into its place
    memfs.dropping   is being removed: never looked at
    memfs.adding     one agent's memory, written whole: its folder is moved into the live ones
    memfs.aside      what lay there before, by the time: nothing looks at it

    swap                                    undo
      live restoring [before]                 live before [older]
    1 live restoring [older]                1 undoing before [older]
    2 live swapping [older]                 2 live undoing [older]
    3 before swapping [older]               3 live restoring [older]
    4 before live [older]                   4 live restoring [before]

Each runs on from wherever the other, or itself, was ended: a folder `swapping` or `undoing` says that
it was. A server that starts in the middle may make an empty `memfs` anew: that is removed; one that
isn't empty is refused.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection

from backups.sources.memory_inside.files import is_folder, kind, names_in
from backups.sources.memory_inside.read import REPOSITORIES, Refused
from backups.sources.memory_tar import ROOT, TarReader

LIVE = "memfs"
PART, RESTORING, SWAPPING = "memfs.part", "memfs.restoring", "memfs.swapping"
BEFORE, OLDER = "memfs.before", "memfs.older"
UNDOING, DROPPING = "memfs.undoing", "memfs.dropping"
ADDING, ASIDE = "memfs.adding", "memfs.aside"


class Place:
    """The folder `.letta` below `home`."""

    def __init__(self, home: str) -> None:
        self._folder = os.path.join(home, ".letta")
        if kind(os.fsencode(self._folder)) is not None and not is_folder(os.fsencode(self._folder)):
            raise Refused(f"{self._folder} is not a plain folder")

    def path(self, name: str) -> bytes:
        return os.fsencode(f"{self._folder}/{name}")

    def has(self, name: str) -> bool:
        """Raises Refused where a link or a file lies in the place of the folder."""
        if kind(self.path(name)) is None:
            return False
        if not is_folder(self.path(name)):
            raise Refused(f"{self._folder}/{name} is not a plain folder")
        return True

    @property
    def is_half_way(self) -> bool:
        return self.has(SWAPPING) or self.has(UNDOING)

    def ensure_settled(self) -> None:
        """Raises Refused in the middle of a swap: what is live then is not what was."""
        if self.is_half_way:
            raise Refused(
                f"in {self._folder} a restore was interrupted while it swapped memory: finish it, or"
                " undo it, by restoring again"
            )

    def write(self, read: Callable[[int], bytes]) -> TarReader:
        """Extract a tar; what waited from an earlier time is removed. Ends an interrupted swap by
        undoing it. Raises TarDamaged."""
        if self.is_half_way:
            self.undo()
        os.makedirs(self._folder, 0o700, exist_ok=True)
        for leftover in (PART, RESTORING):
            self._remove(leftover)
        os.mkdir(self.path(PART), 0o700)
        reader = TarReader(read)
        _extract(reader, self.path(PART))
        os.sync()
        self._rename(PART, RESTORING)
        return reader

    def swap(self) -> str:
        """Raises Refused when nothing was written."""
        if self.has(UNDOING):
            self.undo()
        if self.has(RESTORING):
            if self.has(BEFORE):
                self._remove(OLDER)
                self._rename(BEFORE, OLDER)
            self._ensure_live()
            self._rename(RESTORING, SWAPPING)
        elif not self.has(SWAPPING):
            if self.has(BEFORE):
                return "swapped before"
            raise Refused("there is nothing that was written: it can't be swapped in")
        if not self.has(BEFORE):
            self._rename(LIVE, BEFORE)
        self._remove_impostor()
        self._rename(SWAPPING, LIVE)
        return "swapped"

    def undo(self) -> str:
        """What was swapped in waits again; when nothing was, nothing happens."""
        done = self._undo()
        if done and self.has(OLDER) and not self.has(BEFORE):
            self._rename(OLDER, BEFORE)
        return "undone" if done else "nothing to undo"

    def _undo(self) -> bool:
        if self.has(SWAPPING):
            if self.has(BEFORE):
                self._remove_impostor()
                self._rename(BEFORE, LIVE)
            self._rename(SWAPPING, RESTORING)
            return True
        if self.has(RESTORING):
            return True
        if not (self.has(BEFORE) or self.has(UNDOING)):
            return False
        if not self.has(UNDOING):
            self._ensure_live()
            self._rename(LIVE, UNDOING)
        if self.has(BEFORE):
            self._remove_impostor()
            self._rename(BEFORE, LIVE)
        self._rename(UNDOING, RESTORING)
        return True

    def drop(self) -> str:
        """Remove what was live in earlier times; what waits stays."""
        self.ensure_settled()
        there = self.has(BEFORE)
        for name in (BEFORE, OLDER, DROPPING, PART, ADDING, ASIDE):
            self._remove(name)
        return "removed" if there else "nothing to remove"

    def forget(self) -> str:
        """Remove all but what is live and what was before it, so that `undo` takes that swap back."""
        self.ensure_settled()
        for name in (PART, RESTORING, OLDER, DROPPING):
            self._remove(name)
        return "removed"

    def add(self, read: Callable[[int], bytes]) -> bool:
        """Extract the tar of one agent's memory, and put its folder among the live ones; return whether
        another lay there, which is set aside. Raises TarDamaged, and Refused in the middle of a swap."""
        self.ensure_settled()
        os.makedirs(self._folder, 0o700, exist_ok=True)
        self._remove(ADDING)
        os.mkdir(self.path(ADDING), 0o700)
        reader = TarReader(read)
        _extract(reader, self.path(ADDING))
        os.sync()
        replaced = False
        self._ensure_live()
        for folder in self._agents(self.path(ADDING)):
            target = self.path(LIVE) + folder
            os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
            aside = None
            if kind(target) is not None:
                replaced = True
                aside = self._set_aside(target)
            step(f"{ADDING} -> {LIVE}")
            try:
                os.rename(self.path(ADDING) + folder, target)
            except OSError:
                if aside is not None:
                    os.rename(aside, target)
                raise
        os.sync()
        self._remove(ADDING)
        return replaced

    def remove(self, agents: Collection[str]) -> list[str]:
        """Remove the memory of agents, also what was set aside of it; return of which there was some."""
        self.ensure_settled()
        self._remove(ADDING)  # of an `add` that was killed
        names = {os.fsencode(agent) for agent in agents}
        found = set()
        for folder in self._agents(self.path(LIVE)):
            if os.path.basename(folder) in names:
                found.add(os.path.basename(folder))
                shutil.rmtree(self.path(LIVE) + folder)
        for aside in names_in(self.path(ASIDE)):
            if aside.split(b" ")[-1] in names:
                found.add(aside.split(b" ")[-1])
                shutil.rmtree(self.path(ASIDE) + b"/" + aside)
        return sorted(map(os.fsdecode, found))

    def _agents(self, folder: bytes) -> list[bytes]:
        """Below which names in `folder` agents' memory is; each begins with a slash."""
        return [
            b"/".join((REPOSITORIES, organization, agent))
            for organization in names_in(folder + REPOSITORIES)
            for agent in names_in(folder + REPOSITORIES + b"/" + organization)
        ]

    def _set_aside(self, path: bytes) -> bytes:
        os.makedirs(self.path(ASIDE), 0o700, exist_ok=True)
        aside = self.path(ASIDE) + f"/{time.time_ns()} ".encode() + os.path.basename(path)
        step(f"{LIVE} -> {ASIDE}")
        os.rename(path, aside)
        return aside

    def _ensure_live(self) -> None:
        if not self.has(LIVE):
            os.mkdir(self.path(LIVE), 0o700)

    def _remove_impostor(self) -> None:
        if self.has(LIVE):
            for _, _, files in os.walk(self.path(LIVE)):
                if files:
                    raise Refused(
                        f"{self._folder}/{LIVE} was written to while a swap was interrupted: see what"
                        " is in it, move it away, then run this again"
                    )
            self._remove(LIVE)

    def _remove(self, name: str) -> None:
        """By another name first: what is half removed must not look like what it was."""
        if self.has(DROPPING):
            shutil.rmtree(self.path(DROPPING))
        if self.has(name):
            self._rename(name, DROPPING)
            shutil.rmtree(self.path(DROPPING))

    def _rename(self, name: str, new: str) -> None:
        step(f"{name} -> {new}")
        os.rename(self.path(name), self.path(new))
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def step(what: str) -> None:
    """Called ahead of every rename: tests end the process here."""
    del what


def _extract(reader: TarReader, folder: bytes) -> None:
    """Nothing is overwritten: names come once, in order, in folders that were made here."""
    descriptor = -1
    try:
        for piece in reader.pieces():
            if piece.member is not None:
                if descriptor >= 0:
                    os.close(descriptor)
                    descriptor = -1
                path = folder + piece.member.path[len(ROOT) :]
                if piece.member.size is not None:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    descriptor = os.open(path, flags, 0o600)
                elif piece.member.path != ROOT:
                    os.mkdir(path, 0o700)
            data = memoryview(piece.data)
            while data:
                data = data[os.write(descriptor, data) :]
    finally:
        if descriptor >= 0:
            os.close(descriptor)
