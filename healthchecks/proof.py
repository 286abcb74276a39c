"""Does a server do its work with the data that it was just given? What decides whether a restore stays.

What decides is what the server and its database have to answer for. A model that is down, is slow or
calls no tools says nothing about the data: that is told, and nothing is taken back for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from backups.verdicts import FAILED, PASSED, UNVERIFIED, CheckResult
from healthchecks import through_api
from healthchecks.drill.verdict import SECRET, examined
from healthchecks.probes.authentication import try_as_stranger
from healthchecks.probes.encryption import look_at_secrets
from healthchecks.smoke import Step, run
from healthchecks.through_api import Served
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import Deployment
from infra.targets import host

AUTHENTICATION = "authentication"
ATTEMPTS = 3  # others use the server: what changed between two looks is no failure
PAUSE_SECONDS = 1.0


def prove(
    deployment: Deployment,
    report: Report,
    *,
    with_models: bool = True,
    secrets_lost: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> None:
    """Raise LettaOpsError (`smoke-failed`) when the server does not do its work with its data.

    `with_models`: an agent does its work too, as in the smoke test. `secrets_lost`: that the key
    opens nothing was accepted.
    """
    failed = [*_judge_data(deployment, report, secrets_lost)]
    if with_models:
        steps = run(deployment, on_step=on_step).steps
        bad = [step for step in steps if not step.passed]
        failed += [f"{step.name}: {step.detail}" for step in bad if not step.for_others]
        for step in bad:
            if step.for_others:
                report(f"not decisive: {step.name}: {step.detail}")
    if failed:
        raise LettaOpsError(
            "smoke-failed",
            f"the server does not do its work with what was restored: {'; '.join(failed)}",
            "see the server's log (`letta-ops logs letta`)",
        )


def _judge_data(deployment: Deployment, report: Report, secrets_lost: bool) -> Iterator[str]:
    """Judge each thing until it passes; yield what did not, in words."""
    # As the owner: a policy that an application has put on a table keeps the reader from its rows.
    owner = deployment.database.owner if deployment.database else None
    with host(deployment).session(owner) as link:
        link.execute("SET row_security = off")
        served = Served(deployment, link, database_facts(link).schema or "public")
        judges: dict[str, Callable[[], CheckResult]] = {
            AUTHENTICATION: lambda: _judge_authentication(deployment),
            through_api.AGENTS: lambda: through_api.judge_count(served),
            through_api.MESSAGES: lambda: through_api.judge_messages(served),
            through_api.ARCHIVAL: lambda: through_api.judge_archival(served),
            SECRET: lambda: _judge_secret(deployment, secrets_lost),
        }
        for name, judge in judges.items():
            found = _judged(name, judge)
            report(f"proof: {name}: {found.verdict}: {found.summary}")
            if found.verdict == FAILED:
                yield f"{name}: {found.summary}"


def _judged(name: str, judge: Callable[[], CheckResult]) -> CheckResult:
    found = examined(name, judge)
    for _ in range(ATTEMPTS - 1):
        if found.verdict != FAILED:
            break
        time.sleep(PAUSE_SECONDS)
        found = examined(name, judge)
    return found


def _judge_authentication(deployment: Deployment) -> CheckResult:
    """Whoever has no password, or a wrong one, is sent away."""
    attempts = try_as_stranger(deployment).attempts
    let_in = [f"{each.method} {each.path}" for each in attempts if each.status != 401]
    if let_in:
        return CheckResult(AUTHENTICATION, FAILED, f"strangers are answered: {', '.join(let_in)}")
    return CheckResult(AUTHENTICATION, PASSED, "strangers are sent away")


def _judge_secret(deployment: Deployment, secrets_lost: bool) -> CheckResult:
    """The key opens one secret at least: some may have been closed to it before."""
    seen = look_at_secrets(deployment)
    if not seen.encrypted:
        return CheckResult(SECRET, PASSED, "there are no encrypted values")
    if seen.opened:
        return CheckResult(SECRET, PASSED, "the server's key opens what was tried")
    why = f"the server's key opens none of what was tried: {', '.join(seen.unopened) or 'no key'}"
    return CheckResult(SECRET, UNVERIFIED if secrets_lost else FAILED, why)
