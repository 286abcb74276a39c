"""`letta-ops agent`: from the command line to the answer, against a small server."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops_cli import main
from tests.unit.letta_server import PASSWORD, FakeLetta, serving

CONTENT = {
    "agents": [
        {
            "id": "agent-0",
            "name": "Ada",
            "tags": ["mine"],
            "messages": [{"id": "message-0", "role": "system", "content": "Be kind."}],
            "in_context_message_ids": ["message-0"],
        }
    ],
    **{name: [] for name in ("groups", "blocks", "files", "sources", "tools", "mcp_servers")},
}


@pytest.fixture
def letta(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeLetta]:
    """The server, reached as a CI job does: by environment variables, without a profile."""
    for name in [name for name in os.environ if name.startswith("LETTA_OPS_")]:
        monkeypatch.delenv(name)
    with serving() as server:
        server.export = json.dumps(CONTENT).encode()
        monkeypatch.setenv("LETTA_OPS_STATE", str(tmp_path / "state"))
        monkeypatch.setenv("LETTA_OPS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("LETTA_OPS_SERVER_URL", server.url)
        monkeypatch.setenv("LETTA_OPS_SERVER_PASSWORD", PASSWORD)
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ada.af"
    path.write_text(json.dumps(CONTENT))
    return path


def test_agents_are_listed_in_text_and_in_json(
    letta: FakeLetta, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["agent", "list"]) == 0
    assert capsys.readouterr().out == "no agents\n"
    identifier = letta.make("[red]Ada\x1b[0m")
    assert main.run(["agent", "list"]) == 0
    assert f"{identifier}  [red]Ada\\x1b[0m" in capsys.readouterr().out
    assert main.run(["agent", "list", "--json"]) == 0
    (agent,) = json.loads(capsys.readouterr().out)
    assert set(agent) == {"id", "name", "type", "model", "created", "messages"}
    assert main.run(["agent", "list", "--json", "--tag", "none has it"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("extra", [[], ["--json"], ["-o", "-"]])
def test_an_export_without_a_file_is_the_agent_file_alone_on_stdout(
    extra: list[str], letta: FakeLetta, capsys: pytest.CaptureFixture[str]
) -> None:
    letta.make("Ada", "one", "two")
    assert main.run(["agent", "export", "Ada", *extra]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == CONTENT
    assert "does not carry all that the agent has: tags: 1 of 2" in captured.err


def test_an_export_to_a_file_is_not_overwritten_without_force(
    letta: FakeLetta, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identifier = letta.make("Ada")
    target = tmp_path / "out.af"
    arguments = ["agent", "export", identifier, "-o", str(target), "--json"]
    assert main.run(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["id"], answer["file"]) == (identifier, str(target))
    assert answer["bytes"] == target.stat().st_size
    assert main.run(arguments) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "output-refused"
    assert main.run([*arguments, "--force"]) == 0


def test_an_export_without_a_server_prints_nothing_but_the_error(
    letta: FakeLetta, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LETTA_OPS_SERVER_URL", "http://127.0.0.1:1")
    assert main.run(["agent", "export", "Ada"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no server answers at")


def test_an_import_prints_the_new_ids(
    letta: FakeLetta, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["agent", "import", str(file)]) == 0
    (identifier,) = letta.agents
    assert capsys.readouterr().out == f"imported Ada as {identifier}\n"
    assert main.run(["agent", "import", str(file), "--json", "--name", "Bea"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["agents"][0]["name"] == "Bea"


def test_a_dry_run_of_an_import_sends_nothing(
    letta: FakeLetta, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["agent", "import", str(file), "--dry-run", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["dry_run"] is True
    assert answer["agents"][0]["name"] == "Ada"
    assert main.run(["agent", "import", str(file), "--dry-run"]) == 0
    assert "would import Ada" in capsys.readouterr().out
    assert not letta.forms


def test_an_agent_file_can_come_through_a_pipe(
    letta: FakeLetta, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(letta.export)))
    assert main.run(["agent", "import", "-"]) == 0
    assert len(letta.agents) == 1
