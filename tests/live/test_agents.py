"""Agents move in and out of a real server: many, ambiguous, unfit, and failing half-way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infra.api import api
from ops_cli.agents.agent_file import read_agent_file
from ops_cli.agents.file_compare import said
from tests.live.agents import rich_agent, say
from tests.live.machine import ROOT, Stack
from tests.unit.agent_files import whole

EXAMPLE = ROOT / "docs" / "example.af"
HANDLES = ["--model", "openai-proxy/fake", "--embedding", "openai/text-embedding-3-small"]


@pytest.fixture
def clean(stack: Stack) -> Iterator[Stack]:
    """The shared stack; whatever agents a test leaves are deleted."""
    yield stack
    with api(stack.deployment) as client:
        for agent in stack.json("agent", "list"):
            client.agents.delete(agent["id"])


def ids(stack: Stack) -> set[str]:
    return {agent["id"] for agent in stack.json("agent", "list")}


@pytest.mark.long
def test_more_agents_than_a_page_holds_are_all_listed(clean: Stack) -> None:
    """Letta refuses a limit above 200."""
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


@pytest.mark.long
def test_two_agents_of_one_name_are_told_apart_by_their_ids(clean: Stack, tmp_path: Path) -> None:
    words = ("agent", "import", str(EXAMPLE), "--name", "twin", *HANDLES)
    twins = [clean.json(*words, "--again")["agents"][0]["id"] for _ in range(2)]
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
    ('{"agents": []}', "groups is missing"),
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


def test_an_import_that_fails_half_way_leaves_nothing(clean: Stack, tmp_path: Path) -> None:
    """Letta's import is no transaction: that an agent has no model, it finds with its tools made."""
    document: dict[str, Any] = json.loads(EXAMPLE.read_text())
    agent = document["agents"][0]
    agent["llm_config"] = None
    agent["model"] = "nowhere/model"
    document["tools"][0] |= {"name": "only_here", "tool_type": "custom", "source_code": SOURCE}
    document["tools"][0]["json_schema"] = {"name": "only_here", "parameters": {}}
    document["blocks"][0]["value"] = "Only of this import."
    file = tmp_path / "broken.af"
    file.write_text(json.dumps(document))
    answer = clean.run("--json", "agent", "import", str(file), "--allow-unknown-model")
    assert answer.code == 1, answer.out
    message = answer.json["error"]["message"]
    assert "removed what it left: block-" in message
    assert "tool-" in message
    assert ids(clean) == set()
    with api(clean.deployment) as client:
        assert not list(client.tools.list(name="only_here"))
        left = client.blocks.list(connected_to_agents_count_eq=[0])
        assert "Only of this import." not in [block.value for block in left]


SOURCE = 'def only_here() -> str:\n    """Be only here."""\n    return \'here\'\n'


# What the release itself says of files, before anything is sent.

UNFIT_BY_SCHEMA: list[tuple[str, Any, list[str]]] = [
    ("id", lambda c: c["agents"][0]["messages"][1].pop("id"), ["agents[0].messages[1].id is missing"]),
    ("metadata", lambda c: c.update(metadata={"origin": {"a": 1}}),
     ["metadata.origin is an object, a text is wanted"]),
    ("types", lambda c: (c["agents"][0].update(agent_type="shelf"), c["tools"][0].update(tool_type="x")),
     ['agents[0].agent_type is "shelf"; allowed:', 'tools[0].tool_type is "x"; allowed:']),
    ("sources", lambda c: c["sources"].append({"name": "x", "source_code": "y"}),
     ["sources[0].id is missing", "sources[0].source_code is not a key", "looks like tools"]),
    ("name", lambda c: c["agents"][0].update(name="../../etc", max_files_open="many"),
     ['agents[0].name is "../../etc"', 'agents[0].max_files_open is "many"']),
    ("empty", lambda c: c["tools"][0].update(source_code=None, source_type=None),
     ["tools[0].source_type is missing, or empty"]),
    ("content", lambda c: c["agents"][0]["messages"][1].update(content=[{"type": "shout"}]),
     ["agents[0].messages[1].content[0]", "shout"]),
]  # fmt: skip


def test_the_release_judges_files_before_anything_is_sent(clean: Stack, tmp_path: Path) -> None:
    for name, change, _ in UNFIT_BY_SCHEMA:
        content = whole()
        change(content)
        (tmp_path / f"{name}.af").write_text(json.dumps(content))
    answer = clean.run("--json", "agent", "import", str(tmp_path), *HANDLES)
    assert answer.code == 1
    errors = {Path(row["file"]).stem: row["error"] for row in answer.json["files"]}
    for name, _, parts in UNFIT_BY_SCHEMA:
        assert errors[name]["code"] == "agent-file-broken"
        for part in parts:
            assert part in errors[name]["message"]
    assert ids(clean) == set()


def test_whatever_is_imported_answers(clean: Stack, tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "whole": {},
        "emptied": {"in_context_message_ids": []},
        "without messages": {"in_context_message_ids": [], "messages": []},
        "only a handle": {
            "llm_config": None,
            "embedding_config": None,
            "model": "openai-proxy/fake",
        },
    }
    for name, more in kinds.items():
        file = tmp_path / f"{name}.af"
        file.write_bytes(json.dumps(whole(name=name, **more)).encode("utf-16"))
    taken = clean.json(
        "agent", "import", str(tmp_path), "--map-model", "old/one=openai-proxy/fake", *HANDLES
    )
    with api(clean.deployment) as client:
        for row in taken["files"]:
            (agent,) = row["agents"]
            assert say(client, agent["id"], "Hello?"), agent["name"]


@pytest.mark.long
def test_a_command_is_not_taken_unasked(clean: Stack, tmp_path: Path) -> None:
    content = whole()
    command = {"command": "touch", "args": [str(tmp_path / "ran")], "server_name": "shelves",
               "type": "stdio"}  # fmt: skip
    content["mcp_servers"] = [
        {
            "id": "mcp_server-0",
            "server_name": "shelves",
            "server_type": "stdio",
            "stdio_config": command,
        }
    ]
    file = tmp_path / "command.af"
    file.write_text(json.dumps(content))
    answer = clean.json("agent", "import", str(file), *HANDLES)
    assert any("it is not taken" in warning for warning in answer["warnings"])
    with api(clean.deployment) as client:
        assert "shelves" not in [each.server_name for each in client.mcp_servers.list()]
        clean.json("agent", "import", str(file), "--allow-commands", "--again", *HANDLES)
        (taken,) = (each for each in client.mcp_servers.list() if each.server_name == "shelves")
        client.mcp_servers.delete(str(taken.id))
    assert not (tmp_path / "ran").exists()


def test_many_files_are_imported_once_each_and_the_rest_goes_on(
    clean: Stack, tmp_path: Path
) -> None:
    for number in range(5):
        file = tmp_path / f"{number}.af"
        file.write_text(json.dumps(whole(name=f"one-of-{number}")))
    (tmp_path / "3.af").write_text('{"agents": [')
    first = clean.run("--json", "agent", "import", str(tmp_path), *HANDLES)
    assert first.code == 1
    rows = {Path(row["file"]).name: row for row in first.json["files"]}
    assert [name for name, row in rows.items() if row["error"]] == ["3.af"]
    assert len(ids(clean)) == 4
    (tmp_path / "3.af").write_text(json.dumps(whole(name="one-of-3")))
    again = clean.json("agent", "import", str(tmp_path), *HANDLES)["files"]
    assert [row["imported_before"] for row in again] == [True, True, True, False, True]
    assert len(ids(clean)) == 5


def test_two_imports_of_one_file_at_once_make_one_agent(clean: Stack, tmp_path: Path) -> None:
    file = tmp_path / "one.af"
    file.write_text(json.dumps(whole(name="only-one")))
    words = ("--json", "agent", "import", str(file), *HANDLES)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: clean.run(*words), range(2)))
    assert [answer.code for answer in answers] == [0, 0], [answer.out for answer in answers]
    (only,) = ids(clean)
    assert {answer.json["agents"][0]["id"] for answer in answers} == {only}
    with api(clean.deployment) as client:
        assert say(client, only, "Still whole?")
        assert [tool.name for tool in client.agents.tools.list(only)] == ["look"]


def test_what_an_export_loses_is_counted_and_strict_refuses(clean: Stack, tmp_path: Path) -> None:
    rich = rich_agent(clean)
    answer = clean.json("agent", "export", rich.id, "-o", str(tmp_path / "rich.af"))
    lost = {each["what"]: each["lost"] for each in answer["loss"]}
    assert (lost["passages"], lost["conversations"], lost["secrets"], lost["identities"]) == (
        2,
        1,
        1,
        1,
    )
    assert lost["messages"] >= 2
    assert (
        sum(lost[what] for what in lost if what.startswith("messages of role")) == lost["messages"]
    )
    strict = clean.run(
        "--json", "agent", "export", rich.id, "--strict", "-o", str(tmp_path / "s.af")
    )
    assert strict.code == 1
    assert strict.json["error"]["code"] == "loss"
    assert not (tmp_path / "s.af").exists()
    shared = clean.json("agent", "export", rich.id, "--redact", "-o", str(tmp_path / "shared.af"))
    assert shared["redacted"] == 0
    clean.json("agent", "export", rich.id, "--scrub-messages", "-o", str(tmp_path / "bare.af"))
    assert json.loads((tmp_path / "bare.af").read_text())["agents"][0]["messages"] == []
    with api(clean.deployment) as client:
        for folder in list(client.folders.list()):
            client.folders.delete(folder.id)


@pytest.mark.long
def test_an_export_of_many_goes_on_where_it_was_and_its_hashes_hold(
    clean: Stack, tmp_path: Path
) -> None:
    for number in range(3):
        file = tmp_path / f"{number}.af"
        file.write_text(json.dumps(whole(name=f"bot {number}", tags=["bots"])))
    clean.json("agent", "import", str(tmp_path), *HANDLES)
    folder = tmp_path / "out"
    rows = clean.json("agent", "export", "--name", "bot*", "-o", str(folder))["agents"]
    files = {row["file"]: row["sha256"] for row in rows}
    assert len(files) == 3
    for name, digest in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    first, second, _ = files
    (folder / first).write_text("half")
    kept = (folder / second).stat().st_mtime_ns
    again = clean.json("agent", "export", "--tag", "bots", "-o", str(folder))["agents"]
    mended = next(row["sha256"] for row in again if row["file"] == first)
    assert hashlib.sha256((folder / first).read_bytes()).hexdigest() == mended
    assert (folder / second).stat().st_mtime_ns == kept
    agent = next(row["id"] for row in rows if row["file"] == first)
    assert clean.json("agent", "diff", str(folder / first), agent)["equal"] is True


@pytest.mark.long
def test_every_file_of_the_release_is_imported_with_all_that_it_says(
    clean: Stack, tmp_path: Path
) -> None:
    """Nine of the twelve are of format 1, which the server itself refuses."""
    folder = _release() / "tests" / "test_agent_files"
    rows = clean.json("agent", "import", str(folder), *HANDLES)["files"]
    assert len(rows) == 12
    for row in rows:
        (made,) = row["agents"]
        (wanted,) = said(read_agent_file(Path(row["file"])).content)["agents"]
        shown = clean.json("agent", "show", made["id"])
        blocks = {block["label"]: block["value"] for block in shown["blocks"]}
        assert blocks == {label: block["value"] or "" for label, block in wanted["blocks"].items()}
        assert shown["name"] == wanted["name"]
        assert shown["system"] == (wanted["system"] or "")
        assert shown["tools"] == wanted["tools"]
        assert sorted(shown["tags"]) == sorted(wanted["tags"] or [])
        assert shown["counts"]["secrets"] == len(wanted["secrets"])
        assert shown["context"]["messages"] == len(wanted["context"])
        told = clean.json("agent", "messages", made["id"])
        assert [message["role"] for message in told] == [
            each["role"] for each in wanted["messages"]
        ]
        assert [message["text"] for message in told if message["role"] != "tool"] == [
            _text(each) for each in wanted["messages"] if each["role"] != "tool"
        ]


def _text(message: dict[str, Any]) -> str:
    parts = [part.get("text") or part.get("reasoning") for part in message["content"] or []]
    return "\n".join(part for part in parts if part)


@pytest.mark.long
def test_every_file_of_the_release_leaves_whole(clean: Stack, tmp_path: Path) -> None:
    files = sorted((_release() / "tests" / "test_agent_files").glob("*.af"))
    assert len(files) == 12
    store = str(tmp_path / "store")
    sources = [word for file in files for word in ("--from", str(file))]
    made = clean.json("exit", "export", "--all", "--to", store, *sources)
    assert len(made["agents"]) == 12
    assert clean.json("exit", "verify", store, *sources)["equal"] is True


def _release() -> Path:
    """The source of the release that the tests run, as it was installed."""
    from infra.embedded.release import source_of
    from infra.stack.locations import cache_folder
    from infra.stack.releases import RELEASES

    return source_of(RELEASES["0.16.8"], cache_folder(), print)
