"""An agent's git memory out of a tar: its objects and refs, and nothing that git would run or obey."""

from __future__ import annotations

import os
from pathlib import Path

from backups.archives.memory import Memories
from backups.sources.memory_tar import TarReader

REPOSITORY = b"repo.git"
# No configuration and no hook comes along: they may be commands.
TAKEN = (b"objects", b"refs", b"packed-refs", b"HEAD")


def unpacked(memories: Memories, agent: str, folder: Path) -> Path | None:
    """Put the repository of `agent` into `folder`; return it, a bare one, or None if it has none.

    Raises TarDamaged.
    """
    assert memories.file is not None  # noqa: S101  # there is one where there is memory
    memories.file.seek(memories.of[agent].start)
    into = folder / "repository"
    writing = None
    try:
        for piece in TarReader(memories.file.read).pieces():
            if piece.member is not None:
                if writing is not None:
                    writing.close()
                writing = None
                _, _, inside = piece.member.path.partition(b"/" + REPOSITORY + b"/")
                # `objects/info/alternates` would lead to other folders of this machine.
                if inside.split(b"/")[0] not in TAKEN or inside.startswith(b"objects/info"):
                    continue
                path = into / os.fsdecode(inside)  # the reader refuses what leads out of a tar
                if piece.member.size is None:
                    path.mkdir(parents=True, exist_ok=True)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writing = path.open("xb")
            elif piece.data and writing is not None:
                writing.write(piece.data)
    finally:
        if writing is not None:
            writing.close()
    return into if (into / "HEAD").exists() else None
