"""Pulumi's event stream (`--json`) -> progress lines for people, and the outcome as data."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.process import Report

DOING = {
    "create": "creating",
    "update": "updating",
    "delete": "removing",
    "replace": "replacing",
    "create-replacement": "creating the replacement",
    "delete-replaced": "removing the replaced one",
}
DONE = {
    "create": "created",
    "update": "updated",
    "delete": "removed",
    "replace": "replaced",
    "create-replacement": "replacement created",
    "delete-replaced": "replaced one removed",
}
HOLDS_DATA = ("cluster", "database", "encryption-key", "volume-database", "volume-home")
TRACEBACK = (
    "Traceback (most recent call last)",
    "During handling of the above exception",
    "The above exception was the direct cause",
)
RAISED = re.compile(r"(\w+\.)*[A-Z_]\w*(:|$)")
NOISE = ("Exception calling application",)
HIDDEN = ("pulumi:pulumi:Stack", "pulumi:providers:")


@dataclass(frozen=True)
class ResourceChange:
    """What happens to one resource: `action` is Pulumi's word (create, update, replace, delete)."""

    name: str
    type: str
    action: str

    @property
    def holds_data(self) -> bool:
        """Whether what can't be made again is in it: agents, messages, or the key to them."""
        return self.name in HOLDS_DATA

    @property
    def loses(self) -> bool:
        return self.action in ("replace", "delete")


class _Tracebacks:
    """Leaves out Python's tracebacks, which come whole or, from the language host, line by line.

    An expected error is shown as such at the end; where in Pulumi it was raised helps nobody. What
    was raised is left in with `tell`.
    """

    def __init__(self, *, tell: bool = False) -> None:
        self._tell = tell
        self._inside = False  # also of what the exception says, while it is indented
        self._stack = False

    def without(self, text: str) -> list[str]:
        return [line for line in text.splitlines() if not self._hides(line)]

    def _hides(self, line: str) -> bool:
        if line.strip().startswith(TRACEBACK):
            self._inside = self._stack = True
        elif self._inside and line.strip(" \t>") and not line[0].isspace():
            raised = self._stack and RAISED.match(line) is not None
            self._inside = raised and not self._tell
            self._stack = False
        return self._inside


@dataclass
class Events:
    """Reads one run's events, a line at a time; what happened is in its fields afterwards."""

    report: Report
    preview: bool = False
    changes: dict[str, int] = field(default_factory=dict)
    resources: list[ResourceChange] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    _started: dict[str, float] = field(default_factory=dict)
    _tracebacks: dict[str | None, _Tracebacks] = field(default_factory=dict)

    def read(self, line: str) -> None:
        """Take one line of output; what is no event is kept in `other` (the CLI's own words)."""
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            self.other += self._of(None).without(line)
        elif body := event.get("diagnosticEvent"):
            self._diagnostic(body)
        elif body := event.get("resourcePreEvent"):
            self._begin(body["metadata"])
        elif body := event.get("resOutputsEvent"):
            self._end(body["metadata"])
        elif body := event.get("summaryEvent"):
            self.changes = dict(body.get("resourceChanges") or {})

    def _diagnostic(self, body: Mapping[str, Any]) -> None:
        severity, whole = body["severity"], str(body["message"])
        if severity == "error":
            self.errors.append("\n".join(_Tracebacks(tell=True).without(whole)).strip())
        elif severity == "info#err":
            message = "\n".join(self._of(body.get("urn")).without(whole)).strip()
            if not message or message.startswith(NOISE):
                return
            # A dynamic provider's words come without the resource that they are about.
            name = _name(body.get("urn") or "")
            self.report(f"{name}: {message}" if name else message)

    def _of(self, urn: str | None) -> _Tracebacks:
        """The filter of what is said of one resource: others speak at the same time."""
        return self._tracebacks.setdefault(urn, _Tracebacks())

    def _begin(self, metadata: Mapping[str, Any]) -> None:
        action = metadata["op"]
        if action not in DOING or metadata["type"].startswith(HIDDEN):
            return
        name = _name(metadata["urn"])
        if action in ("create", "update", "replace", "delete"):  # the others are steps of a replace
            self.resources.append(ResourceChange(name, metadata["type"], action))
        if not self.preview and not _component(metadata):
            self._started[metadata["urn"]] = time.monotonic()
            self.report(f"{name}: {DOING[action]}")

    def _end(self, metadata: Mapping[str, Any]) -> None:
        started = self._started.pop(metadata["urn"], None)
        if started is not None:
            seconds = time.monotonic() - started
            self.report(f"{_name(metadata['urn'])}: {DONE[metadata['op']]} ({seconds:.1f} s)")


def _component(metadata: Mapping[str, Any]) -> bool:
    return not metadata.get("provider")


def _name(urn: str) -> str:
    return urn.rpartition("::")[2]
