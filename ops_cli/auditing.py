"""Every changing command leaves a record: who, what, when, and how it ended."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from infra.errors import LettaOpsError
from ops_cli.invocation import Invocation
from ops_cli.output import note

if TYPE_CHECKING:
    from infra.audit.log import Event, Result
    from infra.stack.deployment import Deployment


@dataclass
class Operation:
    """A changing command at work. It may say more of itself: `detail` is what JSON can hold.

    `deployment` is where the record goes; a command that has read the profile sets it, else it is
    read in the end. With `ends_database`, nobody is told that the database has no record.
    """

    target: str
    detail: dict[str, Any] = field(default_factory=dict)
    deployment: Deployment | None = None
    ends_database: bool = False
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    _took_effect: Callable[[], None] = lambda: None
    _recorded: bool = False

    def took_effect(self) -> None:
        """Record now that it is done: whatever becomes of the rest, nothing takes it back."""
        self._took_effect()
        self._recorded = True


@contextmanager
def audited(invocation: Invocation, command: str, target: str = "") -> Iterator[Operation]:
    """Run the block as `command` (`backup create`), and record how it ended; errors go on their way.

    `target` is what it changes, the stack unless told otherwise.
    """
    operation = Operation(target or invocation.stack)
    at, started = dt.datetime.now(dt.UTC), time.monotonic()
    result: Result = "done"

    def record(**more: Any) -> None:
        from infra.audit.log import Event

        seconds = round(time.monotonic() - started, 1)
        event = Event(command, operation.target, result, at, seconds, operation.detail, **more)
        _record(invocation, operation, event)

    operation._took_effect = lambda: record(id=operation.id)  # noqa: SLF001  # its own
    try:
        yield operation
    except BaseException as error:
        result = _result(error)
        operation.detail |= _told(error)
        raise
    finally:
        if not operation._recorded or result != "done":  # noqa: SLF001
            record()


def known_deployment(invocation: Invocation) -> Deployment | None:
    """The deployment as its profile tells it now; None where there is none that can be read."""
    try:
        return invocation.deployment()
    except LettaOpsError:
        return None


def _record(invocation: Invocation, operation: Operation, event: Event) -> None:
    from infra.audit.log import append_to_log
    from infra.audit.trail import append

    deployment = operation.deployment or known_deployment(invocation)
    missing = None
    if deployment is not None:
        missing = append(deployment, event)
    elif invocation.profile is None:
        missing = append_to_log(invocation.folder, event)  # it failed before there was a profile
    if missing is not None and not operation.ends_database:
        note(f"note: {missing}")


def _result(error: BaseException) -> Result:
    if isinstance(error, typer.Exit):
        return "failed" if error.exit_code else "done"
    return "interrupted" if isinstance(error, KeyboardInterrupt | typer.Abort) else "failed"


def _told(error: BaseException) -> dict[str, Any]:
    """An expected failure in its own words; of another one only its type, which holds no secret."""
    if isinstance(error, LettaOpsError):
        return {"error": error.code, "message": error.message}
    if isinstance(error, typer.Exit):
        return {"exit": error.exit_code} if error.exit_code else {}
    return {"error": "internal", "message": type(error).__name__} if _is_bug(error) else {}


def _is_bug(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, typer.Abort)
