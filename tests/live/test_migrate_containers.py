"""From Letta 0.13.0 to 0.16.8 in containers, and back: by images, with the same course."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.machine import Machine
from tests.live.seeding import Server, seed

pytestmark = [
    pytest.mark.target("docker", reason="it is about images and containers"),
    pytest.mark.long,
]


def test_a_stack_of_containers_goes_to_another_release_and_back(machine: Machine) -> None:
    stack = machine.stack("migrate")
    stack.up("--no-smoke", "--config", "release=0.13.0")
    seeded = seed(stack.deployment, messages=2, passages=2)
    assert stack.json("migrate", "rehearse", "--to", "0.16.8", "--fresh")["passed"] is True
    done = stack.json("migrate", "apply", "--to", "0.16.8", "--yes")
    assert done["comparison"]["passed"] is True
    assert stack.json("status")["server"]["version"] == "0.16.8"
    agent = seeded.agents[0]
    assert Server(stack.deployment).say(agent, "Hello from the new release")["messages"]
    back = stack.json("migrate", "rollback", "--yes")
    assert [each["agent"] for each in back["written_since"]] == [agent]
    assert Path(back["archived"]).is_file()
    assert stack.json("status")["server"]["version"] == "0.13.0"
    assert {each["id"] for each in stack.json("agent", "list")} == set(seeded.agents)
    stack.destroy("--delete-data")
