"""Throw-away folders of this machine: what runs in one is found by its mark, and ends with it.

Run as `python -P -m infra.embedded.throwaway PID FOLDER` it watches over one, in a session of its own:
when the process that made it is killed, it removes what that one left.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from infra.accounts import remove_accounts
from infra.embedded import supervisor
from infra.errors import LettaOpsError
from infra.files import held, make_folder
from infra.process import Report, command, start_detached
from infra.stack.locations import StackFolder, state_folder

FOLDER = "drill-{}"
NAME = re.compile(FOLDER.format("[0-9a-f]{8}"))
GUARD = "infra.embedded.throwaway"  # this module
END_SECONDS = 10.0
POLL_SECONDS = 0.5


def throwaway_parent(folder: StackFolder | None) -> Path:
    """Where throw-away folders of a stack are made; without a folder of its own, in that of all."""
    return folder.root if folder else state_folder() / ".drills"


@contextmanager
def throwaway_folder(parent: Path, report: Report) -> Iterator[StackFolder]:
    """Yield a fresh folder below `parent`. At the end its processes, accounts and files are removed.

    What a killed one left there is removed before; one that is at work is left alone.
    """
    folder = StackFolder(parent, FOLDER.format(secrets.token_hex(4)))
    with ExitStack() as stack:
        with _alone(parent, report):
            remove_leftovers(parent, report)
            _start_guard(folder)  # before there is anything to be cleared away
            make_folder(folder.root)
            stack.enter_context(held(folder.lock, "a drill"))
        try:
            yield folder
        except BaseException as error:
            try:
                _remove_alone(folder, report)
            except (OSError, LettaOpsError) as second:
                error.add_note(f"what is left in {folder.root}, the next drill removes: {second}")
            raise
        _remove_alone(folder, report)


def remove_leftovers(parent: Path, report: Report) -> None:
    """Remove what drills that were killed have left below `parent`."""
    for root in sorted(parent.glob(FOLDER.format("*"))):
        folder = StackFolder(parent, root.name)
        if not NAME.fullmatch(root.name) or root.is_symlink():
            continue
        with suppress(_AtWorkError), _unless_at_work(folder):
            report(f"an earlier drill was killed: removing what it left in {root}")
            _remove(folder)


class _AtWorkError(Exception):
    """A folder belongs to a drill that is at work."""


@contextmanager
def _unless_at_work(folder: StackFolder) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder.lock, "removing what a drill left"))
        except LettaOpsError as error:
            if error.code != "locked":
                raise
            raise _AtWorkError from None
        yield


@contextmanager
def _alone(parent: Path, report: Report) -> Iterator[None]:
    """Between making a folder and holding its lock, it would look like a leftover."""
    with held(parent / "drills.lock", "another drill", report):
        yield


def _remove_alone(folder: StackFolder, report: Report) -> None:
    with _alone(folder.state, report):
        _remove(folder)


def _remove(folder: StackFolder) -> None:
    """The folder goes last: as long as it is there, the next drill takes up what is left to do."""
    _end(folder)
    remove_accounts(folder)
    if folder.root.exists():
        shutil.rmtree(folder.root)


def _end(folder: StackFolder) -> None:
    """End every process of the folder; Postgres at once too, but not without its shared memory."""
    while found := supervisor.processes(folder):
        for process in found:
            with suppress(psutil.Error):
                process.send_signal(
                    signal.SIGQUIT if process.name() == "postgres" else signal.SIGKILL
                )
        for survivor in psutil.wait_procs(found, timeout=END_SECONDS)[1]:
            with suppress(psutil.Error):
                survivor.kill()


def _start_guard(folder: StackFolder) -> None:
    start_detached(
        command(
            sys.executable,
            "-P",
            "-m",
            "infra.embedded.throwaway",
            str(os.getpid()),
            folder.root.absolute(),
        ),
        output=folder.state / "drills.log",
        code="throwaway-failed",
        hint="look at the lines above",
        what="starting the guard of a throw-away folder",
    )


def main() -> None:
    pid, root = int(sys.argv[1]), Path(sys.argv[2])
    seen = False
    while os.getppid() == pid:  # whoever dies is nobody's parent any more
        there = root.exists()
        if seen and not there:
            return
        seen = seen or there
        time.sleep(POLL_SECONDS)
    parent = root.parent
    if root.exists():
        with _alone(parent, _tell):
            remove_leftovers(parent, _tell)


def _tell(line: str) -> None:
    print(line, flush=True)  # its output is a log


if __name__ == "__main__":
    main()
