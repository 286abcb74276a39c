"""What must hold of every agent file: whatever it says, format 1 becomes format 2 with all of it."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some

from infra.errors import LettaOpsError
from ops_cli.agents.agent_file import parse_agent_file
from ops_cli.agents.converting import converted, is_format_1
from ops_cli.agents.judging import Mends, judge
from ops_cli.agents.reading import refused_characters, with_replacements
from tests.unit.agent_files import Content, encoded, format_1

# The same ones each time: what fails here fails everywhere.
same = settings(derandomize=True, deadline=None, max_examples=150, database=None)

words = some.text(max_size=30)
names = some.text("abcdefgh_", min_size=1, max_size=12)
scalars = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | words
anything = some.recursive(
    scalars,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(words, inner, max_size=4),
)


@some.composite
def messages(draw: Any) -> list[dict[str, Any]]:
    found = []
    for _ in range(draw(some.integers(0, 6))):
        role = draw(some.sampled_from(["system", "user", "assistant", "tool"]))
        text = draw(words)
        said = draw(some.sampled_from(["text", "content"]))
        content = text if said == "text" else [{"type": "text", "text": text}]
        found.append({"role": role, said: content, "created_at": "2025-04-01T03:47:27.492924"})
    return found


@some.composite
def files(draw: Any) -> Content:
    """A file as Letta up to 0.11 wrote it."""
    said = draw(messages())
    window = some.lists(some.integers(0, max(0, len(said) - 1)), unique=True, max_size=len(said))
    tools = draw(some.lists(names, unique=True, max_size=4))
    blocks = [
        {"label": label, "value": draw(words), "limit": 5000}
        for label in draw(some.lists(names, unique=True, max_size=4))
    ]
    rules = [{"tool_name": tool, "type": "TerminalToolRule"} for tool in tools[:2]]
    return format_1(
        name=draw(names),
        messages=said,
        in_context_message_indices=sorted(draw(window)) if said else [],
        core_memory=draw(
            some.sampled_from(
                [blocks, {"blocks": blocks}, {block["label"]: block for block in blocks}]
            )
        )
        if blocks
        else [],
        tools=[{"name": tool, "tool_type": "custom", "source_code": "x = 1"} for tool in tools],
        tool_rules=rules,
        tags=draw(some.lists(names, unique=True, max_size=3)),
    )


def texts(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (each["role"], each["text"] if "text" in each else each["content"][0]["text"])
        for each in entries
    ]


def refusal(data: bytes) -> str:
    """In which words it is refused; else how it is called."""
    try:
        return parse_agent_file(data, "x.af").source
    except LettaOpsError as error:
        return error.message


@same
@given(files())
def test_all_of_a_file_of_format_1_is_in_the_converted_one(given_file: Content) -> None:
    before = copy.deepcopy(given_file)
    assert is_format_1(given_file)
    made, _ = converted(given_file, "x.af")
    assert given_file == before
    (agent,) = made["agents"]
    assert texts(agent["messages"]) == texts(before["messages"])
    numbers = before["in_context_message_indices"]
    assert agent["in_context_message_ids"] == [agent["messages"][each]["id"] for each in numbers]
    blocks = {block["id"]: block for block in made["blocks"]}
    core = before["core_memory"]
    entries = core if isinstance(core, list) else core.get("blocks", list(core.values()))
    assert [(blocks[each]["label"], blocks[each]["value"]) for each in agent["block_ids"]] == [
        (each["label"], each["value"]) for each in entries
    ]
    tools = {tool["id"]: tool["name"] for tool in made["tools"]}
    assert [tools[each] for each in agent["tool_ids"]] == [each["name"] for each in before["tools"]]
    assert [rule["tool_name"] for rule in agent["tool_rules"]] == [
        rule["tool_name"] for rule in before["tool_rules"]
    ]
    assert (agent["name"], agent["tags"]) == (before["name"], before["tags"])
    ids = [
        entry["id"]
        for entries in (made["agents"], made["blocks"], made["tools"], agent["messages"])
        for entry in entries
    ]
    assert len(ids) == len(set(ids))


@same
@given(files())
def test_what_was_converted_is_of_format_2_and_nothing_is_wrong_with_it(
    given_file: Content,
) -> None:
    made, _ = converted(given_file, "x.af")
    assert not is_format_1(made)
    assert judge(made, Mends()).problems == []


@same
@given(files(), some.sampled_from(sorted(format_1())), anything)
def test_whatever_stands_in_a_place_it_is_refused_in_words_or_converted(
    given_file: Content, key: str, value: Any
) -> None:
    assert "x.af" in refusal(encoded({**given_file, key: value}))


@same
@given(some.binary(max_size=200) | anything.map(encoded))
def test_whatever_a_file_is_it_is_refused_in_words_or_read(data: bytes) -> None:
    assert "x.af" in refusal(data)


@same
@given(anything)
def test_replacing_what_postgres_refuses_leaves_nothing_of_it_and_the_rest_alone(
    value: Any,
) -> None:
    content = {"a": value}
    changed, count = with_replacements(content)
    assert refused_characters(changed) == []
    assert (count == 0) == (refused_characters(content) == [])
    if not count:
        assert changed == content
