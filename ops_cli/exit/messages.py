"""V1's messages as the successor's rows (format `pi-session-entry-jsonl`).

What the format has no word for stays in `metadata.letta_v1` of its row: so nothing that V1 kept of a
message is lost, and the row can be compared with it.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ops_cli.exit.v1 import Agent, Conversation, as_dict, dicts, json_object

MAIN = "default"  # the successor's name of an agent's main conversation
SPOKEN = "send_message"  # the tool by which agents of MemGPT's kind speak
# V1 wraps what isn't said by a person into JSON, and in older releases what is, too.
WRAPPED = ("user_message", "system_alert", "heartbeat", "login")
SUMMARY = "The following is a summary of the previous"
# Where nothing is in context: to the successor an empty list means that everything is.
NOTHING = "letta-v1-nothing-in-context"
REMINDER = "<system-reminder>\n{}\n</system-reminder>"
KEPT = (
    "role", "name", "sender_id", "step_id", "run_id", "group_id", "otid", "batch_item_id", "is_err",
    "model", "approve", "denial_reason", "approval_request_id",
)  # fmt: skip
NO_USAGE = {
    "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 0,
    "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": 0},
}  # fmt: skip

OF_POSTGRES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")

Row = dict[str, Any]


class Note(StrEnum):
    """What changes its form or has no place, in words for people."""

    SPOKEN = "calls of send_message become text, and their results are left out"
    NOT_SENT = "errors of send_message become reminders"
    UNWRAPPED = "messages that V1 wrapped into JSON are unwrapped"
    REMINDER = "alerts, heartbeats and other system messages become reminders"
    SUMMARY = "summaries become compactions"
    COMPILED = "compiled system prompts are left out: the successor compiles its own"
    APPROVED = "approvals of tool calls are left out"
    DENIED = "denied tool calls get an error as their result"
    JOINED = "requests for approval join the message before, whose other calls need none"
    PENDING = "tool calls that wait for an approval will get a made-up result at the next turn"
    RESULTS = "results of parallel tool calls become a row each"
    ARGUMENTS = "arguments of tool calls that are no JSON object are wrapped into one"
    IMAGE = "images that V1 keeps only by address become text"
    REASONING = "encrypted reasoning is kept beside the message, and never sent again"
    ORPHAN = "tool results leave the context whose call is no longer in it"
    MISSING = "messages in context that V1 no longer has"
    SYNTHETIC = (
        "messages of 2026-01-01 (UTC): the successor shows them with times of its own making"
    )
    LONG_RESULT = (
        "tool results above 40,000 characters: the successor shows their beginning and end"
    )
    EMPTY_CONTEXT = "conversations whose context is empty"


@dataclass(frozen=True)
class _InWindow:
    """A row in context: the result of a `call`, or with `calls` of its own."""

    id: str
    is_result: bool
    call: str | None
    calls: set[str]


@dataclass
class Converted:
    """One conversation: `rows` must be read to their end before the rest is known.

    `window` are the ids of its rows in context; `count` is of V1's messages, `written` of rows.
    """

    agent: Agent
    conversation: Conversation
    agent_id: str
    model: str
    notes: Counter[str] = field(default_factory=Counter)
    window: list[str] = field(default_factory=list)
    count: int = 0
    written: int = 0
    first: str | None = None
    last: str | None = None

    def rows(self, messages: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
        """Yield the rows of V1's messages, which come in V1's order."""
        wanted = dict.fromkeys(self.conversation.in_context)
        seen: dict[str, list[_InWindow]] = {}
        running = _Running(self)
        for message in messages:
            self.count += 1
            for row in running.rows_of(message):
                yield from self._told(row, wanted, seen)
            if message["id"] in wanted:
                seen.setdefault(message["id"], [])
        for row in (*running.held(), *running.flushed()):
            yield from self._told(row, wanted, seen)
        if running.open:
            self.notes[Note.PENDING] += len(running.open)
        self._open_window(wanted, seen)

    def _told(
        self, row: Row, wanted: Mapping[str, None], seen: dict[str, list[_InWindow]]
    ) -> Iterator[Row]:
        origin = row["metadata"]["letta_v1"]["id"]
        if origin in wanted:
            # Only what the window is judged by: a message may be megabytes.
            calls = {part["id"] for part in row["content"] if part["type"] == "toolCall"}
            seen.setdefault(origin, []).append(
                _InWindow(row["id"], row["role"] == "toolResult", row.get("toolCallId"), calls)
            )
        created = row["metadata"]["created_at"]
        self.first = self.first or created
        self.last = created
        self.written += 1
        if created.startswith("2026-01-01"):
            self.notes[Note.SYNTHETIC] += 1
        yield row

    def _open_window(self, wanted: Mapping[str, None], seen: Mapping[str, list[_InWindow]]) -> None:
        """V1's context, without results whose call is outside of it: the successor drops those."""
        open_calls: set[str] = set()
        for origin in wanted:
            if origin not in seen:
                self.notes[Note.MISSING] += 1
            for row in seen.get(origin, ()):
                if row.is_result:
                    if row.call not in open_calls:
                        self.notes[Note.ORPHAN] += 1
                        continue
                else:
                    open_calls = row.calls
                self.window.append(row.id)
        if not self.window and self.written:
            self.notes[Note.EMPTY_CONTEXT] += 1
            self.window.append(NOTHING)


class _Running:
    """What the messages so far say of those that follow: calls without a result, and denials."""

    def __init__(self, converted: Converted) -> None:
        self._agent, self._conversation = converted.agent, converted.conversation
        self._id, self._model, self._notes = converted.agent_id, converted.model, converted.notes
        self._tools: dict[str, str] = {}  # names by call, of the last message that calls
        self._spoken: set[str] = set()
        self._answers: dict[
            str, Row
        ] = {}  # results of calls, until V1's own say the same, or don't
        self.open: dict[str, None] = {}
        self._first = True
        self._held: Row | None = None

    def rows_of(self, message: Mapping[str, Any]) -> Iterator[Row]:
        """The rows of a message and of those before it. One that calls tools is held: where some of the
        calls need an approval, V1 has their request as a message of its own, and the successor
        takes results of the first for lost then."""
        asks = message.get("role") == "approval" and bool(dicts(message.get("tool_calls")))
        if asks and self._held is not None and self.open:
            self._join(message)
            return
        yield from self.held()
        for row in self._rows_of(message):
            if row["role"] == "assistant" and row["stopReason"] == "toolUse":
                self._held = row
            else:
                yield row

    def held(self) -> Iterator[Row]:
        held, self._held = self._held, None
        if held is not None:
            yield held

    def _join(self, message: Mapping[str, Any]) -> None:
        held = self._held
        assert held is not None  # noqa: S101  # the caller looked
        tools, open_ = self._tools, self.open
        more = self._assistant(message)
        self._tools, self.open = {**tools, **self._tools}, {**open_, **self.open}
        held["content"] += more["content"]
        joined = held["metadata"]["letta_v1"].setdefault("joined", [])
        joined.append(
            {**more["metadata"]["letta_v1"], "created_at": more["metadata"]["created_at"]}
        )
        self._notes[Note.JOINED] += 1

    def _rows_of(self, message: Mapping[str, Any]) -> Iterator[Row]:
        role = str(message.get("role") or "user")
        yield from self.flushed(_calls_answered(message) if role in ("tool", "function") else ())
        if role == "system" and (self._first or self._compiled(message)):
            self._notes[Note.COMPILED] += 1
        elif role in ("tool", "function"):
            yield from self._results(message)
        elif role == "assistant" or (role == "approval" and message.get("tool_calls")):
            yield self._assistant(message)
        elif role == "approval":
            self._answered(message)
        else:
            yield self._user(message, role)
        self._first = False

    def flushed(self, but: Collection[str] = ()) -> Iterator[Row]:
        """What was denied or run elsewhere, `but` for calls that get V1's own result now."""
        answers, self._answers = self._answers, {}
        for call, row in answers.items():
            if call not in but:
                yield row

    def _compiled(self, message: Mapping[str, Any]) -> bool:
        window = self._conversation.in_context
        return bool(window) and message["id"] == window[0]

    def _user(self, message: Mapping[str, Any], role: str) -> Row:
        parts: list[Row] = []
        kept: Row = {}
        for part in _parts(message):
            if part.get("type") == "text":
                text = self._unwrapped(str(part.get("text") or ""), role, kept)
                parts.append(_text(text))
            elif part.get("type") == "image":
                parts.append(self._image(part))
            else:
                kept.setdefault("parts", []).append(part)
        summary = kept.pop("summary", None)
        row = self._row(message, "user", parts, kept)
        if summary is not None:
            self._notes[Note.SUMMARY] += 1
            stats = (kept.get("wrapped") or {}).get("compaction_stats")
            row["metadata"]["compaction"] = {
                "summary": summary,
                **({"stats": stats} if isinstance(stats, dict) else {}),
            }
        return row

    def _unwrapped(self, text: str, role: str, kept: Row) -> str:
        """What a text says; what else was wrapped with it goes to `kept`, and so does a summary."""
        found = unwrapped(text)
        kind, summary = role, role == "summary"
        if found is not None:
            self._notes[Note.UNWRAPPED] += 1
            text, kept["wrapped"], of_before = found
            kind, summary = kept["wrapped"]["type"], summary or of_before
        if summary:
            kept["summary"] = text
        elif kind not in ("user", "user_message"):
            self._notes[Note.REMINDER] += 1
            text = REMINDER.format(text)
        return text

    def _assistant(self, message: Mapping[str, Any]) -> Row:
        kept: Row = {}
        calls = dicts(message.get("tool_calls"))
        self._tools, self.open = {}, {}
        parts = [
            made
            for part in _parts(message)
            if (made := self._spoken_part(part, kept, calls=bool(calls))) is not None
        ]
        parts += [self._called(call, kept) for call in calls]
        row = self._row(message, "assistant", parts, kept)
        provider, _, model = self._model.rpartition("/")
        row |= {
            "api": "openai-completions",
            "provider": provider or "letta-v1",
            "model": str(message.get("model") or model),
            "usage": NO_USAGE,
            "stopReason": "toolUse" if self.open else "stop",
        }
        return row

    def _spoken_part(self, part: Row, kept: Row, *, calls: bool) -> Row | None:
        """A part of what an agent says, or thinks."""
        kind, found = part.get("type"), None
        if kind == "text" and part.get("text"):
            thought = calls and self._agent.thinks_in_text
            found = _thought(part["text"]) if thought else _text(part["text"])
        elif kind == "reasoning":
            if part.get("signature"):
                kept.setdefault("signatures", []).append(part["signature"])
            found = _thought(part.get("reasoning"))
        elif kind == "summarized_reasoning":
            self._keep_part(kept, part)
            found = _thought(
                "\n".join(str(each.get("text") or "") for each in dicts(part.get("summary")))
            )
        elif kind == "tool_call" and not calls:  # else it stands in `tool_calls`
            found = self._call(str(part.get("id")), part.get("name"), part.get("input"))
        elif kind == "image":
            kept.setdefault("parts", []).append(part)
            found = _text(self._image(part).get("text") or "[image]")
        elif kind not in ("text", "tool_call"):
            self._keep_part(kept, part)
        return found

    def _called(self, call: Row, kept: Row) -> Row:
        function = as_dict(call.get("function"))
        spoken = self._said(function)
        if spoken is None:
            return self._call(str(call.get("id")), function.get("name"), function.get("arguments"))
        self._notes[Note.SPOKEN] += 1
        self._spoken.add(str(call.get("id")))
        kept.setdefault("spoken", []).append(call)
        return _text(spoken)

    def _keep_part(self, kept: Row, part: Row) -> None:
        self._notes[Note.REASONING] += 1
        kept.setdefault("parts", []).append(part)

    def _said(self, function: Mapping[str, Any]) -> str | None:
        """What a call of `send_message` says."""
        if function.get("name") != SPOKEN:
            return None
        arguments = json_object(function.get("arguments"))
        said = None if arguments is None else arguments.get("message")
        return said if isinstance(said, str) else None

    def _call(self, identifier: str, name: Any, arguments: Any) -> Row:
        found = json_object(arguments)
        if found is None:
            self._notes[Note.ARGUMENTS] += 1
            found = {"input": arguments}
        self._tools[identifier] = str(name)
        self._spoken.discard(identifier)  # some models count their calls anew each time
        self.open[identifier] = None
        return {"type": "toolCall", "id": identifier, "name": str(name), "arguments": found}

    def _results(self, message: Mapping[str, Any]) -> Iterator[Row]:
        """A row each; what says no more than that a message was sent is left out."""
        returns = dicts(message.get("tool_returns"))
        whole = _parts(message)
        parts = [part for part in whole if part.get("type") == "tool_return"]
        returns += [
            {"tool_call_id": part.get("tool_call_id"), "func_response": part.get("content"),
             "status": "error" if part.get("is_error") else "success"}
            for part in parts if not returns
        ]  # fmt: skip
        number = 0
        for each in returns or [{}]:
            call = str(each.get("tool_call_id") or message.get("tool_call_id") or "")
            content, failed = self._response(each.get("func_response"), whole)
            if each.get("status") is not None:
                failed = each["status"] == "error"
            if call in self._spoken and not failed:
                continue
            number += 1
            if call in self._spoken:
                self._notes[Note.NOT_SENT] += 1
                text = "\n".join(str(part.get("text") or "") for part in content)
                yield self._row(
                    message, "user", [_text(REMINDER.format(text))], {"unsent": each}, number
                )
                continue
            kept = {name: each[name] for name in ("stdout", "stderr") if each.get(name)}
            yield self._result(message, call, content, failed, number, kept)
        if number > 1:
            self._notes[Note.RESULTS] += 1

    def _response(self, response: Any, whole: list[Row]) -> tuple[list[Row], bool]:
        if isinstance(response, list):
            return [self._part(each) for each in dicts(response)], False
        if response is not None:
            return [_text(response)], False
        text = "\n".join(
            str(part.get("text") or "") for part in whole if part.get("type") == "text"
        )
        packed = json_object(text)
        if packed is not None and {"status", "message"} <= packed.keys() and "time" in packed:
            said = packed["message"]
            text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
            return [_text(text)], packed["status"] != "OK"
        return [_text(text)], False

    def _part(self, part: Row) -> Row:
        if part.get("type") == "image":
            return self._image(part)
        return _text(part.get("text"))

    def _result(
        self, message: Mapping[str, Any], call: str, content: list[Row], failed: bool, number: int,
        kept: Row,
    ) -> Row:  # fmt: skip
        row = self._row(message, "toolResult", content, kept, number)
        row |= {"toolCallId": call, "toolName": self._name_of(message, call), "isError": failed}
        self.open.pop(call, None)
        if any(len(part.get("text", "")) > 40_000 for part in content):
            self._notes[Note.LONG_RESULT] += 1
        return row

    def _name_of(self, message: Mapping[str, Any], call: str) -> str:
        return self._tools.get(call) or str(message.get("name") or "unknown")

    def _answered(self, message: Mapping[str, Any]) -> None:
        """Take the answers to requests for approval: what was run elsewhere has its result in them, which
        V1 mostly repeats in a message of its own."""
        answers = dicts(message.get("approvals"))
        if not answers and message.get("approve") is not None:
            answers = [
                {"type": "approval", "tool_call_id": call, "approve": message["approve"],
                 "reason": message.get("denial_reason")}
                for call in self.open
            ]  # fmt: skip
        number = 0
        for each in answers:
            call = str(each.get("tool_call_id") or "")
            if call in self._spoken:
                continue
            if each.get("type") == "tool" or "tool_return" in each or "func_response" in each:
                number += 1
                found = each.get("tool_return", each.get("func_response"))
                content, _ = self._response(found, _parts(message))
                kept = {name: each[name] for name in ("stdout", "stderr") if each.get(name)}
                failed = each.get("status") == "error"
                self._answers[call] = self._result(message, call, content, failed, number, kept)
            elif each.get("approve"):
                self._notes[Note.APPROVED] += 1
            else:
                number += 1
                self._notes[Note.DENIED] += 1
                reason = str(each.get("reason") or "no reason was given")
                content = [_text(f"Error: the call was denied: {reason}")]
                open_before = call in self.open
                row = self._result(message, call, content, True, number, {"denied": each})
                if open_before:
                    self._answers[call] = row

    def _image(self, part: Mapping[str, Any]) -> Row:
        source = as_dict(part.get("source"))
        if source.get("data") and source.get("media_type"):
            return {"type": "image", "mimeType": source["media_type"], "data": source["data"]}
        self._notes[Note.IMAGE] += 1
        address = source.get("url") or source.get("file_id") or "unknown"
        return _text(f"[image: {address}]")

    def _row(
        self, message: Mapping[str, Any], role: str, content: list[Row], kept: Row, number: int = 1
    ) -> Row:
        created = iso(message.get("created_at"))
        identifier = str(message["id"]) + ("" if number == 1 else f".{number}")
        row: Row = {
            "id": identifier,
            "role": role,
            "content": content,
            "timestamp": milliseconds(created),
            "metadata": {
                "created_at": created,
                "updated_at": iso(message.get("updated_at"))
                if message.get("updated_at")
                else created,
                "agent_id": self._id,
                "conversation_id": self._conversation.id or MAIN,
                "letta_v1": {
                    "id": message["id"],
                    **{key: message[key] for key in KEPT if message.get(key) is not None},
                    **kept,
                },
            },
        }
        if message.get("otid"):
            row["otid"] = message["otid"]
        return row


def _calls_answered(message: Mapping[str, Any]) -> set[str]:
    """The calls that a message has results of."""
    returns = dicts(message.get("tool_returns"))
    return {
        str(each.get("tool_call_id") or message.get("tool_call_id")) for each in returns or [{}]
    }


def _text(text: Any) -> Row:
    return {"type": "text", "text": str(text or "")}


def _thought(text: Any) -> Row:
    return {"type": "thinking", "thinking": str(text or "")}


def _parts(message: Mapping[str, Any]) -> list[Row]:
    """The parts of a message's content; releases of old had a text, files have either."""
    content = message.get("content")
    if isinstance(content, str) and content:
        return [_text(content)]
    if content:
        return dicts(content)
    text = message.get("text")
    return [_text(text)] if text else []


def unwrapped(text: str) -> tuple[str, Row, bool] | None:
    """What a text says that V1 wrapped, the rest of the wrapping, and whether it is a summary; None where
    it is none of V1's."""
    found = json_object(text) if text.startswith("{") else None
    if found is None or str(found.get("type")) not in WRAPPED:
        return None
    said = found.get("message")
    if said is None:
        said = found.get("reason")
    if not isinstance(said, str):
        if found["type"] == "user_message":
            return None
        return json.dumps(found, ensure_ascii=False), {"type": found["type"]}, False
    rest = {key: value for key, value in found.items() if key not in ("message", "reason")}
    return said, rest, found["type"] == "system_alert" and SUMMARY in said


def iso(value: Any) -> str:
    """A time as the successor writes it, in UTC, to V1's microseconds; of what is none: 1970."""
    text = str(value or "1970-01-01T00:00:00")
    if OF_POSTGRES.fullmatch(text):  # nearly always, and parsing it would take most of the time
        return text[:26] + "Z" if text[23:26] != "000" else text[:23] + "Z"
    try:
        moment = dt.datetime.fromisoformat(text)
    except (ValueError, OverflowError):  # of a file that somebody made by hand
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    whole = "microseconds" if moment.microsecond % 1000 else "milliseconds"
    return moment.replace(tzinfo=None).isoformat(timespec=whole) + "Z"


def milliseconds(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp() * 1000)
