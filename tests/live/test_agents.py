"""Agents move in and out of a real server: many, ambiguous, unfit, and failing half-way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.machine import ROOT, Stack

EXAMPLE = ROOT / "docs" / "example.af"
HANDLES = ["--model", "openai-proxy/fake", "--embedding", "openai/text-embedding-3-small"]


@pytest.fixture
def clean(stack: Stack) -> Iterator[Stack]:
    """The shared stack; whatever agents a test leaves are deleted."""
    from infra.api import api

    yield stack
    with api(stack.deployment) as client:
        for agent in stack.json("agent", "list"):
            client.agents.delete(agent["id"])


def ids(stack: Stack) -> set[str]:
    return {agent["id"] for agent in stack.json("agent", "list")}


@pytest.mark.long
def test_more_agents_than_a_page_holds_are_all_listed(clean: Stack) -> None:
    """Letta refuses a limit above 200."""
    from infra.api import api

    model = clean.deployment.model
    with api(clean.deployment) as client:
        made = {
            client.agents.create(
                name=f"one-of-many-{number}",
                model=model.handle,
                embedding=model.embedding,
                include_base_tools=False,
            ).id
            for number in range(205)
        }
    assert made <= ids(clean)
    assert clean.json("status")["agents"] == len(ids(clean))


def test_two_agents_of_one_name_are_told_apart_by_their_ids(clean: Stack, tmp_path: Path) -> None:
    words = ("agent", "import", str(EXAMPLE), "--name", "twin", *HANDLES)
    twins = [clean.json(*words)["agents"][0]["id"] for _ in range(2)]
    answer = clean.run("--json", "agent", "export", "twin", "-o", str(tmp_path / "twin.af"))
    assert answer.code == 1
    error = answer.json["error"]
    for agent in twins:
        assert agent in error["message"] + error["hint"]
        clean.json("agent", "export", agent, "-o", str(tmp_path / f"{agent}.af"))


def test_an_export_never_overwrites_unasked_and_is_private(clean: Stack, tmp_path: Path) -> None:
    clean.json("agent", "import", str(EXAMPLE), "--name", "precious", *HANDLES)
    target = tmp_path / "precious.af"
    clean.json("agent", "export", "precious", "-o", str(target))
    assert target.stat().st_mode & 0o777 == 0o600
    target.write_text("mine")
    assert clean.run("agent", "export", "precious", "-o", str(target)).code == 1
    assert target.read_text() == "mine"
    clean.json("agent", "export", "precious", "-o", str(target), "--force")
    assert json.loads(target.read_text())["agents"]


def test_what_is_exported_can_be_imported_again(clean: Stack, tmp_path: Path) -> None:
    clean.json("agent", "import", str(EXAMPLE), "--name", "traveller", *HANDLES)
    target = tmp_path / "traveller.af"
    target.write_text(clean.run("agent", "export", "traveller").out)
    (agent,) = clean.json("agent", "import", str(target), *HANDLES)["agents"]
    assert agent["name"] == "traveller"
    assert len(ids(clean)) == 2


UNFIT = [
    ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    ('{"agents": [', "JSON"),
    ('{"agent_type": "memgpt_agent", "core_memory": [], "messages": []}', "format 1"),
]


@pytest.mark.parametrize(("text", "word"), UNFIT, ids=[word for _, word in UNFIT])
def test_an_unfit_file_is_refused_before_anything_is_sent(
    clean: Stack, tmp_path: Path, text: str, word: str
) -> None:
    file = tmp_path / "unfit.af"
    file.write_text(text)
    answer = clean.run("--json", "agent", "import", str(file), *HANDLES)
    assert answer.code == 1
    assert word in answer.json["error"]["message"]
    assert answer.json["error"]["hint"]
    assert ids(clean) == set()


def test_a_model_that_the_server_lacks_is_named_with_those_it_has(clean: Stack) -> None:
    answer = clean.run("--json", "agent", "import", str(EXAMPLE), "--model", "openai/gpt-nonsense")
    assert answer.code == 1
    error = answer.json["error"]
    assert "openai/gpt-nonsense" in error["message"]
    assert "openai-proxy/fake" in error["message"] + error["hint"]
    assert ids(clean) == set()


def test_an_import_that_fails_half_way_leaves_no_agent(clean: Stack, tmp_path: Path) -> None:
    """Letta's import is no transaction: that a message is missing, it finds with the agent made."""
    document: dict[str, Any] = json.loads(EXAMPLE.read_text())
    document["agents"][0]["in_context_message_ids"].append("message-nowhere")
    file = tmp_path / "broken.af"
    file.write_text(json.dumps(document))
    answer = clean.run("--json", "agent", "import", str(file), *HANDLES)
    assert answer.code == 1, answer.out
    assert "removed what it left: agent-" in answer.json["error"]["message"]
    assert ids(clean) == set()
