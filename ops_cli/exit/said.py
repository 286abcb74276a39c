"""What a message says, of V1 and of the successor, in words that can be compared.

It knows nothing of how one is made into the other: so it finds what goes wrong there. What is said is a
list of pairs, of a kind (text, thought, call, result) and its content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ops_cli.exit.v1 import as_dict, dicts, json_object

Said = tuple[str, str]
BEGIN, END = "<system-reminder>\n", "\n</system-reminder>"
WRAPPERS = {"user_message", "system_alert", "heartbeat", "login"}


def of_v1(message: Mapping[str, Any]) -> list[Said]:
    """What V1's row says, whatever its role; thoughts and texts are told apart by the successor only."""
    if message.get("role") in ("tool", "function"):
        return list(_results(message, _parts(message), dicts(message.get("tool_returns"))))
    return [*_answers(message), *_texts(message), *_calls(message)]


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content") or message.get("text") or []
    return [{"type": "text", "text": content}] if isinstance(content, str) else dicts(content)


def _answers(message: Mapping[str, Any]) -> Iterator[Said]:
    for answer in dicts(message.get("approvals")):
        if {"tool_return", "func_response"} & answer.keys() or answer.get("type") == "tool":
            call = answer.get("tool_call_id")
            kind = "error" if answer.get("status") == "error" else "result"
            yield f"{kind} of {call}", _text(answer.get("tool_return", answer.get("func_response")))


def _texts(message: Mapping[str, Any]) -> Iterator[Said]:
    spoken = message.get("role") == "assistant" or bool(dicts(message.get("tool_calls")))
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
                    "\n".join(each.get("text") or "" for each in dicts(part.get("summary"))),
                )
            case "image":
                yield "image", as_dict(part.get("source")).get("data") or ""
            case "tool_call" if not message.get("tool_calls"):
                yield "call", _call(part.get("id"), part.get("name"), part.get("input"))


def _calls(message: Mapping[str, Any]) -> Iterator[Said]:
    for call in dicts(message.get("tool_calls")):
        function = as_dict(call.get("function"))
        spoken = said_by(call)
        if spoken is not None:
            yield "text", spoken
        else:
            yield "call", _call(call.get("id"), function.get("name"), function.get("arguments"))


def said_by(call: Mapping[str, Any]) -> str | None:
    """What a call says by itself: that of `send_message`."""
    function = as_dict(call.get("function"))
    said = json_object(function.get("arguments"))
    spoken = said.get("message") if said is not None else None
    return spoken if function.get("name") == "send_message" and isinstance(spoken, str) else None


def _results(
    message: Mapping[str, Any], parts: list[dict[str, Any]], returns: list[dict[str, Any]]
) -> Iterator[Said]:
    whole = "\n".join(each.get("text") or "" for each in parts if each.get("type") == "text")
    inside = [each for each in parts if each.get("type") == "tool_return"]
    if not returns and inside:
        for each in inside:
            kind = "error" if each.get("is_error") else "result"
            yield f"{kind} of {each.get('tool_call_id')}", _text(each.get("content"))
        return
    for each in returns or [{}]:
        call = each.get("tool_call_id") or message.get("tool_call_id") or ""
        said = each.get("func_response")
        packed = json_object(whole) if said is None else None
        failed = each.get("status") == "error"
        if said is None:
            said = whole
            if packed is not None and {"status", "message", "time"} <= packed.keys():
                said = packed["message"]
                failed = failed if each.get("status") else packed["status"] != "OK"
                if not isinstance(said, str):
                    said = json.dumps(said, ensure_ascii=False)
        yield f"{'error' if failed else 'result'} of {call}", _text(said)


def of_row(row: Mapping[str, Any]) -> list[Said]:
    """What a row of the successor says."""
    return list(_of_row(row))


def _of_row(row: Mapping[str, Any]) -> Iterator[Said]:
    kept = row["metadata"]["letta_v1"]
    if row["role"] == "toolResult":
        kind = "error" if row["isError"] else "result"
        yield f"{kind} of {row['toolCallId']}", _text(row["content"])
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
                yield "call", _call(part["id"], part["name"], part["arguments"])


def _call(identifier: Any, name: Any, arguments: Any) -> str:
    found = json_object(arguments)
    if found is None:
        found = {"input": arguments}
    return json.dumps([str(identifier), str(name), found], sort_keys=True, ensure_ascii=False)


def _inner(text: str) -> str:
    found = json_object(text) if text.startswith("{") else None
    if found is None or str(found.get("type")) not in WRAPPERS:
        return text
    said = found.get("message")
    if said is None:
        said = found.get("reason")
    if isinstance(said, str):
        return said
    return text if found["type"] == "user_message" else json.dumps(found, ensure_ascii=False)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(_part(each) for each in dicts(value))
    return str(value)


def _part(part: Mapping[str, Any]) -> str:
    source = as_dict(part.get("source"))
    if part.get("type") == "image" and not part.get("data") and not source.get("data"):
        return f"[image: {source.get('url') or source.get('file_id') or 'unknown'}]"
    return str(part.get("text") or part.get("data") or source.get("data") or "")
