"""V1's messages as the successor's rows: nothing that was said is lost, whatever V1 made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ops_cli.exit.messages import NOTHING, Converted, Note, iso, unwrapped
from ops_cli.exit.v1 import Agent, Conversation
from tests.unit.exit_source import TALK, call, message, result, wrapped

Rows = list[dict[str, Any]]


def converted(
    talk: Sequence[Mapping[str, Any]],
    window: Sequence[str] | None = None,
    kind: str = "memgpt_v2_agent",
) -> tuple[Rows, Converted]:
    ids = [each["id"] for each in talk] if window is None else window
    agent = Agent({"id": "agent-1", "agent_type": kind})
    made = Converted(agent, Conversation(None, {}, tuple(ids)), "agent-local-1", "provider/model")
    return list(made.rows(talk)), made


def texts(row: Mapping[str, Any]) -> list[str]:
    return [part.get("text", part.get("thinking")) for part in row["content"]]


def test_a_talk_of_old_is_in_order_with_ids_and_times_and_all_that_was_said() -> None:
    rows, made = converted(TALK)
    assert [row["role"] for row in rows] == [
        "user", "assistant", "user", "assistant", "toolResult", "toolResult", "user", "assistant",
    ]  # fmt: skip
    assert texts(rows[0]) == ["the oldest word: pernambuco"]
    assert [part["type"] for part in rows[1]["content"]] == ["thinking", "text"]
    assert texts(rows[1]) == ["I should.", "Hi"]
    assert rows[3]["content"][0] == {
        "type": "toolCall", "id": "call_2", "name": "roll", "arguments": {"d": 6},
    }  # fmt: skip
    assert [(row["toolCallId"], row["toolName"], row["isError"]) for row in rows[4:6]] == [
        ("call_2", "roll", False), ("call_3", "roll", True),
    ]  # fmt: skip
    assert texts(rows[6]) == ["<system-reminder>\ntime goes by\n</system-reminder>"]
    assert texts(rows[7]) == ["4 and 8 \u2028 東京"]
    assert [row["id"] for row in rows[:2]] == [TALK[1]["id"], TALK[2]["id"]]
    assert rows[5]["id"] == TALK[6]["id"] + ".2"
    assert rows[0]["metadata"]["created_at"] == "2025-03-01T10:01:00.123456Z"
    assert rows[0]["timestamp"] == 1740823260123
    assert made.window == [row["id"] for row in rows]
    assert made.notes == {
        Note.COMPILED: 1, Note.UNWRAPPED: 2, Note.SPOKEN: 1, Note.RESULTS: 1, Note.REMINDER: 1,
    }  # fmt: skip
    assert made.count == len(TALK)


def test_what_v1_keeps_beside_a_message_stays_beside_it() -> None:
    said = message(1, "user", "x", sender_id="identity-1", otid="o", step_id="step-1", name="zoë")
    (row,), _ = converted([said])
    kept = row["metadata"]["letta_v1"]
    assert (kept["sender_id"], kept["step_id"], kept["name"], row["otid"]) == (
        "identity-1", "step-1", "zoë", "o",
    )  # fmt: skip


def test_text_beside_a_call_is_a_thought_of_old_agents_and_speech_of_new_ones() -> None:
    talk = [message(1, "assistant", "Let me see.", tool_calls=[call("c", "look")])]
    old, _ = converted(talk)
    new, _ = converted(talk, kind="letta_v1_agent")
    assert [old[0]["content"][0]["type"], new[0]["content"][0]["type"]] == ["thinking", "text"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (
            {"type": "reasoning", "reasoning": "hm", "is_native": True, "signature": "s"},
            "signatures",
        ),
        ({"type": "redacted_reasoning", "data": "xyz"}, "parts"),
        ({"type": "summarized_reasoning", "id": "r", "summary": [{"text": "hm"}]}, "parts"),
    ],
)
def test_reasoning_is_kept(content: dict[str, Any], kind: str) -> None:
    (row,), _ = converted([message(1, "assistant") | {"content": [content]}])
    assert row["metadata"]["letta_v1"][kind]
    said = [part["thinking"] for part in row["content"]]
    assert said == ([] if content["type"] == "redacted_reasoning" else ["hm"])


def test_images_are_images_where_v1_has_them_and_told_where_not() -> None:
    data = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "AA=="},
    }
    link = {"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}
    (row,), made = converted([message(1, "user") | {"content": [data, link]}])
    assert row["content"] == [
        {"type": "image", "mimeType": "image/png", "data": "AA=="},
        {"type": "text", "text": "[image: https://example.org/x.png]"},
    ]
    assert made.notes[Note.IMAGE] == 1


def test_a_summary_is_a_compaction() -> None:
    said = "Note: some are hidden.\nThe following is a summary of the previous messages:\n X"
    alert = wrapped("system_alert", message=said, compaction_stats={"trigger": "x"})
    for role in ("user", "summary"):
        (row,), made = converted([message(1, role, alert)])
        assert row["metadata"]["compaction"] == {"summary": said, "stats": {"trigger": "x"}}
        assert (row["role"], texts(row), made.notes[Note.SUMMARY]) == ("user", [said], 1)


def test_approvals_leave_nothing_but_what_was_denied_or_run_elsewhere() -> None:
    asked = message(1, "approval", None, tool_calls=[call("c1", "rm"), call("c2", "ls")])
    answers = [
        {"type": "approval", "tool_call_id": "c1", "approve": False, "reason": "no!"},
        {"type": "tool", "tool_call_id": "c2", "tool_return": "files", "status": "success"},
    ]
    rows, made = converted(
        [asked, message(2, "approval", approvals=answers), message(3, "user", "go")]
    )
    assert [row["role"] for row in rows] == ["assistant", "toolResult", "toolResult", "user"]
    assert {row["toolCallId"]: texts(row) for row in rows[1:3]} == {
        "c1": ["Error: the call was denied: no!"], "c2": ["files"],
    }  # fmt: skip
    assert Note.PENDING not in made.notes
    assert set(made.window) == {row["id"] for row in rows}


def test_a_denial_that_v1_has_written_a_result_for_is_not_told_twice() -> None:
    asked = message(1, "approval", None, tool_calls=[call("c1", "rm")])
    denied = message(2, "approval", approve=False, denial_reason="no!")
    told = message(3, "tool", None, tool_returns=[result("c1", "Error: denied: no!", "error")])
    rows, _ = converted([asked, denied, told])
    assert [(row["role"], texts(row)) for row in rows[1:]] == [
        ("toolResult", ["Error: denied: no!"])
    ]


def test_a_pending_approval_is_told() -> None:
    _, made = converted([message(1, "approval", None, tool_calls=[call("c1", "rm")])])
    assert made.notes[Note.PENDING] == 1


def test_the_window_has_no_result_whose_call_is_outside() -> None:
    ids = [each["id"] for each in TALK]
    _, made = converted(TALK, window=[ids[0], *ids[6:]])
    assert made.window == [ids[7], ids[8]]
    assert made.notes[Note.ORPHAN] == 2


def test_an_empty_window_does_not_become_a_full_one() -> None:
    _, made = converted(TALK, window=[TALK[0]["id"]])
    assert made.window == [NOTHING]


def test_arguments_that_are_no_object_are_wrapped() -> None:
    broken = {"id": "c", "function": {"name": "f", "arguments": "{not json"}}
    (row,), made = converted([message(1, "assistant", None, tool_calls=[broken])])
    assert row["content"][0]["arguments"] == {"input": "{not json"}
    assert made.notes[Note.ARGUMENTS] == 1


@pytest.mark.parametrize(
    "text",
    ['{"type": "order", "message": "two pizzas"}', '{"type": "user_message"', "[1]", "{}", "null",
     '{"type": "user_message", "message": {"a": 1}}'],
)  # fmt: skip
def test_what_a_person_writes_in_json_stays_as_it_is(text: str) -> None:
    assert unwrapped(text) is None
    (row,), _ = converted([message(1, "user", text)])
    assert texts(row) == [text]


def test_results_of_old_releases_are_unwrapped() -> None:
    talk = [
        message(1, "assistant", None, tool_calls=[call("c", "f")]),
        message(2, "tool", '{"status": "Failed", "message": "no", "time": "t"}', tool_call_id="c"),
    ]  # fmt: skip
    rows, _ = converted(talk)
    assert (texts(rows[1]), rows[1]["isError"]) == (["no"], True)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("2025-03-01T10:00:00.123456+00:00", "2025-03-01T10:00:00.123456Z"),
        ("2025-03-01T10:00:00.120000+00:00", "2025-03-01T10:00:00.120Z"),
        ("2025-03-01T12:00:00+02:00", "2025-03-01T10:00:00.000Z"),
        ("2025-03-01T10:00:00", "2025-03-01T10:00:00.000Z"),
        ("yesterday", "1970-01-01T00:00:00.000Z"),
        (None, "1970-01-01T00:00:00.000Z"),
    ],
)
def test_times(given: str | None, made: str) -> None:
    assert iso(given) == made


def test_what_was_run_elsewhere_has_one_result_however_often_v1_tells_it() -> None:
    """Letta Code runs tools itself: V1 keeps what it sends back, and says it once more by itself."""
    asked = message(1, "approval", None, tool_calls=[call("c1", "read"), call("c2", "write")])
    sent = [{"tool_call_id": "c1", "status": "success", "func_response": "text"},
            {"tool_call_id": "c2", "status": "error", "func_response": "no"}]  # fmt: skip
    told = message(3, "tool", None, tool_returns=sent)
    rows, made = converted([asked, message(2, "approval", approvals=sent), told])
    assert [(row["toolCallId"], row["isError"]) for row in rows[1:]] == [
        ("c1", False),
        ("c2", True),
    ]
    assert made.window == [row["id"] for row in rows]
    # Without that it is what was sent.
    rows, _ = converted(
        [asked, message(2, "approval", approvals=sent), message(3, "user", "go on")]
    )
    assert [row.get("toolCallId") for row in rows[1:]] == ["c1", "c2", None]
