"""Who is at work: the person, the host and the process, so that others can tell whether it still is."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROCESS_NAMES = Path("/proc/self/ns/pid")  # a container has process ids of its own


@dataclass(frozen=True)
class Process:
    """One process of one host. `boot` says which of the host's lives its `pid` belongs to."""

    who: str
    host: str
    boot: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"{self.who}@{self.host}"

    def is_gone(self) -> bool:
        """Whether it surely runs no more: false for one that can't be looked at from here."""
        here = (self.host, self.boot) == (socket.gethostname(), _boot())
        return here and _started(self.pid) != self.started


def this_process() -> Process:
    pid = os.getpid()
    return Process(person(), socket.gethostname(), _boot(), pid, _started(pid) or "")


def parse_process(document: Mapping[str, Any]) -> Process:
    """Read what `dataclasses.asdict` has written; raises KeyError, ValueError."""
    fields = {name: str(document[name]) for name in ("who", "host", "boot", "started")}
    return Process(pid=int(document["pid"]), **fields)


def person() -> str:
    """The user's name; behind `sudo` that of who called it."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user id without an account; it depends on Python's version
        name = f"uid-{os.getuid()}"
    behind = os.environ.get("SUDO_USER")
    return f"{behind} (as {name})" if behind and behind != name else name


def _boot() -> str:
    try:
        return f"{BOOT_ID.read_text().strip()} {PROCESS_NAMES.readlink()}"
    except OSError:
        import psutil

        return str(int(psutil.boot_time()))


def _started(pid: int) -> str | None:
    """When the process started, on a clock that nobody sets; None when there is none."""
    try:
        # Field 22 of proc(5); the name before it may hold anything, also parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return _started_elsewhere(pid)


def _started_elsewhere(pid: int) -> str | None:
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return "hidden"
