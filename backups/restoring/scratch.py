"""The private folder of a restore that makes a database beside the live one: it tells of a killed one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from backups.catalog import deployment_id
from backups.humanize import size_in_words
from backups.restoring.generations import Generations, generations_of
from backups.restoring.journal import names_of
from backups.side_database import drop_after
from infra.errors import LettaOpsError
from infra.files import make_folder
from infra.process import Report
from infra.servers import remove_standby
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder


@contextmanager
def scratch_folder(deployment: Deployment, generations: Generations) -> Iterator[Path]:
    """Yield a folder on the stack's own disk, which nobody else can look into.

    When the block fails, the copy beside the live database is dropped; where that fails too, the
    folder stays, empty, for the next run to do it.
    """
    root = stack_folder(deployment.stack).root
    make_folder(root)
    made = Path(tempfile.mkdtemp(prefix=_prefix(deployment), dir=root))
    os.chmod(made, 0o700)  # noqa: PTH101
    try:
        yield made
    except BaseException as error:
        side = names_of(deployment).side
        if drop_after(error, partial(generations.drop, side), side):
            shutil.rmtree(made, ignore_errors=True)
        raise
    shutil.rmtree(made, ignore_errors=True)


def ensure_room(scratch: Path, needed: int) -> None:
    """Raise LettaOpsError (`disk-full`) where so many bytes surely don't fit."""
    free = shutil.disk_usage(scratch).free
    if free < needed * 1.05:
        raise LettaOpsError(
            "disk-full",
            f"restoring needs {size_in_words(needed)} in {scratch}, and {size_in_words(free)} are free",
            "free some disk space, then run this again",
        )


def remove_leftovers(deployment: Deployment, report: Report) -> None:
    """Remove what a killed restore had made beside the live database: the dump, in the clear, and the
    copy. The caller holds the lock. Raises LettaOpsError like `Host.administrator`."""
    left = sorted(stack_folder(deployment.stack).root.glob(f"{_prefix(deployment)}*"))
    if not left:
        return
    report("an earlier restore was killed: what it had made beside the live database is removed")
    remove_standby(deployment)
    names = names_of(deployment)
    with generations_of(deployment, names.scope) as generations:
        if generations.is_ours(names.side):  # else the next restore says whose name it needs
            generations.drop(names.side)
    for folder in left:  # last: as long as they are there, the next run finds them
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(deployment: Deployment) -> str:
    return f"restoring.{deployment_id(deployment)}."
