"""Agent files before they are sent: read as people have them, judged, mended, converted, blackened."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from infra.errors import LettaOpsError
from ops_cli.agents.agent_file import parse_agent_file
from ops_cli.agents.file_compare import said
from ops_cli.agents.judging import Mends, judge
from ops_cli.agents.reading import parse, refused_characters, where, with_replacements
from ops_cli.agents.redacting import BLACK, redacted_content
from ops_cli.agents.release_judge import in_words
from tests.unit.agent_files import Content, encoded, format_1, whole

# Reading


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_a_file_is_read_in_the_encodings_that_people_have(encoding: str) -> None:
    given = whole(name="Åda")
    assert parse(json.dumps(given, ensure_ascii=False).encode(encoding), "x.af") == given


def test_the_line_that_breaks_is_shown_and_where_in_it() -> None:
    with pytest.raises(LettaOpsError) as caught:
        parse(b'{\n "agents": [\n  1,\n ],\n "x": 1}', "x.af")
    lines = caught.value.message.splitlines()
    assert "line 4, column 2" in lines[0]
    assert lines[1:] == ["     ],", "     ^"]


def test_of_a_line_without_end_only_the_place_is_shown() -> None:
    with pytest.raises(LettaOpsError) as caught:
        parse(b'{"a": "' + b"x" * 100_000 + b'", }', "x.af")
    assert len(caught.value.message) < 400
    assert "^" in caught.value.message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"404: Not Found", "404: Not Found"),
        (b'{"agents": [NaN]}', "NaN"),
        (b'{"agents": [1e999]}', "1e999"),
        (b"\xff\x00\xfe", "is not text"),
        (b"caf\xe9", "UTF-8"),
        (b"null", "null"),
        (b'{"a":' * 400 + b"1" + b"}" * 400, "nested deeper than 200"),
        (b'{"agents": [{"id": 1, "name": "a", "name": "b"}]}', "agents[0].name stands twice"),
        (b'{"blocks": [], "blocks": [], "agents": []}', "blocks stands twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_what_is_no_json_object_is_refused_in_words(data: bytes, said: str) -> None:
    with pytest.raises(LettaOpsError) as caught:
        parse(data, "x.af")
    assert caught.value.code == "agent-file-broken"
    assert said in caught.value.message
    assert "nothing was sent" in caught.value.hint


def test_characters_that_no_postgres_holds_are_found_everywhere() -> None:
    given = {"a": ["fine", "b\0c"], "d\0": 1, "e": "\ud800", "f": "😀"}
    found = refused_characters(given)
    assert [each.split(" has ")[0] for each in found] == ["the file", "a[1]", "e"]
    assert "NUL (character 2)" in found[1]
    assert "U+D800" in found[2]


def test_they_are_replaced_when_asked_and_nothing_else_is() -> None:
    given = {"a": ["b\0c", "\\u0000", "\\\0"], "d": "\ud83d\ude00 \ud800!"}
    changed, count = with_replacements(given)
    assert changed == {"a": ["b\ufffdc", "\\u0000", "\\\ufffd"], "d": "😀 \ufffd!"}
    assert count == 3


def test_a_path_is_written_as_a_person_would() -> None:
    path = ("agents", 0, "messages", 3, "id")
    assert where(path) == "agents[0].messages[3].id"
    assert where(("secrets", "MY KEY")) == 'secrets["MY KEY"]'


# Judging


def judged(content: Content, **mends: Any) -> tuple[list[str], list[str]]:
    found = judge(content, Mends(**mends))
    return found.problems, found.notes


def test_a_whole_file_has_no_problems_and_is_not_changed() -> None:
    given = whole()
    before = copy.deepcopy(given)
    assert judged(given) == ([], [])
    assert given == before


def spoiled(change: Callable[[Content], object]) -> Content:
    given = whole()
    change(given)
    return given


PROBLEMS: list[tuple[Callable[[Content], object], str]] = [
    (lambda c: c.pop("groups"), "groups is missing"),
    (lambda c: c["agents"].clear(), "agents is empty"),
    (lambda c: c["agents"][0]["in_context_message_ids"].append("message-99"),
     "agents[0].in_context_message_ids[3] is 'message-99', which agents[0].messages does not hold"),
    (lambda c: c["agents"][0]["tool_ids"].append("tool-7"), "agents[0].tool_ids[1] is 'tool-7'"),
    (lambda c: c["agents"][0]["block_ids"].append("block-7"), "agents[0].block_ids[1]"),
    (lambda c: c["agents"][0].update(folder_ids=["source-3"]), "agents[0].source_ids[0]"),
    (lambda c: c["agents"][0].update(files_agents=[{"file_id": "file-0"}]),
     "agents[0].files_agents[0].file_id is 'file-0'"),
    (lambda c: c["files"].append({"id": "file-0", "source_id": "source-0"}),
     "files[0].source_id is 'source-0'"),
    (lambda c: c["groups"].append({"id": "group-0", "agent_ids": ["agent-7"]}),
     "groups[0].agent_ids[0] is 'agent-7'"),
    (lambda c: c["groups"].append({"id": "group-0", "manager_config": {"manager_agent_id": "agent-7"}}),
     "groups[0].manager_config.manager_agent_id is 'agent-7'"),
    (lambda c: c["blocks"].append(dict(c["blocks"][0], label="other")),
     "blocks[1].id is 'block-0', as blocks[0].id is"),
    (lambda c: c["agents"][0]["messages"][1].update(id="message-0"),
     "agents[0].messages[1].id is 'message-0', as agents[0].messages[0].id is"),
    (lambda c: c["agents"][0].update(memory_blocks=[{"label": "human", "value": "Likes novels."}]),
     "agents[0].memory_blocks[0] has the label 'human' with another value"),
    (lambda c: c["tools"].append(dict(c["tools"][0], id="tool-1")), "tools[1].name is 'look'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), PROBLEMS, ids=[said[:40] for _, said in PROBLEMS])
def test_what_the_servers_import_would_stumble_over_is_found_with_its_path(
    change: Callable[[Content], object], said: str
) -> None:
    problems, _ = judged(spoiled(change))
    assert any(said in each for each in problems), problems


def test_every_problem_is_found_at_once() -> None:
    given = whole()
    given["agents"][0]["tool_ids"] = ["tool-8", "tool-9"]
    given["agents"][0]["in_context_message_ids"] = ["message-7"]
    assert len(judged(given)[0]) == 3


def test_a_block_that_stands_inline_and_by_id_with_one_value_is_taken_once() -> None:
    given = whole(memory_blocks=[{"label": "human", "value": "Likes tea."}])
    assert judged(given)[0] == []
    assert given["agents"][0]["memory_blocks"] == []


@pytest.mark.parametrize("keep_messages", [True, False])
def test_an_agent_whose_context_is_empty_can_answer_afterwards(keep_messages: bool) -> None:
    given = whole(in_context_message_ids=[])
    agent = given["agents"][0]
    if not keep_messages:
        agent["messages"] = []
    problems, notes = judged(given)
    assert problems == []
    assert "couldn't answer" in notes[0]
    first = agent["messages"][0]
    assert agent["in_context_message_ids"] == [first["id"]]
    assert first["role"] == "system"
    assert first["content"] == [{"type": "text", "text": "Be kind."}]


def test_the_last_messages_come_into_an_empty_context_when_asked() -> None:
    given = whole(in_context_message_ids=[])
    judged(given, last_messages=2)
    assert given["agents"][0]["in_context_message_ids"] == ["message-0", "message-1", "message-2"]
    given = whole(in_context_message_ids=[])
    judged(given, last_messages=1)  # an answer without its question is no beginning
    assert given["agents"][0]["in_context_message_ids"] == ["message-0"]


def test_a_context_that_lacks_its_system_message_gets_one() -> None:
    given = whole(in_context_message_ids=["message-1", "message-2"])
    _, notes = judged(given)
    assert "does not begin with a system message" in notes[0]
    assert given["agents"][0]["in_context_message_ids"] == ["message-0", "message-1", "message-2"]


def test_ids_of_a_server_are_numbered_anew_wherever_they_stand() -> None:
    given, other = whole(), whole()
    text = json.dumps(other)
    for number, name in enumerate(
        ("agent-0", "block-0", "tool-0", *(f"message-{n}" for n in range(3)))
    ):
        kind = name.partition("-")[0]
        text = text.replace(f'"{name}"', f'"{kind}-0000000{number}-1111-4222-8333-444444444444"')
    changed = json.loads(text)
    problems, notes = judged(changed)
    assert problems == []
    assert notes == [
        (
            "ids were numbered anew, since the server takes only such as agent-0: of 1 agents,"
            " 1 blocks, 1 tools, 3 messages"
        )
    ]
    assert changed == given


SERVER = {"id": "mcp_server-0", "server_name": "shelves", "server_type": "stdio",
          "stdio_config": {"command": "touch", "args": ["/srv/x"]}}  # fmt: skip


def test_a_server_that_is_a_command_is_told_and_taken_only_when_allowed() -> None:
    given = whole()
    given["mcp_servers"] = [
        SERVER,
        {"id": "mcp_server-1", "server_type": "sse", "server_name": "x"},
    ]
    allowed = copy.deepcopy(given)
    _, notes = judged(given)
    assert "touch /srv/x; it is not taken" in notes[0]
    assert [each["id"] for each in given["mcp_servers"]] == ["mcp_server-1"]
    _, notes = judged(allowed, allow_commands=True)
    assert "it is taken" in notes[0]
    assert len(allowed["mcp_servers"]) == 2


def test_a_tool_without_a_language_is_taken_for_python() -> None:
    given = whole()
    del given["tools"][0]["source_type"]
    _, notes = judged(given)
    assert notes == ["tools[0].source_type was missing: it is taken for python"]
    assert given == whole()


def test_what_is_odd_is_told_and_keeps_nothing_back() -> None:
    given = whole(
        tool_rules=[{"type": "exit_loop", "tool_name": "nowhere"}, {"tool_name": "look"}],
        identity_ids=["identity-1"],
    )
    given["blocks"][0]["limit"] = 5
    given["skills"] = [{"name": "pdf"}]
    given["groups"] = [{"id": "group-0", "agent_ids": ["agent-0"], "shared_block_ids": ["block-9"]}]
    call = {"id": "message-3", "role": "approval", "tool_calls": [{"id": "c"}]}
    given["agents"][0]["messages"].append(call)
    given["agents"][0]["in_context_message_ids"].append("message-3")
    problems, notes = judged(given)
    text = "\n".join(notes)
    assert problems == []
    for part in ("'nowhere'", "10 characters, its limit is 5", "pdf", "shares blocks",
                 "waits for somebody to approve", "identities"):  # fmt: skip
        assert part in text
    assert "'look'" not in text
    assert given["groups"][0]["shared_block_ids"] == []
    assert given["agents"][0]["identity_ids"] is None


@pytest.mark.parametrize("rubbish", [1, "x", None, [1], [[]], {"a": 1}, [None], [{"id": 7}]])
@pytest.mark.parametrize("section", ["agents", "blocks", "tools", "files", "groups", "mcp_servers"])
def test_no_rubbish_makes_the_judge_stumble(section: str, rubbish: Any) -> None:
    judged({**whole(), section: rubbish})
    for key in ("messages", "tool_ids", "in_context_message_ids", "memory_blocks", "tool_rules"):
        judged(whole(**{key: rubbish}))


# What a release says


def error(loc: list[str | int], kind: str, **more: Any) -> dict[str, Any]:
    return {"loc": loc, "type": kind, "message": "Input should be fine", "expected": None, "tag": None,
            **more}  # fmt: skip


def test_a_releases_errors_are_told_with_their_paths() -> None:
    content = {
        "agents": [{"messages": [{"content": {"a": 1}}], "agent_type": "shelf"}],
        "metadata": {"origin": {"made": 1}},
        "sources": [{"name": "x", "source_code": "y"}],
    }
    words = list(
        in_words(
            content,
            [
                error(["agents", 0, "messages", 0, "id"], "missing"),
                error(["agents", 0, "agent_type"], "enum", expected="'a' or 'b'"),
                error(["metadata", "origin"], "string_type"),
                error(["agents", 0, "messages", 0, "content", "list[text]"], "list_type"),
                error(["agents", 0, "messages", 0, "content", "str"], "string_type"),
                error(["sources", 0, "source_code"], "extra_forbidden"),
            ],
        )
    )
    assert words == [
        "agents[0].messages[0].id is missing",
        "agents[0].agent_type is \"shelf\"; allowed: 'a' or 'b'",
        "metadata.origin is an object, a text is wanted",
        "agents[0].messages[0].content is an object, a list is wanted",
        "agents[0].messages[0].content is an object, a text is wanted",
        "sources[0].source_code is not a key that may stand there",
        "what stands in sources looks like tools: move it to tools",
    ]


def test_no_secret_is_shown_though_it_is_wrong() -> None:
    content = {"agents": [{"secrets": {"KEY": 12345}}]}
    (word,) = in_words(content, [error(["agents", 0, "secrets", "KEY"], "value_error")])
    assert "12345" not in word


# Format 1


def test_a_file_of_format_1_is_converted_with_all_that_it_says() -> None:
    file = parse_agent_file(encoded(format_1()), "old.af")
    (agent,) = file.content["agents"]
    assert (
        "format 1, of Letta 0.6.47: 2 message(s), 2 of them in context, 1 block(s)" in file.notes[0]
    )
    assert judged(file.content)[0] == []
    assert (agent["name"], agent["tags"]) == ("Ada", ["mine"])
    assert agent["metadata"] == {"from": "a test"}
    assert agent["secrets"] == {"TOKEN": ""}
    assert agent["tool_rules"] == [{"tool_name": "look", "type": "exit_loop"}]
    assert file.content["blocks"][0]["metadata"] == {"a": 1}
    told = said(file.content)["agents"][0]
    assert [each["content"] for each in told["messages"]] == [
        [{"type": "text", "text": "Be kind."}],
        [{"type": "text", "text": "Hello"}],
    ]
    # Written as UTC without saying so.
    assert told["messages"][0]["created_at"] == "2025-04-01T03:47:27.492924+00:00"
    assert told["context"] == [0, 1]


def test_what_format_2_has_no_place_for_is_told() -> None:
    given = format_1(multi_agent_group={"id": "group-1"})
    given["messages"][1]["mood"] = "fine"
    notes = parse_agent_file(encoded(given), "old.af").notes
    assert "multi_agent_group has no place in format 2: it is left out" in notes
    assert "messages[1].mood has no place in format 2: it is left out" in notes


@pytest.mark.parametrize("number", [2, -1, "0", True, None])
def test_a_message_in_context_that_is_not_there_is_refused(number: object) -> None:
    with pytest.raises(LettaOpsError, match=r"in_context_message_indices\[1\]"):
        parse_agent_file(encoded(format_1(in_context_message_indices=[0, number])), "old.af")


# Sharing


def test_what_looks_like_a_secret_or_an_address_is_blackened_and_ids_are_not() -> None:
    secrets = [
        "sk-proj-abcdefghijklmnop1234", "ghp_abcdefghijklmnopqrstuvwx", "AKIAABCDEFGHIJKLMNOP",
        "Bearer abcdefghijklmnop", "ada@example.org", "+44 20 7946 0958", "4111 1111 1111 1111",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc",
    ]  # fmt: skip
    given = whole(secrets={"TOKEN": "hush"}, id="agent-12345678901234567890")
    given["agents"][0]["messages"][1]["content"] = [
        {"type": "text", "text": f"<{each}>"} for each in secrets
    ]
    changed, count = redacted_content(given)
    assert count == len(secrets) + 1
    texts = [part["text"] for part in changed["agents"][0]["messages"][1]["content"]]
    assert set(texts) == {f"<{BLACK}>"}
    assert changed["agents"][0]["id"] == "agent-12345678901234567890"
    assert changed["agents"][0]["secrets"] == {"TOKEN": ""}
    assert "hush" not in json.dumps(changed)
