"""Git memory of one agent: it goes along into archives, out of them and out of a backup, and away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dulwich.repo import Repo

from infra.api import api
from tests.live.machine import Machine, Stack
from tests.live.test_memory_files import SWITCH, TAG, change, in_home


@pytest.fixture(scope="module")
def house(machine: Machine) -> Iterator[Stack]:
    made = machine.stack("archived-memory")
    made.up("--no-smoke", "--config", SWITCH)
    yield made
    made.run("destroy", "--delete-data", "--yes")


def agent(stack: Stack, name: str) -> str:
    """An agent whose memory has two commits."""
    model = stack.deployment.model
    with api(stack.deployment) as client:
        made = client.agents.create(
            name=name,
            model=model.handle,
            embedding=model.embedding,
            include_base_tools=False,
            memory_blocks=[{"label": "human", "value": f"{name}: the first version"}],
            tags=[TAG],
        )
    change(stack, made.id, f"{name}: the second version")
    return str(made.id)


def text(stack: Stack, agent: str) -> str:
    repository = f".letta/memfs/repository/*/{agent}/repo.git"
    return in_home(stack, f"git --git-dir $(echo {repository}) show main:system/human.md")


def log(stack: Stack, agent: str) -> list[str]:
    repository = f".letta/memfs/repository/*/{agent}/repo.git"
    return in_home(stack, f"git --git-dir $(echo {repository}) log --format=%H").splitlines()


def there(stack: Stack) -> set[str]:
    return set(in_home(stack, "ls .letta/memfs/repository/*").split())


@pytest.mark.long
def test_git_memory_goes_on_at_the_successor(house: Stack, tmp_path: Path) -> None:
    leaving = agent(house, "leaving")
    commits, store = log(house, leaving), tmp_path / "store"
    house.json("exit", "export", "--agent", leaving, "--to", str(store))
    assert house.json("exit", "verify", str(store), "--agent", leaving)["equal"] is True
    memory = store / "memfs" / f"agent-local-{leaving.removeprefix('agent-')}" / "memory"
    with Repo(str(memory)) as repository:
        there = [step.commit.id.decode() for step in repository.get_walker()]
        assert there[1:] == commits
    assert (memory / "system" / "human.md").read_text().endswith("leaving: the second version")
    house.json("agent", "delete", leaving, "--yes")


@pytest.mark.long
def test_an_agents_git_memory_goes_along_wherever_the_agent_goes(
    house: Stack, tmp_path: Path
) -> None:
    one, other = agent(house, "one"), agent(house, "other")
    commits, others = log(house, one), log(house, other)
    assert len(commits) > 1
    backup = house.json("backup", "create")["id"]
    path = tmp_path / "one.agents"
    made = house.json("agent", "archive", one, "-o", str(path))
    assert made["left_out"] == {}

    # Deleted, with its memory, and brought back.
    house.json("agent", "delete", one, "--yes")
    assert there(house) == {other}
    house.json("agent", "restore", str(path))
    assert (log(house, one), log(house, other)) == (commits, others)
    assert house.json("agent", "diff", str(path), one)["equal"] is True

    # It goes on: what differs is told, and what is replaced was archived, memory and all.
    change(house, one, "a later version")
    differing = house.run("--json", "agent", "diff", str(path), one)
    assert "git memory" in str(differing.json)
    replaced = house.json("agent", "restore", str(path), "--on-conflict", "replace", "--yes")
    assert "memfs.aside" in str(replaced["notes"])
    assert log(house, one) == commits
    house.json("agent", "restore", replaced["set_aside"], "--on-conflict", "replace", "--yes")
    assert "a later version" in text(house, one)

    # Out of a backup, and beside it under another id.
    house.json(
        "agent", "restore", "--backup", backup, "--agent", "one", "--on-conflict", "replace", "--yes"
    )  # fmt: skip
    assert (log(house, one), log(house, other)) == (commits, others)
    assert house.json("agent", "diff", f"backup:{backup}:one", one)["equal"] is True
    answer = house.json("agent", "restore", str(path), "--new-ids")
    new = answer["agents"][0]["id"]
    assert new != one
    assert log(house, new) == commits
    assert house.json("agent", "diff", str(path), new)["equal"] is True
    change(house, new, "of the new one")
    assert "of the new one" in text(house, new)
    assert log(house, one) == commits


@pytest.mark.long
def test_a_persons_git_memory_is_erased_and_so_is_what_was_set_aside_of_it(house: Stack) -> None:
    hers, other = agent(house, "hers"), agent(house, "not hers")
    with (
        house.administrator() as link
    ):  # Letta keeps the repository of an agent that has no tag any more
        link.execute("DELETE FROM agents_tags WHERE agent_id = %s", [hers])
        link.commit()
    with api(house.deployment) as client:
        body = {"identifier_key": "her", "name": "She", "identity_type": "user"}
        answer: Any = client.post(
            "/v1/identities/", cast_to=object, body={**body, "agent_ids": [hers]}
        )
    house.json("agent", "archive", hers, "--store")
    house.json("agent", "restore", "store:latest", "--on-conflict", "replace", "--yes")
    assert hers in in_home(house, "ls .letta/memfs.aside")
    house.json("agent", "person", answer["id"], "--erase", "--yes")
    assert hers not in in_home(house, "ls -R .letta")
    assert log(house, other)
