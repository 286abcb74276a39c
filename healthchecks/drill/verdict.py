"""What a drill says: a verdict for each check, and one for the backup. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from backups.verdicts import FAILED, UNVERIFIED, CheckResult, overall
from backups.verify import SIGNATURE
from healthchecks.through_api import AGENTS, ARCHIVAL, MESSAGES
from infra.errors import LettaOpsError
from infra.process import Report

# In this order they are made and told.
DATABASE, COUNTS, REVISION, SECRET, MEMORY, FRESHNESS = CONTENT = (
    "database", "counts", "revision", "secret", "memory", "freshness",
)  # fmt: skip
THROUGH_API = (AGENTS, MESSAGES, ARCHIVAL)
CHECKS = (SIGNATURE, *CONTENT, *THROUGH_API)
RECORD = "record"
NOT_REACHED = "not reached"

# What says nothing about the backup itself, only that it could not be looked at.
OF_CIRCUMSTANCES = (
    "disk-full", "extension-missing", "identity", "identity-missing", "no-pg-dump", "wrong-identity",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A whole drill; `seconds` is how long a recovery takes here, from nothing to judged."""

    id: str
    backup: str
    at: dt.datetime
    seconds: float
    checks: tuple[CheckResult, ...]

    @property
    def verdict(self) -> str:
        return overall(check.verdict for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "backup": self.backup,
            "at": self.at.isoformat(),
            "verdict": self.verdict,
            "seconds": round(self.seconds, 1),
            "checks": [asdict(check) for check in self.checks],
        }

    def as_record(self) -> dict[str, Any]:
        """What is kept beside the backup, in the clear: of each summary the first line, since a
        program's last words, which follow it, may hold what the backup encrypts."""
        document = self.as_json()
        for check in document["checks"]:
            check["summary"] = check["summary"].partition("\n")[0]
        return document


class Judge:
    """Collects the checks of one drill as they are made; what is never made is unverified."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._checks: dict[str, CheckResult] = {}

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        order = [*CHECKS, RECORD]
        return tuple(sorted(self._checks.values(), key=lambda check: order.index(check.name)))

    def add(self, check: CheckResult) -> None:
        self._checks[check.name] = check
        self._report(f"{check.name}: {check.verdict}: {check.summary}")

    def examine(self, name: str, step: Callable[[], CheckResult]) -> None:
        """Add what `step` finds."""
        self.add(examined(name, step))

    def close(self, names: Iterable[str], why: str, hint: str = "") -> None:
        """Those of `names` that were not examined are unverified, since `why`."""
        for name in names:
            if name not in self._checks:
                self.add(CheckResult(name, UNVERIFIED, why, hint))


def examined(name: str, step: Callable[[], CheckResult]) -> CheckResult:
    """Return what `step` finds. Where it fails, that is the verdict: of the data when Postgres or
    the server refuse, unknown when it is we who did not understand the answer."""
    import psycopg

    try:
        return step()
    except LettaOpsError as error:
        return of_error(name, error)
    except psycopg.Error as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return CheckResult(name, FAILED, f"the restored database refuses: {reason}")
    except Exception as error:  # noqa: BLE001  # an answer of a shape that no release gave yet
        return CheckResult(name, UNVERIFIED, f"{type(error).__name__}: {error}")


def of_error(name: str, error: LettaOpsError) -> CheckResult:
    """The check that ended in `error`."""
    outside = error.code in OF_CIRCUMSTANCES or error.code.startswith("store-")
    return CheckResult(name, UNVERIFIED if outside else FAILED, error.message, error.hint)
