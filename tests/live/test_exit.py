"""The way out: from wherever an agent of V1 is, into a store that the successor itself works with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.api import api
from ops_cli.exit import layout
from ops_cli.exit.layout import local_id
from tests.live.agents import Rich, rich_agent, say
from tests.live.machine import Stack
from tests.live.seeding import Server
from tests.live.successor import ANSWER, MODEL, successor

MAP = ("--map-model", f"openai-proxy/fake={MODEL}")
OLDEST = "pernambuco"


@pytest.fixture(scope="module")
def rich(stack: Stack) -> Iterator[Rich]:
    made = rich_agent(stack)
    with api(stack.deployment) as client:
        say(client, made.id, f"The oldest word is {OLDEST}")
    yield made
    stack.run("agent", "delete", made.id, "--yes")


@pytest.fixture(scope="module")
def live(stack: Stack, rich: Rich, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("exit") / "store"
    made = stack.json("exit", "export", "--agent", rich.name, "--to", str(store), *MAP)
    assert [each["v1_id"] for each in made["agents"]] == [rich.id]
    return store


def logs(store: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.glob(f"{layout.CONVERSATIONS}/*/{layout.MESSAGES}")
    }


def test_a_plan_says_what_comes_along_and_what_does_not(stack: Stack, rich: Rich) -> None:
    plan = stack.json("exit", "plan", "--agent", rich.id)
    (agent,) = plan["agents"]
    assert {key: agent[key] for key in ("conversations", "blocks", "passages", "files")} == {
        "conversations": 2, "blocks": 2, "passages": 2, "files": 1,
    }  # fmt: skip
    assert plan["unmapped_models"] == {"openai-proxy/fake": 1}
    notes = " ".join(plan["notes"])
    for word in ("custom tools", "identities", "secrets of tools"):
        assert word in notes
    assert stack.json("exit", "plan", "--agent", rich.id, *MAP)["unmapped_models"] == {}


def test_from_wherever_it_is_the_same_comes_and_it_is_what_v1_has(
    stack: Stack, rich: Rich, live: Path, tmp_path: Path
) -> None:
    archive, file = tmp_path / "one.agents", tmp_path / "one.af"
    stack.json("backup", "create")
    stack.json("agent", "archive", rich.id, "-o", str(archive))
    stack.json("agent", "export", rich.id, "-o", str(file))
    for source in ("backup:latest", str(archive)):
        store = tmp_path / f"of-{Path(source).name}"
        stack.json("exit", "export", "--agent", rich.id, "--from", source, "--to", str(store), *MAP)
        assert logs(store) == logs(live)
        assert stack.json("exit", "verify", str(store), "--agent", rich.id)["equal"] is True
    found = stack.json("exit", "verify", str(live), "--agent", rich.id)
    assert found["totals"] == {
        "agents": 1, "messages": len_of(stack, rich), "blocks": 2, "passages": 2, "files": 1,
        "differences": 0,
    }  # fmt: skip
    # A file has less, and that comes whole: without the stack, too.
    nowhere = {"LETTA_OPS_STATE": str(tmp_path / "nowhere")}
    of_file = str(tmp_path / "of-file")
    for words in (("export", "--all", "--to", of_file), ("verify", of_file)):
        answer = stack.run("--json", "exit", *words, "--from", str(file), environment=nowhere)
        assert answer.code == 0, answer.out + answer.err


def len_of(stack: Stack, rich: Rich) -> int:
    with stack.administrator() as link:
        query = "SELECT count(*) FROM messages WHERE agent_id = %s"
        return int(link.execute(query, [rich.id]).fetchone()[0])  # type: ignore[index]  # a count


def test_what_v1_said_since_is_a_difference(
    stack: Stack, rich: Rich, live: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(live, store)
    with api(stack.deployment) as client:
        say(client, rich.id, "And one more thing")
        differing = stack.json("exit", "verify", str(store), "--agent", rich.id, code=1)
        assert differing["error"]["code"] == "exit-differs"
        found = differing["agents"][0]["differences"]
        assert {each["what"] for each in found} == {"message", "agent"}  # and its counts
        refused = stack.json("exit", "export", "--agent", rich.id, "--to", str(store), *MAP, code=1)
        assert refused["error"]["code"] == "agent-exists"
        made = stack.json(
            "exit", "export", "--agent", rich.id, "--to", str(store), "--replace", *MAP
        )
    assert Path(made["replaced"]).is_dir()
    assert stack.json("exit", "verify", str(store), "--agent", rich.id)["equal"] is True


def test_secrets_come_along_on_request_only(
    stack: Stack, rich: Rich, live: Path, tmp_path: Path
) -> None:
    from tests.live.agents import SECRET

    assert not any(
        SECRET.encode() in path.read_bytes() for path in live.rglob("*") if path.is_file()
    )
    store = tmp_path / "store"
    words = ("exit", "export", "--agent", rich.id, "--to", str(store), "--with-secrets")
    answer = stack.run(*words)
    assert answer.code == 0
    assert SECRET not in answer.out + answer.err
    path = store / layout.SECRETS
    assert (
        json.loads(path.read_bytes())["secrets"][f"agent:{local_id(rich.id)}:secrets:TOKEN"]
        == SECRET
    )
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_registry_follows_in_the_same_step(stack: Stack, tmp_path: Path) -> None:
    made = stack.json("registry", "ensure", "leaving", "--app", "exit")["letta_agent_id"]
    answer = stack.json(
        "exit", "export", "--agent", made, "--to", str(tmp_path / "store"), "--registry"
    )
    assert answer["registry"] == [f"'leaving' of 'exit' has agent {local_id(made)} now"]
    (link,) = [each for each in stack.json("registry", "list")["links"] if each["app"] == "exit"]
    assert link["letta_agent_id"] == local_id(made)
    history = json.dumps(stack.json("registry", "history", "leaving", "--app", "exit"))
    assert made in history
    assert local_id(made) in history
    # Who asks gets it, no other one is made, and nothing takes it back.
    for verb in ("get", "ensure"):
        found = stack.json("registry", verb, "leaving", "--app", "exit")
        assert found["letta_agent_id"] == local_id(made)
    assert stack.json("registry", "reconcile", "--app", "exit")["findings"] == []
    # And back: V1 is still there.
    stack.json("registry", "link", "leaving", made, "--app", "exit", "--move")
    stack.json("registry", "unlink", "leaving", "--app", "exit")
    stack.run("agent", "delete", made, "--yes")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm: the successor comes from there")
def test_the_successor_itself_goes_on_with_it(stack: Stack, rich: Rich, tmp_path: Path) -> None:
    server = Server(stack.deployment)
    old = server.make("of-old", agent_type="memgpt_v2_agent")
    server.say(old, "Said by a tool of V1")
    store, agent = tmp_path / "store", local_id(rich.id)
    both = ("--agent", rich.id, "--agent", old)
    stack.json("exit", "export", *both, "--to", str(store), *MAP)
    with successor(tmp_path / "judge", store) as judge:
        listed = judge.json("agents", "list")["items"]
        assert {each["id"] for each in listed} == {agent, local_id(old)}
        said = json.dumps(judge.say(local_id(old), "Hello again")["messages"])
        assert "The fake model heard: Said by a tool of V1" in said
        found = judge.json("messages", "search", "--query", OLDEST, "--agent", agent)
        assert OLDEST in json.dumps(found)
        of_main = ("--conversation", "default", "--agent", agent)
        assert OLDEST in judge.run("messages", "transcript", *of_main)
        heard = judge.say(agent, "Hello again")
        _compare(stack, rich, heard)
        with judge.served() as url:
            asked = {"model": agent, "messages": [{"role": "user", "content": "Hello, server"}]}
            answer = httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60)
            assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    verified = stack.json("exit", "verify", str(store), *both)
    assert verified["equal"] is True
    assert all(each["added"]["messages"] >= 2 for each in verified["agents"])
    stack.run("agent", "delete", old, "--yes")


def _compare(stack: Stack, rich: Rich, heard: dict[str, Any]) -> None:
    """What reaches the model holds V1's blocks and V1's messages in context, in V1's order."""
    system, *rest = heard["messages"]
    shown = stack.json("agent", "show", rich.id)
    for block in shown["blocks"]:
        assert block["value"] in system["content"]
    assert shown["system"].strip()[:200] in system["content"]
    with stack.administrator() as link:
        rows = link.execute(
            "SELECT m.role, m.content -> 0 ->> 'text' FROM agents a,"
            " json_array_elements_text(a.message_ids) WITH ORDINALITY i(id, place)"
            " JOIN messages m ON m.id = i.id WHERE a.id = %s AND m.role <> 'system' ORDER BY i.place",
            [rich.id],
        ).fetchall()
    said = [
        (each["role"], content if isinstance(content, str) else content[0]["text"])
        for each in rest
        if (content := each["content"])
    ]
    assert said[: len(rows)] == [(role, text) for role, text in rows]
