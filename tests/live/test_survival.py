"""It stays up: what is killed comes back by itself, with all data."""

from __future__ import annotations

import pytest

from tests.live.machine import Stack, wait_until

SERVICES = [
    ("letta",),
    ("postgres",),
    pytest.param(("letta", "postgres"), marks=pytest.mark.long),
    ("model",),
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
