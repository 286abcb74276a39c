"""Which release runs, and does anyone still mend it?"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from healthchecks.facts import running_version
from infra.stack.deployment import Deployment
from infra.stack.releases import RELEASES
from infra.targets.facts import Measurement


@dataclass(frozen=True)
class RunningRelease(Measurement):
    """`known` is False for a release that this letta-ops has no facts about."""

    version: str
    known: bool
    end_of_life: dt.date | None


def read_release(deployment: Deployment) -> RunningRelease:
    """Ask the server for its version; while it's down, the profile's counts."""
    version = running_version(deployment)
    release = RELEASES.get(version)
    return RunningRelease(version, release is not None, release.end_of_life if release else None)
