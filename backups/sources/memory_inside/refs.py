"""What of a repository is held at one moment: its refs, their logs, its settings."""

from __future__ import annotations

import os
import re

from backups.sources.memory_inside.files import is_folder, is_regular, names_in, opened, shown
from backups.sources.memory_tar import TarWriter

FOLDERS = (b"info", b"logs", b"refs")
# A ref that is being packed stands in `packed-refs` before its own file goes: so that is last.
REFS = (b"refs", b"HEAD", b"packed-refs")
# Hooks are code. The index git derives from HEAD, and Letta does before each commit.
LEFT_OUT = (b"hooks", b"index")
LARGEST = 1 << 24  # of a file beside them; a larger one is none of git's

# Git ends every line of them: one without its end is being written.
REF = re.compile(rb"(?:ref: refs/[^\s]+|[0-9a-f]{40}(?:[0-9a-f]{24})?)\n")
PACKED = re.compile(rb"(?:(?:[0-9a-f]{40,64} .+|\^[0-9a-f]{40,64}|#.*)\n)*")
LOGGED = re.compile(rb"([0-9a-f]{40,64}) ([0-9a-f]{40,64}) .*")

Held = dict[bytes, "bytes | None"]  # path in the repository -> content; None: a folder


def hold_refs(writer: TarWriter, folder: bytes) -> Held:
    return {path: content for name in REFS for path, content in _held(writer, folder, name)}


def hold_rest(writer: TarWriter, folder: bytes) -> Held:
    """The logs, and the small files beside the refs."""
    found: Held = {}
    for name in names_in(folder):
        path = folder + b"/" + name
        if name in (*REFS, *LEFT_OUT) or not (name in FOLDERS or is_regular(path)):
            continue
        if name in FOLDERS or os.lstat(path).st_size <= LARGEST:
            found |= dict(_held(writer, folder, name))
    return found


def write_held(writer: TarWriter, name: bytes, held: Held, top: bytes) -> None:
    """Write what is held as `top`, or below it."""
    inside = [path for path in held if path == top or path.startswith(top + b"/")]
    for path in sorted(inside, key=lambda path: path.split(b"/")):
        content = held[path]
        if content is None:
            writer.folder(name + b"/" + path)
        else:
            writer.file(name + b"/" + path, len(content), [content] if content else [])


def torn(held: Held) -> str | None:
    """What is only half written, or damaged."""
    for path, content in held.items():
        good = True
        if content is None:
            continue
        if _is_ref(path):
            good = REF.fullmatch(content) is not None
        elif path == b"packed-refs":
            good = PACKED.fullmatch(content) is not None
        elif path.startswith(b"logs/"):
            *lines, rest = content.split(b"\n")
            good = not rest and all(map(LOGGED.fullmatch, lines))
        elif path == b"config":
            good = content.endswith(b"\n")
        if not good:
            return f"{shown(path)} is damaged"
    return None


def tips(held: Held) -> list[bytes]:
    """The ids of all objects that refs, and their logs, name."""
    found: set[bytes] = set()
    for path, content in held.items():
        if content is None:
            continue
        if _is_ref(path) and not content.startswith(b"ref:"):
            found.add(content.strip())
        elif path == b"packed-refs":
            lines = [line for line in content.split(b"\n") if not line.startswith(b"#")]
            found |= {line.lstrip(b"^").partition(b" ")[0] for line in lines}
        elif path.startswith(b"logs/"):
            for match in map(LOGGED.fullmatch, content.split(b"\n")):
                found |= set(match.groups()) if match else set()
    return sorted(tip for tip in found if tip.strip(b"0"))


def _is_ref(path: bytes) -> bool:
    return path == b"HEAD" or path.startswith(b"refs/")


def _held(writer: TarWriter, folder: bytes, name: bytes) -> list[tuple[bytes, bytes | None]]:
    path = folder + b"/" + name
    if name.endswith(b".lock"):
        return []
    if is_folder(path):
        inside = [_held(writer, folder, name + b"/" + each) for each in names_in(path)]
        return [(name, None), *(item for items in inside for item in items)]
    with opened(writer, path) as source:
        return [] if source is None else [(name, source.read())]
