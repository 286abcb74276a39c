"""`up` does what it must and no more; `destroy` leaves the data."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.embedded import fake_model
from tests.live.docker_stack import DockerStack
from tests.live.machine import PULUMI, Stack, free_ports, wait_until

# What follows from another server.port.
OF_THE_PORT = {
    "local": {"letta", "profile"},
    "docker": {"proxy", "proxy-running", "route", "profile"},
}


def named(preview: Any) -> set[str]:
    return {change["name"] for change in preview["resources"]}


def test_a_second_up_changes_nothing_and_says_so(stack: Stack) -> None:
    before = stack.pids()
    answer = stack.run("up", "--no-smoke")
    assert answer.code == 0, answer.err
    assert "nothing to change" in answer.out + answer.err
    assert stack.pids() == before


def test_a_preview_after_up_shows_no_difference(stack: Stack) -> None:
    changes = stack.json("preview")["changes"]
    assert set(changes) == {"same"}


@pytest.mark.long
def test_a_preview_keeps_no_setting(stack: Stack) -> None:
    (port,) = free_ports(1)
    shown = stack.json("preview", "--config", f"server.port={port}")
    assert named(shown) == OF_THE_PORT[stack.target]
    assert set(stack.json("preview")["changes"]) == {"same"}


def test_a_literal_pulumi_up_sees_the_same_stack(stack: Stack) -> None:
    """The checkout's own program and the wrapper in .venv: no change, as after `letta-ops up`."""
    settings = stack.folder.project / f"Pulumi.{stack.name}.yaml"
    answer = stack.machine.run(
        PULUMI, "up", "--stack", stack.name, "--yes", "--non-interactive", "--config-file", settings
    )
    assert answer.code == 0, answer.out + answer.err
    assert "unchanged" in answer.out
    assert "created" not in answer.out
    assert "updated" not in answer.out


def test_a_stopped_service_is_a_difference_and_up_starts_it(own_stack: Stack) -> None:
    own_stack.stop("model")
    wait_until("the model is stopped", lambda: own_stack.pid("model") == 0)
    # That a container runs is a resource of its own.
    changed = {name.removesuffix("-running") for name in named(own_stack.json("preview"))}
    assert changed == {"model"}
    own_stack.json("up", "--no-smoke")
    assert own_stack.pid("model") != 0
    assert set(own_stack.json("preview")["changes"]) == {"same"}


@pytest.mark.long
def test_another_server_port_restarts_what_listens_there_and_nothing_else(own_stack: Stack) -> None:
    (port,) = free_ports(1)
    before = own_stack.pids()
    words = ("--config", f"server.port={port}")
    assert named(own_stack.json("preview", *words)) == OF_THE_PORT[own_stack.target]
    own_stack.json("up", "--no-smoke", *words)
    after = own_stack.pids()
    assert {name for name in before if after[name] != before[name]} == {own_stack.front}
    assert own_stack.json("status")["server"]["healthy"] is True
    assert own_stack.deployment.server.port == port


@pytest.mark.target("local", reason="in containers the model's address can't be chosen")
@pytest.mark.long
def test_another_model_port_reaches_agents_that_were_made_before(own_stack: Stack) -> None:
    """Letta keeps the URL it saw first, in its database and in each agent."""
    from infra.api import api

    def answers() -> bool:
        with api(own_stack.deployment) as client:
            said = client.agents.messages.create(
                agent.id, messages=[{"role": "user", "content": "Are you there?"}]
            )
            return "Are you there?" in str(said.messages)

    with api(own_stack.deployment) as client:
        agent = client.agents.create(
            name="old-timer",
            model=own_stack.deployment.model.handle,
            embedding=own_stack.deployment.model.embedding,
        )
    assert answers()
    (port,) = free_ports(1)
    own_stack.json("up", "--config", f"model_port={port}")
    assert answers()
    with api(own_stack.deployment) as client:
        client.agents.delete(agent.id)


@pytest.mark.long
def test_another_password_restarts_the_server_only(own_stack: Stack) -> None:
    """The profile is where a person changes a password; `up` brings it to the server."""
    from infra.stack.profile import remember

    before = own_stack.pid("postgres")
    remember(own_stack.folder.profile, {"server.password": "a-password-chosen-by-hand"})
    assert own_stack.json("check", code=2)["findings"][0]["state"] == "CRITICAL"
    own_stack.json("up", "--no-smoke")
    assert own_stack.pid("postgres") == before
    shown = own_stack.run("secret", "show", "server-password")
    assert shown.out.strip() == "a-password-chosen-by-hand"
    assert own_stack.json("agent", "list") == []


@pytest.mark.long
def test_a_new_database_password_reaches_database_and_server(own_stack: Stack) -> None:
    from infra.stack.profile import remember

    remember(own_stack.folder.profile, {"database.owner_password": "another-owner-password"})
    own_stack.json("up")  # with the smoke test: the server works on the database
    assert own_stack.json("status")["database"]["name"] == "letta"


@contextmanager
def a_provider(stack: Stack) -> Iterator[str]:
    """An OpenAI-compatible provider on this machine, at a URL by which the stack's server reaches it."""
    (port,) = free_ports(1)
    model = Path(fake_model.__file__)
    words = (sys.executable, model, "--host", "0.0.0.0", "--port", str(port))
    process = stack.machine.start(*words, log=stack.machine.root / "provider.log")
    try:
        wait_until("the provider answers", lambda: _listens(port), 30)
        yield f"http://{stack.this_machine}:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.long
def test_a_provider_is_added_and_the_stacks_model_leaves(own_stack: Stack, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-test-provider-key-0123456789\n")
    before = own_stack.pid("postgres")
    with a_provider(own_stack) as url:
        words = ["--config", f"providers.openai.api_key=file:{key}",
                 "--config", f"providers.openai.base_url={url}"]  # fmt: skip
        changed = own_stack.json("up", "--no-smoke", *words)
    assert changed["changes"]["delete"] >= 1
    assert own_stack.pid("postgres") == before
    assert own_stack.deployment.model.handle is None
    back = ["--config", "providers.openai.api_key=", "--config", "providers.openai.base_url="]
    own_stack.json("up", *back)
    assert own_stack.deployment.model.handle is not None


@pytest.mark.long
@pytest.mark.target("docker", reason="a process is restarted, a container has a successor")
def test_another_key_gives_a_new_server_and_the_old_one_goes(
    own_stack: Stack, tmp_path: Path
) -> None:
    assert isinstance(own_stack, DockerStack)
    key = tmp_path / "key"
    key.write_text("sk-test-provider-key-0123456789\n")
    with agent_of(own_stack) as agent:
        (old,) = own_stack.containers("letta")
        before = own_stack.pids("postgres", "model", "proxy")
        own_stack.json("up", "--config", f"server.environment.SOME_KEY=file:{key}")
        (new,) = own_stack.containers("letta")
        assert new["Name"] != old["Name"]
        assert own_stack.pids(*before) == before
        assert agent in {each["id"] for each in own_stack.json("agent", "list")}
        own_stack.json("up", "--config", "server.environment.SOME_KEY=")
        (back,) = own_stack.containers("letta")
        assert back["Name"] == old["Name"]  # named after its configuration


def test_destroy_leaves_the_data_and_the_next_up_finds_the_same_agents(own_stack: Stack) -> None:
    with agent_of(own_stack) as agent:
        key = own_stack.run("secret", "show", "encryption-key").out
        own_stack.destroy()
        assert own_stack.processes() == []
        assert own_stack.has_data
        own_stack.json("up", "--no-smoke")
        assert [each["id"] for each in own_stack.json("agent", "list")] == [agent]
        assert own_stack.run("secret", "show", "encryption-key").out == key


def test_destroy_with_the_data_leaves_nothing(own_stack: Stack) -> None:
    own_stack.destroy("--delete-data")
    assert own_stack.remains() == []
    assert not own_stack.folder.root.exists()
    files = [path for path in own_stack.folder.backend.rglob("*") if path.is_file()]
    assert [path for path in files if own_stack.name in str(path).rpartition(".pulumi")[2]] == []


@contextmanager
def agent_of(stack: Stack) -> Iterator[str]:
    """An agent while the test lasts; its id."""
    from infra.api import api

    model = stack.deployment.model
    with api(stack.deployment) as client:
        agent = client.agents.create(name="kept", model=model.handle, embedding=model.embedding)
    yield agent.id
    with api(stack.deployment) as client:
        client.agents.delete(agent.id)
