"""The smoke test: on the real server an agent is made, talks, remembers, is exported, deleted."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from healthchecks import smoke_cleanup, smoke_steps
from healthchecks.smoke_steps import SmokeRun
from infra.api import api
from infra.errors import LettaOpsError
from infra.sensitive import redact
from infra.stack.deployment import Deployment

if TYPE_CHECKING:
    from letta_client import Letta


@dataclass(frozen=True)
class Step:
    """One step's outcome; `detail` says what was seen, or why it failed or wasn't run.

    `for_others`: it failed at what a model or a Redis has to do, not the server with its data.
    """

    name: str
    passed: bool
    seconds: float
    detail: str
    for_others: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Smoke:
    """The outcome of a whole smoke test; it passed when every step did."""

    passed: bool
    seconds: float
    steps: tuple[Step, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "steps": [step.as_json() for step in self.steps],
        }


class Plan(NamedTuple):
    """A step to take: its name, the seconds that each request may take, what it builds on, and whether
    it succeeds only when others, as the language model, do their part."""

    name: str
    limit: float
    after: tuple[str, ...]
    act: Callable[[Letta, SmokeRun], str]
    for_others: bool = False


PLAN = (
    Plan("create", 60.0, (), smoke_steps.create),
    Plan("message", 60.0, ("create",), smoke_steps.message, True),
    Plan("stream", 60.0, ("create", "message"), smoke_steps.stream, True),
    Plan("memory", 60.0, ("create", "message"), smoke_steps.edit_memory, True),
    Plan("archival", 60.0, ("create",), smoke_steps.use_archival_memory),
    Plan("export", 30.0, ("create",), smoke_steps.export),
)
DELETE = "delete"
DELETE_LIMIT = 30.0


def run(
    deployment: Deployment,
    *,
    model: str | None = None,
    embedding: str | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Smoke:
    """Run every step against `deployment` and tell `on_step` of each as it ends.

    `model` and `embedding` are handles; without them the deployment's are used, and else the first
    that the server lists and that isn't Letta's own hosted service. A server that lists no
    embedding model is a healthy one, which searches archival memory by words: so does the test.
    An embedding that was asked for by name must work.

    A step that fails makes those that build on it "not run", also not passed. What the test made is
    removed in any case, also after Ctrl-C; what a killed run left is removed by the next one. What
    stays are Letta's traces of the model's answers (`provider_traces`): its API can't delete them.
    """
    started = time.monotonic()
    name = f"{smoke_cleanup.PREFIX}{uuid.uuid4().hex[:12]}"
    smoke_run = SmokeRun(deployment, name, model, embedding)
    steps: list[Step] = []

    def end(step: Step) -> None:
        steps.append(step)
        if on_step is not None:
            on_step(step)

    try:
        for plan in PLAN:
            failed = {step.name: step for step in steps if not step.passed}
            end(_take(plan, smoke_run, failed))
    except BaseException as error:
        ending = _delete(smoke_run)
        if not ending.passed and smoke_run.asked:
            error.add_note(f"the smoke test's agent {smoke_run.name} may be left: {ending.detail}")
        raise
    end(_delete(smoke_run))
    return Smoke(all(step.passed for step in steps), time.monotonic() - started, tuple(steps))


def _take(plan: Plan, smoke_run: SmokeRun, failed: Mapping[str, Step]) -> Step:
    missing = [failed[name] for name in plan.after if name in failed]
    if missing:
        why = f"not run: {missing[0].name} failed"
        return Step(plan.name, False, 0.0, why, missing[0].for_others)
    return _timed(plan.name, plan.limit, smoke_run, plan.act, plan.for_others)


def _delete(smoke_run: SmokeRun) -> Step:
    if not smoke_run.asked:
        return Step(DELETE, False, 0.0, "not run: no agent was made", True)
    return _timed(DELETE, DELETE_LIMIT, smoke_run, smoke_cleanup.delete)


def _timed(
    name: str,
    limit: float,
    smoke_run: SmokeRun,
    act: Callable[[Letta, SmokeRun], str],
    for_others: bool = False,
) -> Step:
    started = time.monotonic()
    try:
        with api(smoke_run.deployment, timeout=limit) as client:
            detail, passed = act(client, smoke_run), True
    except LettaOpsError as error:
        detail, passed = error.message, False
        for_others = for_others or error.code == smoke_steps.MODEL_FAILED
    except Exception as error:  # noqa: BLE001  # an answer of a shape that no release gave yet
        detail, passed = f"{type(error).__name__}: {error}", False
    detail = redact(detail, smoke_run.deployment.secrets)
    return Step(name, passed, time.monotonic() - started, detail, for_others and not passed)
