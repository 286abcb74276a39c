"""The same job with restic and with pgBackRest: time, processor, stored size, and a second backup.

Both are Debian's. pgBackRest copies the files of a whole PostgreSQL 17, from beside it: it has a
container of its own, with the same database; ours is a stack of the target docker.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from benchmarks.backup_scene import BUCKET, SCALE, Scene, scene
from benchmarks.cost import Cost
from benchmarks.pgbackrest import beside
from benchmarks.seed import change
from benchmarks.stage import Figure
from tests.live.machine import Machine

CHANGED = 0.01  # of messages and passages, between two backups
MEGABYTE = 1000**2


def restic(here: Scene) -> Iterator[Figure]:
    """`pg_dump | restic`, to the same store."""
    if shutil.which("restic") is None:
        print("restic is not here (apt-get install restic): left out", flush=True)
        return
    repository = {
        "RESTIC_REPOSITORY": f"s3:{here.store.url}/{BUCKET}/restic",
        "RESTIC_PASSWORD": secrets.token_hex(16),
        "RESTIC_CACHE_DIR": str(here.stack.machine.root / "restic-cache"),
        "RESTIC_PROGRESS_FPS": "0.1",
    }
    here.theirs(("restic", "init"), **repository)
    words = ("restic", "backup", "--stdin", "--stdin-filename", "letta.dump", "--quiet")

    def theirs() -> Cost:
        return here.theirs(here.plain_dump, words, **repository)

    yield from _two(here, "pg_dump | restic", theirs, lambda: here.stored("restic/"), "")


def pgbackrest(machine: Machine) -> Iterator[Figure]:
    """Full and incremental, to a folder beside; both sides work on PostgreSQL 17 in a container."""
    docker = replace(machine, target="docker")
    with scene(docker, "contained", SCALE) as here, beside(here) as other:
        yield from _two(here, "pgBackRest", other.backup, other.stored, "docker: ", other.change)


def _two(
    here: Scene,
    name: str,
    theirs: Callable[[], Cost],
    stored: Callable[[], int],
    where: str,
    also: Callable[[float, int], None] = lambda _share, _number: None,
) -> Iterator[Figure]:
    """Each side's first backup, and its second one after a small change, which `also` makes on the
    other side."""
    before = here.stored("ours/")
    for which in ("first", "second, after 1 % has changed"):
        if which != "first":
            for each in (partial(change, here.stack.deployment), also):
                each(CHANGED, 7)
        ours = here.ours("backup", "create")
        grown = stored() if which != "first" else 0
        other = theirs()
        after = here.stored("ours/")
        yield Figure(
            f"{where}backup create against {name}, {which}",
            ours.seconds / other.seconds,
            "x",
            None,
            f"ours {ours}, {(after - before) / MEGABYTE:.0f} MB stored; theirs {other},"
            f" {(stored() - grown) / MEGABYTE:.0f} MB stored",
        )
        before = after
