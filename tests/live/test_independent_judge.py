"""The last release that reads agent files of format 1 is asked what is in them: is it what we say?

Letta 0.11.7 takes such a file into its own SQLite, and exports the agent in format 2.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.embedded.release import InstalledRelease, install, installed
from infra.stack.locations import cache_folder
from infra.stack.releases import RELEASES, Release
from ops_cli.agents.converting import converted, is_format_1
from tests.live.machine import free_ports, wait_until

JUDGE = Release(
    version="0.11.7",
    sdist_sha256="d5123d19fe5ef1389eb9bee580a254cc159459b1da6ae0bd6faab74f2fb2bce7",
    alembic_head="",
    tables=frozenset(),
    types=frozenset(),
)
FILES = (
    "composio_github_star_agent", "customer_service", "deep-thought", "deep_research_agent",
    "knowledge-base", "long_running_kylie", "max_messages", "memgpt_agent_with_convo",
    "outreach_workflow_agent",
)  # fmt: skip
# Its own export fails there: messages in context that are not among those of the agent.
UNREADABLE = "memgpt_agent_with_convo"
pytestmark = [
    pytest.mark.long,
    pytest.mark.target("local", reason="no stack is asked: the judge runs by itself"),
]


@pytest.fixture(scope="module")
def judge(interpreter: Path) -> InstalledRelease:
    return install(JUDGE, cache_folder(), interpreter, print)


@pytest.fixture
def asked(judge: InstalledRelease, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server of its own for each file: it never gives back its database's connections."""
    (port,) = free_ports(1)
    program = judge.folder / "venv" / "bin" / "letta"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "server", "--host", "127.0.0.1", "--port", str(port)],
            stdout=log, stderr=log, env=environment, cwd=tmp_path,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=60) as client:

            def answers() -> bool:
                assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
                try:
                    return client.get("/health/").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until("the judge answers", answers)
            yield client
    finally:
        process.kill()
        process.wait()


def said(agent: dict[str, Any]) -> list[Any]:
    """Its messages as both say them: what is missing is nothing."""
    return [
        {
            key: each.get(key) or None
            for key in ("role", "content", "name", "tool_calls", "tool_call_id", "model")
        }
        for each in agent["messages"]
    ]


def of_blocks(document: dict[str, Any]) -> dict[str, Any]:
    keys = ("value", "limit", "description", "is_template")
    return {each["label"]: [each.get(key) for key in keys] for each in document["blocks"]}


def of_tools(document: dict[str, Any]) -> dict[str, Any]:
    """Each tool; what is Letta's own the judge has in its own version."""
    keys = ("source_code", "json_schema", "description", "tool_type")
    return {
        each["name"]: [each.get(key) for key in keys] if each["tool_type"] == "custom" else None
        for each in document["tools"]
    }


def part_of(ours: Any, theirs: Any) -> bool:
    """Whether they say all that we say; theirs may say more: defaults of their release."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(part_of(value, theirs.get(key)) for key, value in ours.items())
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(part_of, ours, theirs))
    return bool(ours == theirs)


# What a server decides by the model, whatever the file says.
DECIDED = "put_inner_thoughts_in_kwargs"


@pytest.mark.parametrize("name", FILES)
def test_a_release_that_reads_format_1_finds_in_it_what_we_find(
    asked: httpx.Client, interpreter: Path, name: str
) -> None:
    source = installed(RELEASES["0.16.8"], cache_folder(), interpreter).source
    path = source / "tests" / "test_agent_files" / f"{name}.af"
    content = json.loads(path.read_text())
    assert is_format_1(content)
    ours, _ = converted(content, name)
    with path.open("rb") as file:
        made = asked.post(
            "/agents/import", files={"file": file}, data={"append_copy_suffix": "false"}
        ).json()
    answer = asked.get(f"/agents/{made['agent_ids'][0]}/export")
    if name == UNREADABLE:
        assert "Export processing failed" in answer.json()["detail"]
        return
    theirs = answer.json()
    (mine,), (other,) = ours["agents"], theirs["agents"]
    assert said(mine) == said(other)
    for agent in (mine, other):
        places = [message["id"] for message in agent["messages"]]
        agent["window"] = [places.index(each) for each in agent["in_context_message_ids"]]
    assert mine["window"] == other["window"]
    assert of_blocks(ours) == of_blocks(theirs)
    assert of_tools(ours) == of_tools(theirs)
    for key in ("name", "system", "agent_type", "tags", "description", "metadata", "llm_config",
                "embedding_config", "message_buffer_autoclear"):  # fmt: skip
        value = mine.get(key)
        if isinstance(value, dict):
            value.pop(DECIDED, None)
        assert key not in mine or part_of(value, other[key]), key
    # A rule that a file has twice, it has once.
    assert all(
        any(part_of(rule, each) for each in other["tool_rules"]) for rule in mine["tool_rules"]
    )
    assert all(
        any(part_of(each, rule) for each in mine["tool_rules"]) for rule in other["tool_rules"]
    )
    assert mine["tool_exec_environment_variables"].keys() == (
        other["tool_exec_environment_variables"].keys()
    )
