"""What an agent file and an agent are told to lack of each other, counted."""

from __future__ import annotations

from typing import Any

import pytest

from infra.stack.deployment import Deployment, Server
from ops_cli.agents import loss

HERE = Deployment("prod", "local", Server("http://x:1", None, None), "an-id", "0.16.8")
FILE: dict[str, Any] = {
    "agents": [
        {
            "messages": [{"role": "system"}, {"role": "user"}, {"role": "assistant"}],
            "block_ids": ["block-0"],
            "tags": ["red"],
            "secrets": {"TOKEN": ""},
        }
    ]
}
SHOWN = {
    "blocks": [{}], "tools": [], "tags": ["red"], "tool_rules": [],
    "counts": {"messages": 6, "passages": 4, "secrets": 1},
}  # fmt: skip
ROLES = {"system": 1, "user": 2, "assistant": 2, "tool": 1}


@pytest.mark.parametrize("told_by_role", [True, False])
def test_an_export_tells_what_of_each_kind_the_file_does_not_carry(
    told_by_role: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {**SHOWN, **({"messages_by_role": ROLES} if told_by_role else {})}
    monkeypatch.setattr(loss, "known", lambda *_: {"agent-1": loss._counts(shown)})
    found = loss.of_export(HERE, "agent-1", FILE)
    by_role = [
        "messages of role assistant: 1 of 2", "messages of role tool: 0 of 1",
        "messages of role user: 1 of 2",
    ]  # fmt: skip
    assert loss.in_words(found) == [
        "messages: 3 of 6", "passages: 0 of 4", "secrets: 0 of 1", *(by_role if told_by_role else [])
    ]  # fmt: skip


def test_an_import_tells_what_of_the_file_did_not_come_in() -> None:
    made = loss._counts({**SHOWN, "messages_by_role": {"system": 1, "user": 1}})
    content = {"agents": [{**FILE["agents"][0], "secrets": {"TOKEN": "given"}}]}
    found = loss.compared_with(content, ["agent-1"], {"agent-1": {**made, "messages": 2}})
    assert loss.in_words(found) == ["messages: 2 of 3", "messages of role assistant: 0 of 1"]
