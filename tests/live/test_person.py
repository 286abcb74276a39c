"""What belongs to one person across agents: told, exported, erased; and nobody else's is touched."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.api import api
from tests.live.agents import asked, say
from tests.live.machine import Stack, wait_until


@dataclass(frozen=True)
class House:
    """`hers` is of one person, `shared` of two, `his` of the other; `word` is said by her alone."""

    stack: Stack
    person: str
    key: str
    other: str
    hers: str
    shared: str
    his: str
    block: str
    word: str


@pytest.fixture
def house(stack: Stack) -> Iterator[House]:
    mark = uuid.uuid4().hex[:8]
    word = f"walnuts-{mark}"
    model = stack.deployment.model
    with api(stack.deployment) as client:

        def agent(name: str, **more: Any) -> str:
            made = client.agents.create(
                name=f"{name}-{mark}",
                model=model.handle,
                embedding=model.embedding,
                include_base_tools=False,
                **more,
            )
            return made.id

        block = client.blocks.create(label="about", value=f"She is allergic to {word}.").id
        hers, shared = agent("hers", block_ids=[block]), agent("shared", block_ids=[block])
        his = agent("his")

        def identity(key: str, agents: list[str], blocks: list[str]) -> str:
            body = {"identifier_key": key, "name": "A person", "identity_type": "user"}
            answer: Any = client.post(
                "/v1/identities/",
                cast_to=object,
                body={**body, "agent_ids": agents, "block_ids": blocks},
            )
            return str(answer["id"])

        person = identity(f"her-{mark}", [hers, shared], [block])
        other = identity(f"him-{mark}", [shared, his], [])
        client.agents.passages.create(hers, text=f"Never {word}.")
        for each, sender in ((hers, person), (shared, person), (shared, other), (his, other)):
            text = f"No {word}" if sender == person else "Good day"
            message: Any = {"role": "user", "content": text, "sender_id": sender}
            client.agents.messages.create(each, messages=[message])
        yield House(stack, person, f"her-{mark}", other, hers, shared, his, block, word)
        for each in (hers, shared, his):
            if each in {found.id for found in client.agents.list()}:
                client.agents.delete(each)


def holding(stack: Stack, word: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of the whole database that hold a word, by table; our own records may name nobody."""
    found = {}
    with stack.administrator() as link:
        tables = link.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'r' AND n.nspname IN ('public', 'letta_ops')"
        ).fetchall()
        for (table,) in tables:
            rows = link.execute(
                f"SELECT to_jsonb(t) FROM {table} t WHERE t::text LIKE %s",  # noqa: S608
                [f"%{word}%"],
            ).fetchall()
            if rows:
                found[table.rpartition(".")[2]] = [row[0] for row in rows]
    return found


def until_traced(house: House) -> None:
    """Letta writes down what it sent to a model beside its answer."""

    def traced() -> bool:
        with house.stack.administrator() as link:
            row = link.execute(
                "SELECT count(*) FROM provider_traces WHERE agent_id = ANY(%s)",
                [[house.hers, house.shared]],
            ).fetchone()
        return row is not None and int(row[0]) >= 3

    wait_until("the requests are written down", traced)


def test_a_person_is_shown_exported_and_erased_and_nobody_else(
    house: House, tmp_path: Path
) -> None:
    stack = house.stack
    until_traced(house)
    with stack.administrator() as link:  # as older releases wrote them down
        link.execute("UPDATE provider_traces SET agent_id = NULL WHERE agent_id = %s", [house.hers])
        link.commit()
    stack.json("registry", "link", house.word, house.hers, "--app", "clinic")
    backup = stack.json("backup", "create")["id"]
    shown = stack.json("agent", "person", house.key)
    assert shown == {**stack.json("agent", "person", house.person), "held_by": shown["held_by"]}
    assert {each["id"]: (each["whole"], each["sent"]) for each in shown["agents"]} == {
        house.hers: (True, 1),
        house.shared: (False, 1),
    }
    assert [(each["id"], each["whole"]) for each in shown["blocks"]] == [(house.block, True)]
    held = {each["name"]: each for each in shown["held_by"]}
    assert held[backup]["kind"] == "backup"
    assert held[backup]["latest"] > shown["since"]

    file = tmp_path / "her.json"
    stack.json("agent", "person", house.key, "--export", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    rows = json.loads(file.read_text())["rows"]
    assert {table: len(found) for table, found in rows.items()} == {
        table: count for table, count in shown["rows"].items() if "trace" not in table
    }
    said = [json.dumps(row) for row in rows["messages"] if row["agent_id"] == house.shared]
    assert len(said) == 1
    assert house.word in said[0]
    assert house.word in json.dumps(rows["archival_passages"])
    refused = stack.run("--json", "agent", "person", house.key, "--export", str(file))
    assert refused.json["error"]["code"] == "output-refused"

    assert stack.json("agent", "person", house.key, "--erase", "--dry-run")["erased"] is False
    unasked = stack.run("--json", "agent", "person", house.key, "--erase")
    assert (unasked.code, unasked.json["error"]["code"]) == (1, "not-confirmed")
    assert house.word in json.dumps(holding(stack, house.word))
    before = {each: stack.json("agent", "messages", each) for each in (house.shared, house.his)}
    erased = stack.json("agent", "person", house.key, "--erase", "--yes")
    assert (erased["erased"], erased["rows"]) == (True, shown["rows"])
    assert backup in {each["name"] for each in erased["held_by"]}

    # The model that tests have repeats what it hears: what an agent of two made of it stays, and is told.
    left = holding(stack, house.word)
    assert set(left) <= {"messages"}
    assert all(
        row["role"] == "assistant" and row["agent_id"] == house.shared
        for row in left.get("messages", ())
    )
    assert holding(stack, house.key) == {}
    assert house.hers not in {agent["id"] for agent in stack.json("agent", "list")}
    after = {each: stack.json("agent", "messages", each) for each in before}
    assert after[house.his] == before[house.his]
    stays = {each["id"] for each in after[house.shared]}
    gone = [each for each in before[house.shared] if each["id"] not in stays]
    assert [(each["role"], house.word in each["text"]) for each in gone] == [("user", True)]
    with api(stack.deployment) as client:
        assert say(client, house.shared, "Still there?")
        assert say(client, house.his, "And you?")
    roles = [each["role"] for each in asked(stack, house.shared, "Still there?", 1)]
    assert roles[0] == "system"
    unknown = stack.run("--json", "agent", "person", house.key)
    assert (unknown.code, unknown.json["error"]["code"]) == (1, "person-unknown")


def test_what_a_person_shares_with_another_stays_with_the_other(house: House) -> None:
    stack = house.stack
    with api(stack.deployment) as client:
        # Of the other, and had by her agent alone.
        his = client.blocks.create(label="his", value="He likes figs.").id
        client.agents.blocks.attach(his, agent_id=house.hers)
        say(client, house.shared, "Who am I?")
        org = {"identifier_key": f"org-{house.word}", "name": "A firm", "identity_type": "org"}
        client.post("/v1/identities/", cast_to=object, body={**org, "agent_ids": [house.hers]})
    with stack.administrator() as link:
        for block in (house.block, his):
            link.execute("INSERT INTO identities_blocks VALUES (%s, %s)", [house.other, block])
        link.commit()
    told = stack.run("--json", "agent", "person", house.key)
    assert [(each["id"], each["whole"]) for each in told.json["blocks"]] == [(house.block, False)]
    # A firm is no other person.
    assert {each["id"]: each["whole"] for each in told.json["agents"]}[house.hers] is True
    assert "1 message(s) of users to agents that others use, too, have no sender" in told.err
    stack.json("agent", "person", house.key, "--erase", "--yes")
    with stack.administrator() as link:
        rows = link.execute(
            "SELECT value FROM block WHERE id = ANY(%s)", [[house.block, his]]
        ).fetchall()
    assert len(rows) == 2
    blocks = {each["label"] for each in stack.json("agent", "show", house.shared)["blocks"]}
    assert "about" in blocks
