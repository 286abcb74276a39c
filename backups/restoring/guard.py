"""Watches a restore while it switches: when it is killed, goes back, so that the server runs again.

Run as `python -P -m backups.restoring.guard PID STARTED STACK [PROFILE]` in a session of its own.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil

from backups.restoring.journal import journal_file
from backups.restoring.switch import finish_interrupted
from infra.deployment import Deployment
from infra.errors import LettaOpsError
from infra.files import held
from infra.locations import stack_folder
from infra.process import command, start_detached
from infra.profiles import load

POLL_SECONDS = 0.3
TRIES = 20  # to go back: the engine, or Postgres, may be down for a moment


def start_guard(deployment: Deployment) -> None:
    """Let a guard watch this process. The journal is written already; the guard ends with it."""
    us = psutil.Process()
    words = [
        sys.executable,
        "-P",
        "-m",
        "backups.restoring.guard",
        str(us.pid),
        repr(us.create_time()),
    ]
    words.append(deployment.stack)
    if deployment.profile is not None:
        words.append(str(deployment.profile))
    output = stack_folder(deployment.stack).root / "restore-guard.log"
    start_detached(
        command(*words, directory=Path("/")),
        output=output,
        code="restore-failed",
        hint="look at the lines above",
        what="starting the guard of the restore",
    )


def main() -> None:
    pid, started, stack, *profile = sys.argv[1:]
    folder = stack_folder(stack)
    deployment = load(folder, Path(profile[0]) if profile else None)
    while _lives(int(pid), float(started)):
        if not journal_file(deployment).exists():
            return
        time.sleep(POLL_SECONDS)
    for _ in range(TRIES):
        try:
            with held(folder.lock, "letta-ops backup restore, going back", _tell):
                finish_interrupted(load(folder, deployment.profile), _tell)
        except LettaOpsError as error:
            _tell(f"not yet: {error.message}")
            time.sleep(3)
        else:
            return


def _lives(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _tell(line: str) -> None:
    print(line, flush=True)  # its output is a log


if __name__ == "__main__":
    main()
