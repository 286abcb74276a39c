"""What of links and agents differs, and files of links: decided without a server."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from infra.errors import LettaOpsError
from letta_ops.registry.links import Key, Link, Row
from letta_ops.registry.reconcile import compared, key_of
from ops_cli.registry.tables import read, written

NOW = dt.datetime(2026, 11, 29, tzinfo=dt.UTC)
SHOP = Key("shop", "one")


def row(key: Key, agent: str, server: str = "here") -> Row:
    return Row(key, Link(key.app, key.id, agent, server, NOW, "me", "why"))


def agent(identifier: str, key: Key | None = None, name: str = "x") -> dict[str, Any]:
    tags, metadata = ([key.tag], key.metadata) if key else ([], None)
    return {"id": identifier, "name": name, "tags": ["other", *tags], "metadata": metadata}


@pytest.mark.parametrize(
    ("rows", "agents", "expected"),
    [
        ([row(SHOP, "agent-1")], [agent("agent-1", SHOP)], []),
        ([row(SHOP, "agent-1")], [agent("agent-1")], []),
        ([row(SHOP, "agent-1")], [], [("missing", [], "")]),
        (
            [row(SHOP, "agent-1")],
            [agent("agent-2", SHOP)],
            [("missing", ["agent-2"], "link agent-2")],
        ),
        (
            [row(SHOP, "agent-1")],
            [agent("agent-2", SHOP), agent("agent-3", SHOP)],
            [("missing", ["agent-2", "agent-3"], "")],
        ),
        ([], [agent("agent-1", SHOP)], [("orphaned", ["agent-1"], "link it")]),
        (
            [],
            [agent("agent-1", SHOP), agent("agent-2", SHOP)],
            [("duplicated", ["agent-1", "agent-2"], "")],
        ),
        (
            [row(SHOP, "agent-1")],
            [agent("agent-1", SHOP), agent("agent-2", SHOP)],
            [("duplicated", ["agent-1", "agent-2"], "")],
        ),
        (
            [row(SHOP, "agent-1", "there")],
            [agent("agent-1", SHOP)],
            [("of-another-server", ["agent-1"], "say so in the link")],
        ),
        ([row(SHOP, "agent-1", "there")], [], [("of-another-server", [], "")]),
        (
            [row(SHOP, "agent-1")],
            [agent("agent-1", Key("shop", "two"))],
            [("renamed", ["agent-1"], "say in the agent for which id it is")],
        ),
        ([], [agent("agent-1", name="app_agent_one")], []),
        ([row(Key("bank", "x"), "agent-1")], [agent("agent-1", SHOP)], [
            ("renamed", ["agent-1"], "say in the agent for which id it is"),
        ]),
    ],
)  # fmt: skip
def test_what_differs_is_found_with_what_mends_it(
    rows: list[Row], agents: list[dict[str, Any]], expected: list[tuple[str, list[str], str]]
) -> None:
    found = list(compared(rows, agents, "here"))
    assert [(each.kind, list(each.agents), each.mend) for each in found] == expected
    assert all(each.reason for each in found)


def test_of_a_named_application_agents_are_found_by_their_name_alone() -> None:
    agents = [agent("agent-1", name="app_agent_one"), agent("agent-2", name="app_agent_")]
    (found,) = compared([], agents, "here", "shop")
    assert (found.kind, found.key) == ("orphaned", SHOP)
    # What the server doesn't take in a name is gone from it: whose agent it is isn't known.
    assert key_of(agent("agent-3", name=Key("shop", "a/b").agent_name), "shop") == Key(
        "shop", "a-b"
    )


def test_marks_that_do_not_agree_are_nobody_s() -> None:
    forged = agent("agent-1", SHOP) | {"metadata": Key("shop", "two").metadata}
    assert key_of(forged) is None
    assert key_of(agent("agent-1") | {"metadata": {"letta_ops_link": "x"}}) is None
    assert key_of(agent("agent-1") | {"metadata": {"letta_ops_link": {"app": "", "x": 1}}}) is None


AGENT = "agent-00000000-0000-4000-8000-000000000001"
OTHER = "agent-00000000-0000-4000-8000-000000000002"


def test_what_is_written_is_read_again() -> None:
    links = [
        row(Key("shop", each), f"{AGENT[:-1]}{number}").link
        for number, each in enumerate(("a,b", 'c"d"', "e\r\nf", "\u00e9 \U0001f600", " g "))
    ]
    for form in ("csv", "json"):
        text = "".join(written((link.as_json() for link in links if link), form))
        for data in (text.encode(), text.encode("utf-8-sig")):
            again = read(data, "x", form, None)
            assert [(each.key.id, each.agent) for each in again] == [
                (link.app_agent_id, link.letta_agent_id) for link in links if link
            ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "column app_agent_id is missing"),
        (f"app_agent_id\nx,{AGENT}\n", "column letta_agent_id is missing"),
        (f"app_agent_id,letta_agent_id\nx,{AGENT},more\n", "line 2 has 3 fields"),
        (f"app_agent_id,letta_agent_id\nx,{AGENT}\nx,{OTHER}\n", "line 3: 'x' of 'shop' stands"),
        (
            f"app_agent_id,letta_agent_id\nx,{AGENT}\ny,{AGENT}\n",
            f"line 3: {AGENT} stands in line 2",
        ),
        (f"app_agent_id,letta_agent_id\n,{AGENT}\n", "line 2: the id is empty"),
        ("app_agent_id,letta_agent_id\nx,\n", "line 2: '' is no agent's id"),
        (f"app_agent_id,app_agent_id,letta_agent_id\nx,y,{AGENT}\n", "'app_agent_id' stands twice"),
        (f"app_agent_id,letta_agent_id\n{'x' * 10_000},{AGENT}\n", "10000 characters"),
        (f'app_agent_id,letta_agent_id\n"x,{AGENT}\n', "unexpected end of data"),
    ],
)
def test_a_file_that_is_wrong_is_told_by_line(text: str, said: str) -> None:
    with pytest.raises(LettaOpsError, match="nothing was changed") as told:
        read(text.encode("utf-8-sig"), "links.csv", "csv", "shop")
    assert said in told.value.message


@pytest.mark.parametrize(
    "data", [b"{}", b"[1]", b"[", b"[" * 100_000, json.dumps([{"app": 1}]).encode(), b"\xff\xfe{"]
)
def test_json_that_is_no_list_of_links_is_refused(data: bytes) -> None:
    with pytest.raises(LettaOpsError) as told:
        read(data, "links.json", "json", "shop")
    assert told.value.code == "links-broken"
