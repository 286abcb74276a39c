"""Watches a restore while it switches: when it is killed, goes back, so that the server runs again.

Run as `python -P -m backups.restoring.guard PID STACK [PROFILE]` by the restore itself, in a session of
its own.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from backups.lock import locked
from backups.restoring.journal import Journal, journal_file, read_journal
from backups.restoring.switch import finish_interrupted
from infra.errors import LettaOpsError
from infra.process import command, start_detached
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder
from infra.stack.profile import load

POLL_SECONDS = 0.3
TRIES = 20  # to go back: the engine, or Postgres, may be down for a moment
BUSY_SECONDS = 3600.0  # how long somebody else may be at work, who then goes back himself


def start_guard(deployment: Deployment) -> None:
    """Let a guard watch this process. The journal is written already; the guard ends with it."""
    arguments = [sys.executable, "-P", "-m", "backups.restoring.guard", str(os.getpid())]
    arguments.append(deployment.stack)
    if deployment.profile is not None:
        arguments.append(str(deployment.profile))
    output = stack_folder(deployment.stack).root / "restore-guard.log"
    start_detached(
        command(*arguments),  # in our folder: the profile and LETTA_OPS_STATE may be relative paths
        output=output,
        code="restore-failed",
        hint="look at the lines above",
        what="starting the guard of the restore",
    )


def main() -> None:
    import psycopg

    pid, stack, *profile = sys.argv[1:]
    folder = stack_folder(stack)
    deployment = load(folder, Path(profile[0]) if profile else None)
    mine = read_journal(deployment)  # the next restore has a guard of its own
    while os.getppid() == int(pid):  # whoever dies is nobody's parent any more
        if not journal_file(deployment).exists():
            return
        time.sleep(POLL_SECONDS)
    for _ in range(TRIES):
        try:
            with locked(deployment, None, "backup restore, going back", _tell, BUSY_SECONDS):
                found = read_journal(deployment)
                # What is proven by now is not undone, but recorded.
                if found is not None and _begun_as(found) == _begun_as(mine):
                    finish_interrupted(load(folder, deployment.profile), _tell)
        except (LettaOpsError, psycopg.Error, OSError) as error:
            _tell(f"not yet: {error}")
            time.sleep(3)
        else:
            return


def _begun_as(journal: Journal | None) -> Journal | None:
    """Without what becomes known on the way."""
    return None if journal is None else replace(journal, proven=False, side_oid=0)


def _tell(line: str) -> None:
    print(line, flush=True)  # its output is a log


if __name__ == "__main__":
    main()
