"""One record of the audit trail, and the log that keeps them in the stack's folder."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from infra.files import make_folder
from infra.identity import person
from infra.sensitive import Sensitive, redact
from infra.stack.deployment import Deployment
from infra.stack.locations import StackFolder, stack_folder

Result = Literal["done", "failed", "interrupted"]

LOG = "operations"  # its name


@dataclass(frozen=True)
class Event:
    """One changing command that has ended. `at` is when it began; `detail` is what JSON can hold."""

    command: str
    target: str
    result: Result
    at: dt.datetime
    seconds: float
    detail: Mapping[str, Any] = field(default_factory=dict)
    who: str = field(default_factory=person)
    host: str = field(default_factory=socket.gethostname)
    id: uuid.UUID = field(default_factory=uuid.uuid4)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "id": str(self.id), "at": self.at.astimezone(dt.UTC).isoformat()}

    def without(self, secrets: tuple[Sensitive, ...]) -> Event:
        """Return it without any of `secrets`, however deep, and without what Postgres can't hold."""

        def clean(value: Any) -> Any:
            if isinstance(value, str):
                whole = value.encode(errors="replace").decode().replace("\0", "")
                return redact(whole, secrets)
            if isinstance(value, Mapping):
                return {clean(str(name)): clean(each) for name, each in value.items()}
            if isinstance(value, list | tuple):
                return [clean(each) for each in value]
            return value

        fields = {name: clean(value) for name, value in asdict(self).items()}
        return Event(**fields)


def append_to_log(folder: StackFolder, event: Event, *, in_database: bool = False) -> str | None:
    """Append one line of JSON to the log; nothing where the stack's folder is gone.

    Returns why that wasn't possible, None when it was.
    """
    if not folder.root.is_dir():
        return None
    line = json.dumps({**event.as_json(), "in_database": in_database}) + "\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    try:
        make_folder(folder.logs)
        descriptor = os.open(folder.log(LOG), flags, 0o600)
        with open(descriptor, "ab") as sink:  # noqa: PTH123  # opened already
            sink.write(line.encode())
    except OSError as error:
        return f"the log {folder.log(LOG)} has no record of this command: {error.strerror}"
    return None


def logged(folder: StackFolder, limit: int) -> list[Event]:
    """Return the log's records, newest first; a line that can't be read is left out."""
    found = [event for event, _ in _lines(folder.log(LOG))]
    return sorted(found, key=lambda event: event.at, reverse=True)[:limit]


def pending(folder: StackFolder) -> list[Event]:
    """The records at the log's end that the database has not got: those before, it was told then."""
    backwards = reversed(list(_lines(folder.log(LOG))))
    return [event for event, _ in takewhile(lambda line: not line[1], backwards)][::-1]


def log_folder(deployment: Deployment) -> StackFolder | None:
    """Where the deployment's log is: in its stack's folder, if it has one on this machine."""
    if deployment.folder is not None:
        return deployment.folder
    folder = stack_folder(deployment.stack)
    return folder if deployment.profile == folder.profile else None


def _lines(path: Path) -> Iterator[tuple[Event, bool]]:
    """Each record, and whether the database has got it."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:  # there is none yet, or it is somebody else's
        return
    for line in lines:
        try:
            document = json.loads(line)
            in_database = bool(document.pop("in_database"))
            at = dt.datetime.fromisoformat(document.pop("at"))
            yield Event(**document | {"at": at, "id": uuid.UUID(document["id"])}), in_database
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # the rest of a line that a full disk cut off
