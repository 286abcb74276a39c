"""What a message says, of V1 and of the successor, in words that can be compared.

It knows nothing of how one is made into the other: so it finds what goes wrong there. What is said is a
list of pairs, of a kind (text, thought, call, result) and its content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Said = tuple[str, str]
BEGIN, END = "<system-reminder>\n", "\n</system-reminder>"
WRAPPERS = {"user_message", "system_alert", "heartbeat", "login"}


def of_v1(message: Mapping[str, Any]) -> list[Said]:
    """What V1's row says, whatever its role; thoughts and texts are told apart by the successor only."""
    if message["role"] in ("tool", "function"):
        return list(_results(message, _parts(message), message.get("tool_returns") or []))
    return [*_answers(message), *_texts(message), *_calls(message)]


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if content is None:
        content = message.get("text") or []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _answers(message: Mapping[str, Any]) -> Iterator[Said]:
    for answer in message.get("approvals") or []:
        if "tool_return" in answer or answer.get("type") == "tool":
            call = answer.get("tool_call_id")
            yield f"result of {call}", _text(answer.get("tool_return", answer.get("func_response")))


def _texts(message: Mapping[str, Any]) -> Iterator[Said]:
    spoken = message["role"] == "assistant"
    for part in _parts(message):
        match part.get("type"):
            case "text" if part.get("text") or not spoken:
                text = part.get("text") or ""
                yield "text", text if spoken else _inner(text)
            case "reasoning":
                yield "text", part.get("reasoning") or ""
            case "summarized_reasoning":
                yield (
                    "text",
                    "\n".join(each.get("text") or "" for each in part.get("summary") or []),
                )
            case "image":
                yield "image", (part.get("source") or {}).get("data") or ""
            case "tool_call" if not message.get("tool_calls"):
                yield "call", _call(part.get("id"), part.get("name"), part.get("input"))


def _calls(message: Mapping[str, Any]) -> Iterator[Said]:
    for call in message.get("tool_calls") or []:
        function = call.get("function") or {}
        spoken = said_by(call)
        if spoken is not None:
            yield "text", spoken
        else:
            yield "call", _call(call.get("id"), function.get("name"), function.get("arguments"))


def said_by(call: Mapping[str, Any]) -> str | None:
    """What a call says by itself: that of `send_message`."""
    function = call.get("function") or {}
    said = _loads(function.get("arguments"))
    spoken = said.get("message") if isinstance(said, dict) else None
    return spoken if function.get("name") == "send_message" and isinstance(spoken, str) else None


def _results(
    message: Mapping[str, Any], parts: list[dict[str, Any]], returns: list[dict[str, Any]]
) -> Iterator[Said]:
    whole = "\n".join(each.get("text") or "" for each in parts if each.get("type") == "text")
    inside = [each for each in parts if each.get("type") == "tool_return"]
    if not returns and inside:
        for each in inside:
            yield f"result of {each.get('tool_call_id')}", _text(each.get("content"))
        return
    for each in returns or [{}]:
        call = each.get("tool_call_id") or message.get("tool_call_id") or ""
        said = each.get("func_response")
        packed = _loads(whole) if said is None else None
        if said is None:
            said = whole
            if isinstance(packed, dict) and {"status", "message", "time"} <= packed.keys():
                said = packed["message"]
                if not isinstance(said, str):
                    said = json.dumps(said, ensure_ascii=False)
        yield f"result of {call}", _text(said)


def of_row(row: Mapping[str, Any]) -> list[Said]:
    """What a row of the successor says."""
    return list(_of_row(row))


def _of_row(row: Mapping[str, Any]) -> Iterator[Said]:
    kept = row["metadata"]["letta_v1"]
    if row["role"] == "toolResult":
        yield f"result of {row['toolCallId']}", _text(row["content"])
        return
    kind = (kept.get("wrapped") or {}).get("type") or kept["role"]
    said_so = kind in ("user", "user_message") or "compaction" in row["metadata"]
    ours = row["role"] == "user" and not said_so
    for part in row["content"]:
        match part["type"]:
            case "text":
                text = part["text"]
                # What a person wrote in these words is no reminder of ours.
                if ours and text.startswith(BEGIN) and text.endswith(END):
                    text = text[len(BEGIN) : -len(END)]
                yield "text", text
            case "thinking":
                yield "text", part["thinking"]
            case "image":
                yield "image", part["data"]
            case "toolCall":
                arguments = part["arguments"]
                given = arguments.get("input") if list(arguments) == ["input"] else arguments
                yield "call", _call(part["id"], part["name"], given)


def _call(identifier: Any, name: Any, arguments: Any) -> str:
    found = _loads(arguments) if isinstance(arguments, str) else arguments
    if isinstance(found, dict) and list(found) == ["input"]:
        found = found["input"]
    return json.dumps([str(identifier), str(name), found], sort_keys=True, ensure_ascii=False)


def _inner(text: str) -> str:
    found = _loads(text) if text.startswith("{") else None
    if not isinstance(found, dict) or found.get("type") not in WRAPPERS:
        return text
    said = found.get("message", found.get("reason"))
    if isinstance(said, str):
        return said
    return text if found["type"] == "user_message" else json.dumps(found, ensure_ascii=False)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(each.get("text") or each.get("data") or "") for each in value)
    return str(value)


def _loads(value: Any) -> Any:
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError):
        return None
