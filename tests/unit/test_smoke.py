"""The smoke test where there is no server, and the shapes that scripts read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from healthchecks import smoke, smoke_steps
from healthchecks.smoke import Smoke, Step, run
from infra.stack.deployment import Deployment, Server

NAMES = ["create", "message", "stream", "memory", "archival", "export", "delete"]
NOWHERE = Deployment("prod", "external", Server("http://127.0.0.1:9"))


def test_the_json_has_exactly_the_promised_keys() -> None:
    step = Step("create", True, 0.12345, "agent-1")
    assert Smoke(True, 1.23456, (step,)).as_json() == {
        "passed": True,
        "seconds": 1.235,
        "steps": [{"name": "create", "passed": True, "seconds": 0.123, "detail": "agent-1"}],
    }


def test_without_a_server_the_first_step_fails_and_the_others_are_not_run() -> None:
    heard: list[Step] = []
    outcome = run(NOWHERE, on_step=heard.append)
    assert not outcome.passed
    assert [step.name for step in outcome.steps] == NAMES
    assert heard == list(outcome.steps)
    assert "no server answers" in outcome.steps[0].detail
    assert all(step.detail.startswith("not run: ") for step in outcome.steps[1:])


def test_an_interruption_comes_through() -> None:
    def interrupt(_: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(NOWHERE, on_step=interrupt)


def test_every_step_builds_on_one_before_it() -> None:
    for position, plan in enumerate(smoke.PLAN):
        assert set(plan.after) <= {earlier.name for earlier in smoke.PLAN[:position]}


@pytest.mark.parametrize(
    ("handles", "expected"),
    [
        (["letta/letta-free", "openai/gpt-4o", "openai/gpt-5"], "openai/gpt-4o"),
        (["letta/letta-free"], None),
        ([], None),
        ([None, "ollama/qwen"], "ollama/qwen"),
    ],
)
def test_the_first_listed_model_is_taken_but_never_one_hosted_elsewhere(
    handles: list[str | None], expected: str | None
) -> None:
    models = [SimpleNamespace(handle=handle) for handle in handles]
    assert smoke_steps._first(smoke_steps._handles(models)) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("hello", "hello"),
        ([SimpleNamespace(text="a"), SimpleNamespace(text="b")], "a b"),
        (None, ""),
    ],
)
def test_answers_are_read_as_text_or_as_parts(content: object, expected: str) -> None:
    assert smoke_steps._text(content) == expected
