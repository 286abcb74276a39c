"""Whatever V1 may have written, an export verifies: two ways of reading it agree, and nothing is lost."""

from __future__ import annotations

import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ops_cli.exit.export import export, verify
from tests.unit.exit_source import HandMade, agent_id, call, message, result, wrapped

TEXT = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", "{}", '{"type": "login"}', "<system-reminder>\nx\n</system-reminder>", "[image: x]"]
    ),
    st.builds(lambda said: wrapped("user_message", message=said), st.text(max_size=9)),
    st.builds(lambda said: wrapped("heartbeat", reason=said), st.text(max_size=9)),
    st.builds(lambda said: wrapped("system_alert", message=said), st.text(max_size=9)),
)
CALLS = st.lists(
    st.one_of(
        st.builds(
            lambda each, said: call(f"c{each}", "send_message", message=said),
            st.integers(0, 4),
            TEXT,
        ),
        st.builds(
            lambda each, value: call(f"c{each}", "roll", value=value),
            st.integers(0, 4),
            st.text(max_size=5),
        ),
        st.builds(
            lambda each, raw: {"id": f"c{each}", "function": {"name": "f", "arguments": raw}},
            st.integers(0, 4),
            st.sampled_from(["", "nothing", "[1]", "{}", '{"input": 1}']),
        ),
    ),
    max_size=3,
    unique_by=lambda each: each["id"],
)
RESULTS = st.lists(
    st.builds(
        lambda each, said, status: result(f"c{each}", said, status),
        st.integers(0, 4),
        TEXT,
        st.sampled_from(["success", "error"]),
    ),
    max_size=3,
    unique_by=lambda each: each["tool_call_id"],
)
ANSWERS = st.lists(
    st.one_of(
        st.builds(
            lambda each, yes: {
                "type": "approval",
                "tool_call_id": f"c{each}",
                "approve": yes,
                "reason": "r",
            },
            st.integers(0, 4),
            st.booleans(),
        ),
        st.builds(
            lambda each, said: {
                "type": "tool",
                "tool_call_id": f"c{each}",
                "tool_return": said,
                "status": "success",
            },
            st.integers(0, 4),
            st.text(max_size=9),
        ),
    ),
    max_size=3,
    unique_by=lambda each: str(each["tool_call_id"]),
)
PART = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXT),
    st.builds(
        lambda text: {"type": "reasoning", "reasoning": text, "signature": "s"}, st.text(max_size=9)
    ),
    st.just({"type": "redacted_reasoning", "data": "x"}),
    st.builds(
        lambda text: {"type": "summarized_reasoning", "id": "r", "summary": [{"text": text}]},
        st.text(max_size=9),
    ),
)
SHAPES = st.one_of(
    st.tuples(st.sampled_from(["user", "system", "summary", "assistant"]), TEXT, st.just({})),
    st.tuples(st.just("assistant"), TEXT, st.builds(lambda calls: {"tool_calls": calls}, CALLS)),
    st.tuples(
        st.just("assistant"),
        st.none(),
        st.builds(lambda parts: {"content": parts}, st.lists(PART, max_size=3)),
    ),
    st.tuples(
        st.just("tool"),
        TEXT,
        st.builds(lambda each: {"tool_returns": each, "tool_call_id": "c0"}, RESULTS),
    ),
    st.tuples(
        st.just("approval"), st.none(), st.builds(lambda calls: {"tool_calls": calls}, CALLS)
    ),
    st.tuples(st.just("approval"), st.none(), st.builds(lambda each: {"approvals": each}, ANSWERS)),
    st.tuples(
        st.just("approval"),
        st.none(),
        st.builds(lambda yes: {"approve": yes, "denial_reason": "no"}, st.booleans()),
    ),
)


@settings(deadline=None, max_examples=150)
@given(
    shapes=st.lists(SHAPES, max_size=9),
    window=st.lists(st.integers(0, 9), unique=True, max_size=9),
    kind=st.sampled_from(["memgpt_v2_agent", "letta_v1_agent"]),
)
def test_whatever_was_said_is_found_again(
    shapes: list[tuple[str, str | None, dict[str, Any]]], window: list[int], kind: str
) -> None:
    talk = [message(number, role, text) | more for number, (role, text, more) in enumerate(shapes)]
    made = HandMade()
    made.add(
        1,
        talk,
        window=[talk[place]["id"] for place in sorted(window) if place < len(talk)],
        row={"agent_type": kind},
    )
    with tempfile.TemporaryDirectory() as folder:
        sources, store = [lambda: nullcontext(made)], Path(folder) / "store"
        export(sources, None, store, {}, lambda _: None)
        (found,) = verify(sources, [agent_id(1)], store, lambda _: None)
        assert found.differences == [], json.dumps(talk, indent=1)
        assert found.messages == len(talk)
