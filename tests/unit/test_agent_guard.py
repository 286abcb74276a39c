"""Agents that would vanish with an update: when it is stopped, and when not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.errors import LettaOpsError
from infra.stack.locations import StackFolder
from infra.targets.docker import agent_guard


def kept(tmp_path: Path, agents: int, *, live: bool) -> StackFolder:
    folder = StackFolder(tmp_path, "demo")
    folder.root.mkdir(parents=True, exist_ok=True)
    document = {"agents": agents, "counted_at": "2026-01-01T00:00:00+00:00", "live": live}
    folder.agent_count.write_text(json.dumps(document))
    return folder


CASES = [
    (3, True, 3, False),
    (3, True, 4, False),
    (3, True, 2, True),
    (3, False, 2, False),  # counted by an earlier run: people delete agents
    (3, False, 0, True),
    (0, False, 0, False),
]


@pytest.mark.parametrize(("before", "live", "now", "stops"), CASES)
def test_fewer_agents_stop_an_update(
    tmp_path: Path, before: int, live: bool, now: int, stops: bool
) -> None:
    folder = kept(tmp_path, before, live=live)
    if not stops:
        agent_guard.ensure_not_fewer(folder, now)
        return
    with pytest.raises(LettaOpsError) as failure:
        agent_guard.ensure_not_fewer(folder, now)
    assert failure.value.code == "agents-missing"
    assert str(folder.agent_count) in failure.value.hint


def test_without_a_count_nothing_is_held_against_a_server(tmp_path: Path) -> None:
    agent_guard.ensure_not_fewer(StackFolder(tmp_path, "demo"), 0)


def test_an_unreachable_database_turns_the_count_into_an_old_one(tmp_path: Path) -> None:
    folder = kept(tmp_path, 5, live=True)
    agent_guard.count_before(folder, {"uri": "postgresql://letta@127.0.0.1:1/letta"}, "some-id")
    assert json.loads(folder.agent_count.read_text())["live"] is False
    assert json.loads(folder.agent_count.read_text())["agents"] == 5
