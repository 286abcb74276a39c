"""Ending together with the Pulumi process that started us.

Pulumi ends its plugins itself, but not when it is killed outright: then a plugin would wait for
ever, and what it was doing would run into the next `up`.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
import time

POLL_SECONDS = 1.0


def end_with_parent() -> None:
    """Watch the parent from a thread; when it is gone, end this process and what it started."""
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="orphan watch", daemon=True).start()


def _watch(parent: int) -> None:
    if _standard_input_is_pipe():
        # The engine holds the other end as long as it lives, and never writes: the pipe's end is
        # its death, seen at once and also when it died before we got here.
        while os.read(0, 4096):
            pass
    else:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
    _end()


def _standard_input_is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(0).st_mode)
    except OSError:
        return False


def _end() -> None:
    # Programs that we started (an installer, a migration) share the group that the engine made for
    # us; services have sessions of their own and stay. Started by hand, the group is the caller's.
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGTERM)
    os._exit(1)
