"""Running the checks: all at once, in bounded time, with no way for a crash to look like health."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from healthchecks.checks import CHECKS
from healthchecks.model import Check, Finding, Need, Report, State, Thresholds
from infra.background import Background
from infra.errors import LettaOpsError
from infra.sensitive import redact
from infra.stack.deployment import Deployment
from infra.targets import host
from infra.targets.facts import Fact

LIMIT_SECONDS = 20.0


def run(
    deployment: Deployment,
    *,
    acknowledged: frozenset[str] = frozenset(),
    thresholds: Thresholds | None = None,
    checks: Sequence[Check[Any]] = CHECKS,
    limit: float = LIMIT_SECONDS,
) -> Report:
    """Examine `deployment` and return the findings, worst first, else in the order of `checks`.

    A probe that raises, or has no answer within `limit` seconds, is UNKNOWN with its reason. A
    WARNING whose check is in `acknowledged` is shown as OK and says so; CRITICAL and UNKNOWN can't
    be acknowledged. Raises LettaOpsError (`unknown-check`) when `acknowledged` names no check.
    """
    names = [check.name for check in checks]
    if strangers := sorted(acknowledged - set(names)):
        raise LettaOpsError(
            "unknown-check",
            f"no check is named {', '.join(strangers)}",
            f"name one of: {', '.join(names)}",
        )
    started = time.monotonic()
    limits = thresholds or Thresholds(today=dt.datetime.now(dt.UTC).date())
    findings = [
        _acknowledged(finding) if finding.name in acknowledged else finding
        for finding in _examine_all(checks, deployment, limits, started + limit, limit)
    ]
    findings.sort(key=lambda finding: -finding.state.severity)
    return Report(deployment.stack, tuple(findings), time.monotonic() - started)


def _examine_all(
    checks: Sequence[Check[Any]],
    deployment: Deployment,
    thresholds: Thresholds,
    deadline: float,
    limit: float,
) -> list[Finding]:
    """Examine in one thread a probe; checks that share one are judged by the same measurement.

    The threads are daemons: one that hangs doesn't keep us.
    """
    findings: dict[str, Finding] = {}
    sharing: dict[Any, list[Check[Any]]] = {}
    for check in checks:
        sharing.setdefault((check.probe, check.needs), []).append(check)

    def examine(group: Sequence[Check[Any]]) -> None:
        for finding in _examine(group, deployment, thresholds):
            findings[finding.name] = finding

    _import_shared(deployment)
    for examining in [Background(partial(examine, group)) for group in sharing.values()]:
        examining.wait(max(0.0, deadline - time.monotonic()))
    seen = dict(findings)
    return [seen.get(check.name) or _overdue(check, limit) for check in checks]


def _import_shared(deployment: Deployment) -> None:
    """Import what several probes need, here: when one thread imports a package and another one a
    module of it, Python may find that each waits for the other (`_DeadlockError`)."""
    try:
        host(deployment)
    except LettaOpsError:
        return  # each check that asks for it says so
    if deployment.database is not None:
        import psycopg  # noqa: F401
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: F401


def _examine(
    group: Sequence[Check[Any]], deployment: Deployment, thresholds: Thresholds
) -> Iterator[Finding]:
    """Yield a finding of each check in `group`, which share a probe and their needs."""
    try:
        unmet = [need for need in group[0].needs if not _met(need, deployment)]
        seen = None if unmet else group[0].probe(deployment)
    except BaseException as error:  # noqa: BLE001  # a thread's death would be silence
        yield from (_unseen(check, error, deployment) for check in group)
        return
    for check in group:
        if unmet:
            why = f"not checked: {unmet[0].value}"
            yield Finding(check.name, State.OK, why, checked=False)
            continue
        try:
            yield check.judge(seen, thresholds)
        except BaseException as error:  # noqa: BLE001  # also here
            yield _unseen(check, error, deployment)


def _unseen(check: Check[Any], error: BaseException, deployment: Deployment) -> Finding:
    if isinstance(error, LettaOpsError):
        why = f"could not be examined: {error.code.replace('-', ' ')}"
        return Finding(check.name, State.UNKNOWN, why, error.message, error.hint)
    if isinstance(error, PermissionError):
        hint = "run the check as root, or as the user that runs the services"
        why = f"{error.strerror}: {error.filename}"
        return Finding(check.name, State.UNKNOWN, "this user may not look", why, hint)
    reason = redact(f"{type(error).__name__}: {error}", deployment.secrets)
    hint = "report this as a bug of letta-ops"
    return Finding(check.name, State.UNKNOWN, "the probe failed", reason, hint)


def _met(need: Need, deployment: Deployment) -> bool:
    where = host(deployment)
    return {
        Need.DATABASE: deployment.database is not None,
        Need.REGISTRY: deployment.database is not None or deployment.registry is not None,
        Need.SERVICES: Fact.SERVICES in where.facts,
        Need.CONTAINERS: Fact.CONTAINERS in where.facts,
        Need.WITHIN_REACH: where.is_ours,
        Need.TLS: deployment.server.url.startswith("https://"),
        Need.STORE: deployment.backups.store.url is not None or where.can_back_up,
    }[need]


def _overdue(check: Check[Any], limit: float) -> Finding:
    return Finding(check.name, State.UNKNOWN, f"the probe gave no answer in {limit:.0f} s")


def _acknowledged(finding: Finding) -> Finding:
    if finding.state is not State.WARNING:
        return finding
    summary = f"acknowledged: {finding.summary}"
    return Finding(finding.name, State.OK, summary, finding.detail, finding.hint, finding.checked)
