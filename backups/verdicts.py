"""The verdicts on a backup and on what was looked at of it: passed, failed, or not looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PASSED, FAILED, UNVERIFIED = "passed", "failed", "unverified"


@dataclass(frozen=True)
class CheckResult:
    """What was found of one thing; `summary` says what was seen, `hint` what to do next."""

    name: str
    verdict: str
    summary: str
    hint: str = ""


def overall(verdicts: Iterable[str]) -> str:
    """Failed if anything failed, else unverified if anything is, or if nothing was looked at."""
    found = set(verdicts)
    if FAILED in found:
        return FAILED
    return PASSED if found == {PASSED} else UNVERIFIED
