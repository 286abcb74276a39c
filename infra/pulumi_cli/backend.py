"""Pulumi's file backend in the state folder: which stacks it has, who holds their locks, its health."""

from __future__ import annotations

import datetime
import json
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.files import write_private
from infra.process import Report
from infra.pulumi_cli.project import PROJECT
from infra.stack.locations import StackFolder


@dataclass(frozen=True)
class Lock:
    """A lock of Pulumi's: a file that says who holds the stack. A killed holder leaves it behind.

    The state folder belongs to one machine, whose other `letta-ops` runs we exclude: a lock with
    another host's name is from before this machine (a container, mostly) got the name it has.
    """

    path: Path
    host: str
    pid: int
    taken: datetime.datetime | None

    @property
    def is_held(self) -> bool:
        """Whether the very process that took it is still there: pids are used again."""
        if self.host != socket.gethostname() or self.taken is None:
            return False
        try:
            holder = psutil.Process(self.pid)
            started = datetime.datetime.fromtimestamp(holder.create_time(), datetime.UTC)
            return "pulumi" in holder.name() and started <= self.taken
        except (psutil.Error, ValueError):
            return False


def locks(folder: StackFolder) -> Iterator[Lock]:
    """Yield the locks of the stack; one that can't be read is held by nobody."""
    for path in (folder.backend / "locks").rglob(f"{folder.stack}/*.json"):
        try:
            holder = json.loads(path.read_text())
            taken = datetime.datetime.fromisoformat(holder["timestamp"])
            yield Lock(path, str(holder["hostname"]), int(holder["pid"]), taken)
        except FileNotFoundError:
            continue  # given back while we looked
        except (OSError, ValueError, KeyError, TypeError):
            yield Lock(path, "", 0, None)


def is_ours(folder: StackFolder, environment: Mapping[str, str]) -> bool:
    """Whether Pulumi uses our file backend; else the user chose another one."""
    return environment.get("PULUMI_BACKEND_URL") == f"file://{folder.state}"


def exists(folder: StackFolder) -> bool:
    """Whether the stack is in our file backend."""
    names = (f"{folder.stack}.json", f"{folder.stack}.json.gz", f"{folder.stack}.json.zst")
    return any((folder.backend / "stacks" / PROJECT / name).is_file() for name in names)


def mend(folder: StackFolder, report: Report) -> None:
    """Make the backend readable again after a Pulumi that was killed, or a power cut. Loses nothing.

    Beside each file it keeps another with attributes that Pulumi never reads, and writes that one
    in place: killed in between, it leaves it empty, and the file beside it can't be opened any more
    ("failed to load checkpoint: EOF"). A power cut may empty the checkpoint itself, where the file
    system puts a rename before its data; the checkpoint of the step before stands beside it.
    Call it while no run is at work on this stack; runs of others are not disturbed.
    """
    for attributes in folder.backend.rglob("*.attrs"):
        if not _is_json(attributes):
            attributes.unlink(missing_ok=True)
    checkpoint = folder.backend / "stacks" / PROJECT / f"{folder.stack}.json"
    before = checkpoint.with_name(f"{checkpoint.name}.bak")
    if checkpoint.is_file() and not _is_json(checkpoint) and _is_json(before):
        broken = checkpoint.with_name(f"{checkpoint.name}.broken")
        shutil.copy2(checkpoint, broken)
        write_private(checkpoint, before.read_text())  # whole or not at all
        report(f"Pulumi's state was unreadable: the one a step before is used ({broken} is kept)")


def has_pending(folder: StackFolder) -> bool:
    """Whether the stack's state, in our file backend, says that something is still being made."""
    checkpoint = folder.backend / "stacks" / PROJECT / f"{folder.stack}.json"
    try:
        return b'"pending_operations"' in checkpoint.read_bytes()
    except FileNotFoundError:
        return False


def forget(folder: StackFolder) -> None:
    """Remove what Pulumi leaves of a stack that it has removed: its checkpoints of before, which the
    passphrase beside them opens."""
    for kind in ("backups", "history"):
        shutil.rmtree(folder.backend / kind / PROJECT / folder.stack, ignore_errors=True)
    for left in (folder.backend / "stacks" / PROJECT).glob(f"{folder.stack}.json*"):
        left.unlink(missing_ok=True)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True
