"""Pulumi's file backend in the state folder: which stacks it has, and who holds their locks."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.engine.project import PROJECT
from infra.locations import StackFolder


@dataclass(frozen=True)
class Lock:
    """A lock of Pulumi's: a file that says who holds the stack. A killed holder leaves it behind."""

    path: Path
    host: str
    pid: int

    @property
    def is_here(self) -> bool:
        """Whether the holder ran on this machine: of another one, nothing can be said."""
        return self.host in ("", socket.gethostname())

    @property
    def is_held(self) -> bool:
        return self.pid > 0 and psutil.pid_exists(self.pid)


def locks(folder: StackFolder) -> Iterator[Lock]:
    """Yield the locks of the stack; one that can't be read is held by nobody."""
    for path in (folder.backend / "locks").rglob(f"{folder.stack}/*.json"):
        try:
            holder = json.loads(path.read_text())
            yield Lock(path, str(holder["hostname"]), int(holder["pid"]))
        except FileNotFoundError:
            continue  # given back while we looked
        except (OSError, ValueError, KeyError, TypeError):
            yield Lock(path, "", 0)


def exists(folder: StackFolder, environment: Mapping[str, str]) -> bool | None:
    """Whether the stack is in our file backend; None when the user chose another backend."""
    if environment.get("PULUMI_BACKEND_URL") != f"file://{folder.state}":
        return None
    names = (f"{folder.stack}.json", f"{folder.stack}.json.gz", f"{folder.stack}.json.zst")
    return any((folder.backend / "stacks" / PROJECT / name).is_file() for name in names)
