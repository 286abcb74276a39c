"""What decides whether a restore stays: the server's part does, the models' does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import letta_client
import pytest

from backups.verdicts import FAILED, PASSED, CheckResult
from healthchecks import proof, smoke, smoke_cleanup, smoke_steps, through_api
from healthchecks.proof import prove
from healthchecks.smoke import Smoke, Step
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment, Server

DEPLOYMENT = Deployment("prod", "external", Server("http://127.0.0.1:9"))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(proof, "_judge_data", lambda *_: iter(()))
    return []


def steps(monkeypatch: pytest.MonkeyPatch, *made: Step) -> None:
    monkeypatch.setattr(proof, "run", lambda *_, **__: Smoke(False, 1.0, made))


def test_what_a_model_does_not_do_is_told_and_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    steps(monkeypatch, Step("memory", False, 1.0, "left its block alone", for_others=True))
    prove(DEPLOYMENT, said.append)
    assert said == ["not decisive: memory: left its block alone"]


def test_what_the_server_does_not_do_decides(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    steps(monkeypatch, Step("export", False, 1.0, "the server answered 500"))
    with pytest.raises(LettaOpsError, match="export: the server answered 500") as caught:
        prove(DEPLOYMENT, said.append)
    assert caught.value.code == "smoke-failed"
    prove(DEPLOYMENT, said.append, with_models=False)


def test_others_who_write_between_two_looks_are_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proof, "PAUSE_SECONDS", 0.0)
    found = iter([FAILED, FAILED, PASSED, *[FAILED] * proof.ATTEMPTS])
    for verdict in (PASSED, FAILED):
        assert proof._judged("it", lambda: CheckResult("it", next(found), "")).verdict == verdict


def test_agents_that_are_made_or_deleted_while_they_are_counted_are_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def verdict(before: int, by_api: int, after: int) -> str:
        rows = iter([before, after])
        served: Any = SimpleNamespace(server=DEPLOYMENT, rows=lambda *_: [(next(rows),)])
        monkeypatch.setattr(through_api, "agents_by_api", lambda _: by_api)
        return through_api.judge_count(served).verdict

    assert {verdict(3, 3, 3), verdict(3, 4, 4), verdict(4, 4, 2), verdict(4, 3, 2)} == {PASSED}
    assert {verdict(3, 2, 3), verdict(3, 5, 4), verdict(0, 1, 0)} == {FAILED}


def test_a_step_that_fails_at_a_model_says_so_and_so_do_those_that_build_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server whose provider is down lists no model; one whose embedding is down inserts nothing."""

    @contextmanager
    def client(*_: Any, **__: Any) -> Iterator[Any]:
        nothing = SimpleNamespace(list=list, embeddings=SimpleNamespace(list=list))
        yield SimpleNamespace(models=nothing)

    monkeypatch.setattr(smoke, "api", client)
    monkeypatch.setattr(smoke_cleanup, "sweep", lambda *_: 0)
    made = smoke.run(DEPLOYMENT).steps
    assert made[0].detail.startswith("the server lists no language model")
    assert all(step.for_others and not step.passed for step in made)


@pytest.mark.parametrize("has_embedding", [True, False])
def test_a_passage_that_is_refused_is_the_embeddings_fault_where_there_is_one(
    has_embedding: bool,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        request = httpx.Request("POST", "http://127.0.0.1:9")
        response = httpx.Response(500, request=request)
        raise letta_client.InternalServerError("no", response=response, body=None)

    client: Any = SimpleNamespace(agents=SimpleNamespace(passages=SimpleNamespace(create=refuse)))
    agent = SimpleNamespace(id="agent-1", embedding_config={"a": 1} if has_embedding else None)
    run = smoke_steps.SmokeRun(DEPLOYMENT, "smoke-1", None, None, agent=agent)
    expected = LettaOpsError if has_embedding else letta_client.InternalServerError
    with pytest.raises(expected):
        smoke_steps.use_archival_memory(client, run)
