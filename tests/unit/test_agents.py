"""Agents and agent files: judging files, finding agents, exporting, importing and cleaning up.

The server is a small one of our own that speaks Letta's HTTP API where these commands use it; the
live tests do the same with the real one.
"""

from __future__ import annotations

import json
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.api import api
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.deployment import Deployment, Server
from ops_cli.agents import exporting
from ops_cli.agents.agent_file import AgentFile, parse_agent_file, read_agent_file
from ops_cli.agents.import_plan import (
    ImportChoices,
    PlannedAgent,
    ServerModels,
    unknown_models,
    with_own_models,
)
from ops_cli.agents.importing import NOTE, import_agents, marked, plan_import
from ops_cli.agents.listing import every_agent, find_agent
from tests.unit.letta_server import OWN, PASSWORD, Content, FakeLetta, serving

ABROAD = "https://elsewhere.example/v1"


def content(*names: str, model: str = "own/model", **sections: Any) -> Content:
    """An agent file's content with these agents."""
    agents = [
        {
            "id": f"agent-{number}",
            "name": name,
            "tags": ["mine"],
            "messages": [{"id": f"message-{number}", "role": "system", "content": "Be kind."}],
            "in_context_message_ids": [f"message-{number}"],
            "llm_config": {"handle": model, "model_endpoint": ABROAD},
            "embedding_config": {"handle": "own/embedding", "embedding_endpoint": OWN},
        }
        for number, name in enumerate(names or ("Ada",))
    ]
    empty: Content = {"groups": [], "files": [], "sources": [], "tools": [], "mcp_servers": []}
    blocks = [{"id": "block-0", "label": "human", "value": "likes tea"}]
    return {**empty, "agents": agents, "blocks": blocks, **sections}


def agent_file(given: Content) -> AgentFile:
    return parse_agent_file(json.dumps(given).encode(), "x.af")


@pytest.fixture
def letta(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeLetta]:
    """A server far away, and no release here that could be asked about a file."""
    monkeypatch.setenv("LETTA_OPS_CACHE", str(tmp_path / "cache"))
    with serving() as server:
        yield server


def deployment(letta: FakeLetta, password: str = PASSWORD) -> Deployment:
    return Deployment("test", "external", Server(letta.url, Sensitive(password)))


# Judging files


@pytest.mark.parametrize(
    ("data", "code", "part"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "agent-file-pointer", "git lfs"),
        (b"", "agent-file-broken", "is not JSON"),
        (b"\xff\xfe{", "agent-file-broken", "UTF-16"),
        (b"[" * 100_000, "agent-file-broken", "nested"),
        (b"[1]", "agent-file-broken", "a JSON list"),
    ],
)  # fmt: skip
def test_what_is_no_agent_file_of_format_2_is_refused_with_a_next_step(
    data: bytes, code: str, part: str
) -> None:
    with pytest.raises(LettaOpsError) as caught:
        parse_agent_file(data, "x.af")
    assert caught.value.code == code
    assert part in str(caught.value)
    assert caught.value.hint


def test_an_agent_file_tells_its_agents_with_their_models_and_the_names_of_their_secrets() -> None:
    given = content("Ada")
    given["agents"][0]["secrets"] = {"B": ""}
    given["agents"][0]["tool_exec_environment_variables"] = {"A": ""}
    (agent,) = agent_file(given).agents
    assert (agent.name, agent.model, agent.embedding) == ("Ada", "own/model", "own/embedding")
    assert (agent.messages, agent.secrets) == (1, ("A", "B"))


def test_an_agent_file_that_was_encoded_twice_is_read() -> None:
    assert parse_agent_file(json.dumps(json.dumps(content())).encode(), "x").agents[0].name == "Ada"


def test_a_file_that_is_not_there_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    for path in (tmp_path / "no.af", tmp_path):
        with pytest.raises(LettaOpsError, match="cannot read"):
            read_agent_file(path)


# What is sent


def test_marking_changes_a_copy_only_and_keeps_what_an_agent_says_of_itself() -> None:
    given = content("Ada")
    given["agents"][0]["metadata"] = {"from": "me"}
    note = {"sha256": "digest", "by": "mark"}
    changed = marked(given, "digest", "mark")
    assert changed["agents"][0]["metadata"] == {"from": "me", NOTE: note}
    assert given["agents"][0]["metadata"] == {"from": "me"}
    del given["agents"][0]["metadata"]
    assert marked(given, "digest", "mark")["agents"][0]["metadata"] == {NOTE: note}


SERVER = ServerModels(
    {"own/model": {"model_endpoint": OWN, "context_window": 8000}},
    {"own/embedding": {"embedding_endpoint": OWN, "embedding_dim": 8}},
)


@pytest.mark.parametrize(
    ("model", "choices", "endpoint", "said"),
    [
        ("own/model", ImportChoices(), OWN, "own/model is used at"),
        ("own/model", ImportChoices(model="other"), ABROAD, ""),
        ("strange/model", ImportChoices(), ABROAD, "do you trust it?"),
    ],
)
def test_an_agent_uses_the_servers_own_endpoint_not_the_one_of_whoever_exported_it(
    model: str, choices: ImportChoices, endpoint: str, said: str
) -> None:
    changed, warnings = with_own_models(content(model=model), SERVER, choices)
    assert changed["agents"][0]["llm_config"]["model_endpoint"] == endpoint
    assert said in "".join(warnings)
    assert bool(said) == bool(warnings)


def test_sources_use_the_servers_own_endpoint_too() -> None:
    config = {"handle": "own/embedding", "embedding_endpoint": ABROAD}
    given = content(sources=[{"name": "s", "embedding_config": config}, {"name": "t"}])
    changed, _ = with_own_models(given, SERVER, ImportChoices())
    assert changed["sources"][0]["embedding_config"]["embedding_endpoint"] == OWN


def test_models_that_the_server_lacks_are_named_once_with_what_it_has() -> None:
    agents = [PlannedAgent(name, "far/model", "far/embedding", 0) for name in ("a", "b")]
    assert list(unknown_models(agents, SERVER)) == [
        "the server has no model far/model: --model takes one of own/model",
        "the server has no embedding model far/embedding: --embedding takes one of own/embedding",
    ]


# Finding agents


def test_every_agent_is_listed_page_by_page(letta: FakeLetta) -> None:
    ids = [letta.make(f"agent {number}") for number in range(450)]
    with api(deployment(letta)) as client:
        assert [agent.id for agent in every_agent(client)] == ids
    assert letta.pages[:3] == [200, 200, 200]


def test_an_agent_is_found_by_id_and_by_a_name_that_only_it_has(letta: FakeLetta) -> None:
    identifier = letta.make("Ada")
    with api(deployment(letta)) as client:
        assert find_agent(client, identifier).name == "Ada"
        assert find_agent(client, "Ada").id == identifier


def test_a_name_of_two_agents_is_ambiguous_and_both_ids_are_told(letta: FakeLetta) -> None:
    ids = [letta.make("Ada"), letta.make("Ada")]
    with api(deployment(letta)) as client, pytest.raises(LettaOpsError) as caught:
        find_agent(client, "Ada")
    assert caught.value.code == "agent-ambiguous"
    assert all(identifier in caught.value.message for identifier in ids)


@pytest.mark.parametrize("wanted", ["nobody", f"agent-{uuid.UUID(int=0)}"])
def test_an_agent_that_is_not_there_is_unknown(letta: FakeLetta, wanted: str) -> None:
    with api(deployment(letta)) as client, pytest.raises(LettaOpsError) as caught:
        find_agent(client, wanted)
    assert caught.value.code == "agent-unknown"


# Exporting


def test_an_export_is_kept_as_the_server_wrote_it_and_only_for_us(
    letta: FakeLetta, tmp_path: Path
) -> None:
    letta.export = json.dumps(content("Ada"), indent=3).encode()
    exported = exporting.export_agent(deployment(letta), letta.make("Ada"))
    target = tmp_path / "ada.af"
    exporting.save(exported.text, target)
    assert target.read_bytes() == letta.export
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]
    assert exported.messages == 1


def test_an_export_that_is_not_whole_is_not_taken(letta: FakeLetta) -> None:
    letta.export = b'{"agents": ['
    with pytest.raises(LettaOpsError, match="is not JSON"):
        exporting.export_agent(deployment(letta), letta.make("Ada"))


def test_an_output_is_refused_before_anything_is_exported(tmp_path: Path) -> None:
    there = tmp_path / "there.af"
    there.touch()
    for path, overwrite in ((there, False), (tmp_path, True), (tmp_path / "no" / "x.af", True)):
        with pytest.raises(LettaOpsError) as caught:
            exporting.check_output(path, overwrite=overwrite)
        assert caught.value.code == "output-refused"
    exporting.check_output(there, overwrite=True)
    exporting.check_output(tmp_path / "new.af", overwrite=False)


# Importing


def test_an_import_keeps_names_tools_and_tags_unless_told_otherwise(letta: FakeLetta) -> None:
    imported = import_agents(deployment(letta), agent_file(content("Ada")), ImportChoices())
    (agent,) = imported.agents
    assert (agent.name, letta.agents[agent.id]["tags"]) == ("Ada", ["mine"])
    form = letta.forms[0]
    assert (form["append_copy_suffix"], form["override_existing_tools"]) == ("false", "false")
    assert not {"name", "model", "embedding"} & set(form)


def test_choices_of_an_import_reach_the_server(letta: FakeLetta) -> None:
    choices = ImportChoices("Bea", "own/model", "own/embedding", overwrite_tools=True)
    imported = import_agents(deployment(letta), agent_file(content("Ada")), choices)
    assert imported.agents[0].name == "Bea"
    form = letta.forms[0]
    assert (form["model"], form["embedding"]) == ("own/model", "own/embedding")
    assert form["override_existing_tools"] == "true"


def test_a_model_that_the_server_lacks_is_refused_before_anything_is_sent(letta: FakeLetta) -> None:
    file = agent_file(content(model="far/model"))
    with pytest.raises(LettaOpsError) as caught:
        import_agents(deployment(letta), file, ImportChoices())
    assert caught.value.code == "model-unknown"
    assert not letta.forms
    imported = import_agents(deployment(letta), file, ImportChoices(allow_unknown_model=True))
    assert "far/model" in "".join(imported.warnings)


def test_a_failed_import_removes_its_own_remains_and_nothing_else(letta: FakeLetta) -> None:
    namesake, tagged = letta.make("Ada"), letta.make("Bea", "mine")
    same_text = letta.loose("human", "likes tea")
    letta.fails_after = 1
    with pytest.raises(LettaOpsError) as caught:
        import_agents(deployment(letta), agent_file(content("Ada", "Bea")), ImportChoices())
    assert caught.value.code == "import-failed"
    assert "message-7" in caught.value.message
    assert "removed what it left: agent-" in caught.value.message
    assert list(letta.agents) == [namesake, tagged]
    assert list(letta.blocks) == [same_text]


def test_an_import_that_leaves_nothing_says_so(letta: FakeLetta) -> None:
    letta.fails_after = 0
    with pytest.raises(LettaOpsError, match="removed what it left: nothing"):
        import_agents(deployment(letta), agent_file(content("Ada", blocks=[])), ImportChoices())


def test_one_name_for_several_agents_is_refused(letta: FakeLetta) -> None:
    with pytest.raises(LettaOpsError) as caught:
        import_agents(deployment(letta), agent_file(content("A", "B")), ImportChoices(name="C"))
    assert caught.value.code == "name-refused"


def test_a_plan_warns_of_namesakes_other_tools_secrets_and_files(letta: FakeLetta) -> None:
    letta.make("Ada")
    letta.tools = [{"id": "tool-1", "name": "look", "source_code": "old"}]
    tool = {"id": "tool-0", "name": "look", "source_code": "new"}
    given = content("Ada", tools=[tool], files=[{"id": "file-0"}])
    given["agents"][0]["secrets"] = {"TOKEN": ""}
    plan = plan_import(deployment(letta), agent_file(given), ImportChoices())
    for part in ("named 'Ada'", "TOKEN", "1 file(s)"):
        assert part in "\n".join(plan.warnings)
    (planned,) = plan.tools
    assert (planned.name, planned.fate) == ("look", "kept")
    assert planned.difference.splitlines()[-2:] == ["-old", "+new"]
    assert not letta.forms


def test_a_wrong_password_is_told_as_such(letta: FakeLetta) -> None:
    with pytest.raises(LettaOpsError) as caught:
        import_agents(deployment(letta, "wrong-password"), agent_file(content()), ImportChoices())
    assert caught.value.code == "wrong-password"


def test_an_import_without_an_answer_tells_how_to_find_what_it_made(
    letta: FakeLetta, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(*_: object) -> tuple[int, Any]:
        raise ConnectionError

    monkeypatch.setattr(letta, "take_in", vanish)
    with pytest.raises(LettaOpsError) as caught:
        import_agents(deployment(letta), agent_file(content()), ImportChoices())
    assert caught.value.code == "import-unfinished"
    assert "not imported twice" in caught.value.hint
