"""Agents and agent files: judging files, finding agents, exporting, importing and cleaning up.

The server is a small one of our own that speaks Letta's HTTP API where these commands use it; the
live tests do the same with the real one.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from infra.connect import api
from infra.deployment import Deployment, Server
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from ops_cli.agents import exporting
from ops_cli.agents.agent_file import AgentFile, parse_agent_file, read_agent_file
from ops_cli.agents.import_plan import (
    ImportChoices,
    PlannedAgent,
    ServerModels,
    unknown_models,
    with_own_endpoints,
)
from ops_cli.agents.importing import MARK, import_agents, marked, plan_import
from ops_cli.agents.listing import every_agent, find_agent

PASSWORD = "swordfish-swordfish"
ABROAD = "https://elsewhere.example/v1"
OWN = "http://127.0.0.1:8284/v1"
Content = dict[str, Any]


def content(*names: str, model: str = "own/model", **sections: Any) -> Content:
    """An agent file's content with these agents."""
    agents = [
        {
            "id": f"agent-{number}",
            "name": name,
            "tags": ["mine"],
            "messages": [{"id": "message-0"}],
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


@dataclass
class FakeLetta:
    """The state of the small server; `fails_after` agents its import fails, as Letta's does."""

    agents: dict[str, Content] = field(default_factory=dict)
    blocks: dict[str, Content] = field(default_factory=dict)
    tools: list[Content] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    fails_after: int | None = None
    export: bytes = b""
    url: str = ""

    def make(self, name: str, *tags: str) -> str:
        identifier = f"agent-{uuid.uuid4()}"
        self.agents[identifier] = {
            "id": identifier, "name": name, "tags": list(tags), "model": "own/model",
            "created_at": f"2026-01-01T00:00:{len(self.agents) % 60:02d}Z", "message_ids": ["m"],
        }  # fmt: skip
        return identifier

    def loose(self, label: str, value: str) -> str:
        identifier = f"block-{uuid.uuid4()}"
        self.blocks[identifier] = {"id": identifier, "label": label, "value": value}
        return identifier

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes, head: Message) -> tuple[int, Any]:  # fmt: skip
        parts = path.strip("/").split("/")[1:]
        match (method, parts):
            case ("GET", ["agents"]):
                return self._page(query)
            case ("POST", ["agents", "import"]):
                return self._import(body, head)
            case ("GET", ["agents", identifier, "export"]):
                return 200, self.export
            case (_, ["agents", identifier]):
                return self._one(method, identifier, body)
            case ("DELETE", ["blocks", identifier]):
                return 200, self.blocks.pop(identifier)
            case ("GET", ["blocks"]):
                return 200, [] if "after" in query else list(self.blocks.values())
            case ("GET", ["tools"]):
                return 200, [] if "after" in query else self.tools
            case ("GET", ["models"]):
                return 200, [{"handle": "own/model", "model_endpoint": OWN}]
            case ("GET", ["models", "embedding"]):
                return 200, [{"handle": "own/embedding", "embedding_endpoint": OWN}]
        return 404, {"detail": f"no {method} {path}"}

    def _page(self, query: dict[str, list[str]]) -> tuple[int, Any]:
        limit = int(query.get("limit", ["50"])[0])
        if limit > 200:
            return 422, {"detail": "limit"}
        self.pages.append(limit)
        found = list(self.agents.values())
        if "after" in query:
            ids = [agent["id"] for agent in found]
            found = found[ids.index(query["after"][0]) + 1 :]
        if "name" in query:
            found = [agent for agent in found if agent["name"] == query["name"][0]]
        if "tags" in query:
            found = [agent for agent in found if query["tags"][0] in agent["tags"]]
        return 200, found[:limit]

    def _one(self, method: str, identifier: str, body: bytes) -> tuple[int, Any]:
        if identifier not in self.agents:
            return 404, {"detail": "not found"}
        if method == "DELETE":
            return 200, self.agents.pop(identifier)
        if method == "PATCH":
            self.agents[identifier] |= json.loads(body)
        return 200, self.agents[identifier]

    def _import(self, body: bytes, head: Message) -> tuple[int, Any]:
        message = BytesParser().parsebytes(
            b"Content-Type: " + head["Content-Type"].encode() + b"\r\n\r\n" + body
        )
        form = {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
            for part in message.walk()
            if not part.is_multipart()
        }
        texts = {name: bytes(value).decode() for name, value in form.items()}  # type: ignore[arg-type]
        self.forms.append(texts)
        sent = json.loads(texts["file"])
        for block in sent["blocks"]:
            self.loose(block["label"], block["value"])
        made = []
        for agent in sent["agents"]:
            if len(made) == self.fails_after:
                return 400, {"detail": "Import failed: 'message-7'"}
            made.append(self.make(texts.get("name", agent["name"]), *agent["tags"]))
        return 200, {"agent_ids": made}


@pytest.fixture
def letta() -> Iterator[FakeLetta]:
    state = FakeLetta()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(size)
            url = urlsplit(self.path)
            if self.headers.get("Authorization") != f"Bearer {PASSWORD}":
                code, answer = 401, {"detail": "Unauthorized"}
            else:
                code, answer = state.answer(
                    self.command, url.path, parse_qs(url.query), body, self.headers
                )
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def deployment(letta: FakeLetta, password: str = PASSWORD) -> Deployment:
    return Deployment("test", "external", Server(letta.url, Sensitive(password)))


# Judging files


@pytest.mark.parametrize(
    ("data", "code", "part"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "agent-file-pointer", "git lfs"),
        (b"", "agent-file-broken", "is not JSON"),
        (b"\xff\xfe{", "agent-file-broken", "is not JSON"),
        (b"[" * 100_000, "agent-file-broken", "is not JSON"),
        (b"[1]", "agent-file-broken", "a JSON list"),
        (b"{}", "agent-file-broken", "agents is missing"),
        (b'{"agents": 1}', "agent-file-broken", "agents is not a list"),
        (b'{"agent_type": "memgpt_agent", "core_memory": []}', "agent-file-v1", "format 1"),
        (json.dumps(content() | {"agents": []}).encode(), "agent-file-broken", "agents is empty"),
        (json.dumps(content() | {"agents": [{}]}).encode(), "agent-file-broken", "agents[0]"),
        (json.dumps(content() | {"agents": [7]}).encode(), "agent-file-broken", "agents[0]"),
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


def test_marking_changes_a_copy_only_and_keeps_the_tags() -> None:
    given = content("Ada")
    assert marked(given, "m")["agents"][0]["tags"] == ["mine", "m"]
    assert given["agents"][0]["tags"] == ["mine"]
    del given["agents"][0]["tags"]
    assert marked(given, "m")["agents"][0]["tags"] == ["m"]


SERVER = ServerModels({"own/model": OWN}, {"own/embedding": OWN})


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
    changed, warnings = with_own_endpoints(content(model=model), SERVER, choices)
    assert changed["agents"][0]["llm_config"]["model_endpoint"] == endpoint
    assert said in "".join(warnings)
    assert bool(said) == bool(warnings)


def test_sources_use_the_servers_own_endpoint_too() -> None:
    config = {"handle": "own/embedding", "embedding_endpoint": ABROAD}
    given = content(sources=[{"name": "s", "embedding_config": config}, {"name": "t"}])
    changed, _ = with_own_endpoints(given, SERVER, ImportChoices())
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
    exporting.save(exported, target)
    assert target.read_bytes() == letta.export
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["ada.af"]
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
    choices = ImportChoices("Bea", "own/model", "own/embedding", override_tools=True)
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
    assert "far/model" in imported.warnings[0]


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
    given = content("Ada", tools=[{"name": "look", "source_code": "new"}], files=[{"id": "f"}])
    given["agents"][0]["secrets"] = {"TOKEN": ""}
    warnings = "\n".join(
        plan_import(deployment(letta), agent_file(given), ImportChoices()).warnings
    )
    for part in ("named 'Ada'", "tool 'look'", "TOKEN", "1 file(s)"):
        assert part in warnings
    assert not letta.forms


def test_a_wrong_password_is_told_as_such(letta: FakeLetta) -> None:
    with pytest.raises(LettaOpsError) as caught:
        import_agents(deployment(letta, "wrong-password"), agent_file(content()), ImportChoices())
    assert caught.value.code == "wrong-password"


def test_an_import_without_an_answer_tells_how_to_find_what_it_made(letta: FakeLetta) -> None:
    def vanish(*_: object) -> tuple[int, Any]:
        raise ConnectionError

    letta._import = vanish  # type: ignore[method-assign]
    with pytest.raises(LettaOpsError) as caught:
        import_agents(deployment(letta), agent_file(content()), ImportChoices())
    assert caught.value.code == "import-unfinished"
    assert f"agent list --tag {MARK}" in caught.value.hint
