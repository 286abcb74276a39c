"""It stays up: what is killed comes back by itself, with all data."""

from __future__ import annotations

import socket

import pytest

from infra.api import authorized_http
from tests.live.machine import Stack, wait_until

SERVICES = [
    ("letta",),
    ("postgres",),
    pytest.param(("letta", "postgres"), marks=pytest.mark.long),
    ("model",),
    ("redis",),
    pytest.param(
        ("proxy",), marks=pytest.mark.target("docker", reason="only containers are behind one")
    ),
]


@pytest.mark.parametrize("killed", SERVICES, ids=" and ".join)
def test_killed_services_come_back_with_all_data(stack: Stack, killed: tuple[str, ...]) -> None:
    from infra.api import api

    with api(stack.deployment) as client:
        block = client.blocks.create(label="survivor", value="still here")
    before = stack.pids(*killed)
    for service in killed:
        stack.kill(service)
    wait_until(
        f"{killed} have new processes",
        lambda: all(stack.pid(name) not in (0, pid) for name, pid in before.items()),
    )
    wait_until("the status is healthy", lambda: stack.run("status").code == 0)
    wait_until("the smoke test passes", lambda: stack.run("smoke").code == 0, 180)
    with api(stack.deployment) as client:
        assert client.blocks.retrieve(block.id).value == "still here"
        client.blocks.delete(block.id)


@pytest.mark.target("local", reason="elsewhere servers share their Redis")
@pytest.mark.long
def test_a_message_is_taken_after_the_server_was_killed_that_had_one_at_hand(stack: Stack) -> None:
    """What such a server leaves in Redis is the lock of the conversation, for 5 minutes."""
    from infra.api import api

    with api(stack.deployment) as client:
        agent = client.agents.create(
            name="locked", model="openai-proxy/fake", embedding="openai/text-embedding-3-small"
        )

    def say() -> int:
        with authorized_http(stack.deployment) as client:
            said = {"messages": [{"role": "user", "content": "Hello"}], "streaming": False}
            return client.post(f"/v1/conversations/{agent.id}/messages", json=said).status_code

    assert say() == 200
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(stack.folder.redis_socket))
        link.sendall(f"SET conversation:lock:{agent.id} somebody EX 300\r\n".encode())
        assert link.recv(16) == b"+OK\r\n"
    assert say() == 409, "Letta looks there"
    pid = stack.pid("letta")
    stack.kill("letta")
    wait_until("another server runs", lambda: stack.pid("letta") not in (0, pid))
    wait_until("the status is healthy", lambda: stack.run("status").code == 0)
    assert say() == 200
    with api(stack.deployment) as client:
        client.agents.delete(agent.id)


@pytest.mark.long
@pytest.mark.target("local", reason="containers are kept by the engine")
def test_a_killed_supervisor_is_replaced_by_the_next_up(stack: Stack) -> None:
    """Its services live on without it; `up` ends those leftovers and starts all anew."""
    from infra.embedded import supervisor

    keeper = supervisor.process(stack.folder)
    assert keeper is not None
    keeper.kill()
    keeper.wait(60)
    assert stack.json("check", code=2)["findings"][0]["state"] == "CRITICAL"
    assert stack.up()["smoke"]["passed"] is True
    assert all(state.running for state in supervisor.states(stack.folder).values())
