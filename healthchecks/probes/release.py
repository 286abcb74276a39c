"""Which release runs, does anyone still mend it, and does the client library here know it?"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from importlib.metadata import version as version_of

from healthchecks.facts import running_version
from healthchecks.probes.authentication import Strangers, try_as_stranger
from infra.stack.deployment import Deployment
from infra.stack.releases import RELEASES, WEAKNESSES, Weakness
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


@dataclass(frozen=True)
class Weaknesses(Measurement):
    """Published weaknesses of the release that runs, and who is let in."""

    version: str
    known: tuple[Weakness, ...]
    strangers: Strangers


@dataclass(frozen=True)
class Client(Measurement):
    """The client library of this letta-ops, and the server that it speaks to."""

    library: str
    server: str


def look_for_weaknesses(deployment: Deployment) -> Weaknesses:
    """Raises LettaOpsError when the server doesn't answer: then nothing can be said."""
    version = running_version(deployment)
    release = RELEASES.get(version)
    known = release.weaknesses if release else WEAKNESSES  # nobody has mended them since
    return Weaknesses(version, known, try_as_stranger(deployment))


def compare_client(deployment: Deployment) -> Client:
    return Client(version_of("letta-client"), running_version(deployment))
