"""Writing git-backed memory as a tar, consistent while a server works with it.

Letta makes each commit in a folder of its own, then writes the changed files over those of the
stored repository, in no order and not atomically: a ref may be half a file, or lead to objects that
come a moment later. So the refs are held first; then git says whether all is there that they lead to;
and only then the objects are read.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from backups.sources.memory_inside.files import (
    is_folder,
    is_repository,
    kind,
    names_in,
    shown,
    write_file,
)
from backups.sources.memory_inside.git import has_git, missing
from backups.sources.memory_inside.objects import PAUSE_SECONDS, Objects
from backups.sources.memory_inside.refs import (
    FOLDERS,
    LEFT_OUT,
    REFS,
    Held,
    hold_refs,
    hold_rest,
    tips,
    torn,
    write_held,
)
from backups.sources.memory_tar import ROOT, TarWriter

PATIENCE_SECONDS = 5.0  # for one repository: after that it is taken as it is, and that is told
OBJECTS = b"objects"
REPOSITORIES = b"/repository"  # in it a folder of each organization, with one of each agent


class Refused(Exception):  # noqa: N818  # says what happened
    """The job can't be done; its words are for people."""


def write_memory(writer: TarWriter, folder: bytes, agents: Collection[bytes] = ()) -> None:
    """Write the folder of all memory, or nothing where there is none; with `agents` (ids) only theirs.

    Raises Refused where something else lies there, and when history is removed at that moment.
    """
    if kind(folder) is None:
        return
    if not is_folder(folder):
        raise Refused(f"{shown(folder)} is not a plain folder: what it leads to is not read")
    if not has_git():
        writer.note("there is no git: nobody has looked whether repositories are whole")
    if not agents:
        _write_folder(writer, folder, ROOT)
        return
    writer.folder(ROOT)
    if is_folder(folder + REPOSITORIES):
        writer.folder(ROOT + REPOSITORIES)
    for organization in names_in(folder + REPOSITORIES):
        above = REPOSITORIES + b"/" + organization
        found = [each for each in names_in(folder + above) if each in agents]
        if found:
            writer.folder(ROOT + above)
        for each in found:
            _write_any(writer, folder + above + b"/" + each, ROOT + above + b"/" + each)


def _write_folder(writer: TarWriter, folder: bytes, name: bytes) -> None:
    writer.folder(name)
    if is_repository(folder):
        _write_repository(writer, folder, name)
    else:
        for each in names_in(folder):
            _write_any(writer, folder + b"/" + each, name + b"/" + each)


def _write_any(writer: TarWriter, path: bytes, name: bytes) -> None:
    if is_folder(path):
        _write_folder(writer, path, name)
    else:
        write_file(writer, path, name)


def _write_repository(writer: TarWriter, folder: bytes, name: bytes) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    held, complaint = _settled(writer, folder, deadline)
    if complaint:
        writer.note(f"{shown(name)}: {complaint}")
    tops = {path.partition(b"/")[0] for path in held}
    others = set(names_in(folder)) - {*FOLDERS, *REFS, *LEFT_OUT, OBJECTS} - tops
    for top in sorted(tops | others | {OBJECTS}):
        if top == OBJECTS:
            Objects(writer, folder + b"/" + top, name + b"/" + top, deadline).write()
            if complaint is None and (lost := missing(folder, tips(held))):
                raise Refused(f"{shown(name)}: history was removed while it was read: {lost}")
        elif top in tops:
            write_held(writer, name, held, top)
        elif not top.endswith(b".lock"):
            _write_any(writer, folder + b"/" + top, name + b"/" + top)


def _settled(writer: TarWriter, folder: bytes, deadline: float) -> tuple[Held, str | None]:
    """Hold the repository at a moment when all is there; else, at the deadline, say what isn't."""
    while True:
        held = hold_refs(writer, folder) | hold_rest(writer, folder)
        complaint: str | None = "it changes all the time"
        if b"" in held.values():  # a log may be; or it is about to be written
            time.sleep(PAUSE_SECONDS)
        if held == hold_refs(writer, folder) | hold_rest(writer, folder):
            complaint = torn(held) or missing(folder, tips(held))
        if complaint is None or time.monotonic() > deadline:
            return held, complaint
        time.sleep(PAUSE_SECONDS)
