"""The words of a check: a probe measures, a rule judges, a report puts the worst finding first."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from infra.stack.deployment import Deployment
from infra.targets.facts import Measurement


class State(enum.Enum):
    """What a finding is worth; the value is the exit code of the monitoring plugins' guidelines."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def severity(self) -> int:
        """OK < WARNING < UNKNOWN < CRITICAL.

        nagiosplugin puts UNKNOWN above CRITICAL, by its code. Here it stands below: what is known
        to be broken must not disappear behind what could not be seen.
        """
        return (State.OK, State.WARNING, State.UNKNOWN, State.CRITICAL).index(self)


class Need(enum.Enum):
    """What a check can't do without; the value says why it was left out."""

    DATABASE = "the profile names no database"
    REGISTRY = "the profile names no database, and no other place for a registry"
    SERVICES = "the stack's services are no processes of this machine"
    CONTAINERS = "the stack doesn't run in containers"
    WITHIN_REACH = "the stack was not provisioned from here"
    TLS = "the server is reached over plain HTTP"
    STORE = "the profile names no store, and the stack can't be backed up from here"


@dataclass(frozen=True)
class Finding:
    """What is said about one check. `checked` is False where a need of the check was not met."""

    name: str
    state: State
    summary: str
    detail: str = ""
    hint: str = ""
    checked: bool = True

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state.name,
            "summary": self.summary,
            "detail": self.detail,
            "hint": self.hint,
            "checked": self.checked,
        }


@dataclass(frozen=True)
class Verdict:
    """A rule's judgement of a measurement, with its reasons; it becomes a finding under a name."""

    state: State
    summary: str
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Thresholds:
    """Every limit that a rule compares with; sizes in bytes, times in seconds."""

    today: dt.date
    slow_answer: float = 5.0
    low_disk_share: float = 0.10
    low_disk_bytes: int = 5 * 1000**3
    full_disk_share: float = 0.02
    full_disk_bytes: int = 1 * 1000**3
    recent_restart: float = 24 * 3600.0
    high_memory_share: float = 0.90
    old_image_days: float = 90.0
    certificate_days: float = 21.0
    certificate_days_critical: float = 3.0
    old_backup: float = 26 * 3600.0  # without a schedule; with one, in its intervals:
    old_backup_critical: float = 50 * 3600.0
    old_backup_intervals: float = 1.5
    old_backup_intervals_critical: float = 3.0
    old_drill: float = 8 * 86400.0
    low_store_backups: float = 3.0  # so many of the newest backup's size are free
    full_store_backups: float = 1.2
    overdue_backups: int = 10
    overdue_days: float = 2.0


M = TypeVar("M", bound=Measurement)
Measured_co = TypeVar("Measured_co", bound=Measurement, covariant=True)
Judged_contra = TypeVar("Judged_contra", bound=Measurement, contravariant=True)


class Probe(Protocol[Measured_co]):
    """Looks at a deployment, judges nothing; what it can't see it raises."""

    def __call__(self, deployment: Deployment, /) -> Measured_co: ...


class Rule(Protocol[Judged_contra]):
    """Judges a measurement; pure, so that its cases are a table."""

    def __call__(self, measurement: Judged_contra, thresholds: Thresholds, /) -> Verdict: ...


@dataclass(frozen=True)
class Check(Generic[M]):
    """A probe and the rule for what it measures, under the name by which it is acknowledged."""

    name: str
    probe: Probe[M]
    rule: Rule[M]
    needs: tuple[Need, ...] = ()

    def judge(self, measurement: M, thresholds: Thresholds) -> Finding:
        """Judge what the probe has seen; it may be shared with other checks."""
        verdict = self.rule(measurement, thresholds)
        return Finding(self.name, verdict.state, verdict.summary, verdict.detail, verdict.hint)


@dataclass(frozen=True)
class Report:
    """All findings about a stack, worst first; `seconds` is what the whole check took."""

    stack: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def state(self) -> State:
        return worst(finding.state for finding in self.findings)

    @property
    def exit_code(self) -> int:
        return self.state.value

    def as_json(self) -> dict[str, Any]:
        return {
            "stack": self.stack,
            "state": self.state.name,
            "seconds": round(self.seconds, 3),
            "findings": [finding.as_json() for finding in self.findings],
        }


def worst(states: Iterable[State]) -> State:
    """The most severe of `states`; a report about nothing is UNKNOWN, never OK."""
    return max(states, key=lambda state: state.severity, default=State.UNKNOWN)
