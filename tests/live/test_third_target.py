"""A target that nobody here knows comes up, is checked, backed up and restored: the port is enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from infra.api import api
from tests.live.kept import Kept, kept, make_agent
from tests.live.local_stack import LocalStack
from tests.live.machine import LETTA_OPS, Machine

FOLDER = Path(__file__).parent / "toy"
pytestmark = [
    pytest.mark.long,
    pytest.mark.target("local", reason="it is a target of its own, made once"),
]


@dataclass(frozen=True)
class ToyStack(LocalStack):
    target: ClassVar[str] = "toy"

    @property
    def configuration(self) -> dict[str, str]:
        return {**super().configuration, "target": "toy", "toy.colour": "blue"}


@pytest.fixture(scope="module")
def toy(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    found = replace(machine, extra={**machine.extra, "PYTHONPATH": str(FOLDER)})
    plain = machine.stack("toy")
    stack = ToyStack(found, plain.name, plain.ports)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        stack.up("--no-smoke")
        yield kept(stack, tmp_path_factory.mktemp("toy"))
        stack.destroy("--delete-data")
        assert stack.remains() == []


def test_it_comes_up_and_is_looked_at(toy: Kept) -> None:
    assert toy.json("smoke")["passed"] is True
    assert toy.json("status")["target"] == "toy"
    assert set(toy.json("preview")["changes"]) == {"same"}
    (colour,) = [each for each in toy.json("doctor")["checks"] if each["name"] == "toy"]
    assert colour["detail"] == "colour blue"


def test_it_is_checked_for_what_it_can_say(toy: Kept) -> None:
    findings: dict[str, Any] = {
        each["name"]: each for each in toy.json("check", code=1)["findings"]
    }
    assert findings["api"]["state"] == findings["database"]["state"] == "OK"
    assert findings["disk"]["checked"] is True
    assert findings["services"]["checked"] is findings["containers"]["checked"] is False


def test_it_is_backed_up_and_restored(toy: Kept) -> None:
    agent = make_agent(toy.deployment, "kept")
    backup = toy.create()
    assert backup.manifest.target == "toy"
    with api(toy.deployment) as client:
        client.agents.delete(agent)
    done = toy.json("backup", "restore", backup.id, "--yes")
    assert done["proven"] is True
    assert agent in {each["id"] for each in toy.json("agent", "list")}
    assert toy.json("backup", "drill", backup.id)["verdict"] == "passed"


def test_its_settings_are_read_by_itself(toy: Kept) -> None:
    answer = toy.json("preview", "--config", "toy.colour=green", code=1)
    assert "toy.colour: must be one of red, blue" in answer["error"]["message"]
    other = toy.stack.machine.run(
        LETTA_OPS, "--stack", "other", "up", "--dry-run", "--config", "toy.colour=red"
    )
    assert other.code == 1
    assert "toy.colour: is for the target toy only" in other.err
