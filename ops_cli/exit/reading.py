"""A strict reader of the successor's store: anything that its format has no place for is an error.

What the successor has added since an export is part of the format: later messages, compactions, and
commits on top of what was exported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from ops_cli.exit import layout
from ops_cli.exit.messages import MAIN

ROLES: Mapping[str, set[str]] = {
    "user": {"text", "image"},
    "assistant": {"text", "thinking", "toolCall"},
    "toolResult": {"text", "image"},
}
NEEDED: Mapping[str, Mapping[str, type]] = {
    "text": {"text": str},
    "thinking": {"thinking": str},
    "toolCall": {"id": str, "name": str, "arguments": dict},
    "image": {"mimeType": str, "data": str},
}


def damaged(place: Path | str, why: str) -> LettaOpsError:
    return LettaOpsError(
        "store-damaged",
        f"{place}: {why}",
        "export the agent anew with --replace; V1's own data was not touched",
    )


def ensure_store(folder: Path) -> None:
    """Raises LettaOpsError: `not-a-store`, `store-newer`."""
    if not folder.is_dir() or not any((folder / name).is_dir() for name in layout.OWN):
        raise LettaOpsError(
            "not-a-store",
            f"{folder} is no store of the successor's: it has no {' or '.join(layout.OWN)}",
            "name the folder that an export wrote, or the LETTA_LOCAL_BACKEND_DIR of letta-code",
        )
    for each in conversation_folders(folder):
        manifest = each / layout.MANIFEST
        if not manifest.is_file():
            continue
        try:
            version = json.loads(manifest.read_bytes()).get("schema_version")
        except (OSError, ValueError, AttributeError):
            continue  # what can't be read is told by who reads it
        if isinstance(version, int) and version > layout.SCHEMA_VERSION:
            raise LettaOpsError(
                "store-newer",
                f"{folder} is in format {version} of letta-code, of which this letta-ops knows"
                f" {layout.SCHEMA_VERSION}",
                "use a newer letta-ops, or export into a new folder",
            )


def conversation_folders(store: Path) -> list[Path]:
    folder = store / layout.CONVERSATIONS
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def read_record(store: Path, agent: str) -> dict[str, Any] | None:
    """What our export wrote of an agent; empty, where that can't be read or none of ours made it; None,
    where there is no such agent."""
    if not (store / layout.agent_file(agent)).is_file():
        return None
    try:
        found = json.loads((store / layout.record_file(agent)).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_agent(store: Path, agent: str) -> dict[str, Any]:
    """Raises LettaOpsError (`store-damaged`)."""
    path = store / layout.agent_file(agent)
    found = _json(path)
    for key, kind in {"id": str, "name": str, "system": str, "tags": list, "model": str}.items():
        if not isinstance(found.get(key), kind):
            raise damaged(path, f"its {key} is not what it should be")
    if found["id"] != agent:
        raise damaged(path, f"it is of {found['id']}")
    return found


def read_conversation(store: Path, agent: str, conversation: str | None) -> dict[str, Any] | None:
    """The record of a conversation (None: the main one), of which the manifest was looked at, too; None
    where there is none."""
    folder = store / layout.conversation_folder(agent, conversation)
    if not (folder / layout.CONVERSATION).is_file():
        return None
    found = _json(folder / layout.CONVERSATION)
    window = found.get("in_context_message_ids")
    if found.get("agent_id") != agent or found.get("id") != (conversation or MAIN):
        raise damaged(folder, "it is of another agent or conversation")
    if not isinstance(window, list) or not all(isinstance(each, str) for each in window):
        raise damaged(folder, "its list of messages in context can't be read")
    if len(set(window)) != len(window):
        raise damaged(folder, "a message is in context twice")
    manifest = _json(folder / layout.MANIFEST)
    expected = (layout.SCHEMA_VERSION, layout.MESSAGE_FORMAT, layout.PROVIDER_STACK)
    given = tuple(
        manifest.get(key) for key in ("schema_version", "message_format", "provider_stack")
    )
    if given != expected:
        raise damaged(folder, f"its manifest says {given}")
    return found


def read_rows(store: Path, agent: str, conversation: str | None) -> Iterator[dict[str, Any]]:
    """Yield the messages of a conversation as they stand in its log. Raises LettaOpsError."""
    path = store / layout.conversation_folder(agent, conversation) / layout.MESSAGES
    if not path.is_file():
        return
    with path.open("rb") as file:
        before, seen = None, set[str]()
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.endswith(b"\n"):
                raise damaged(where, "it is cut")
            entry = _parsed(line, where)
            if number == 1:
                _ensure_head(entry, conversation, where)
                continue
            row = _entry(entry, where)
            if entry["parentId"] != before:
                raise damaged(where, "it does not follow the line before")
            if entry["id"] in seen:
                raise damaged(where, "another line has its id")
            seen.add(entry["id"])
            before = entry["id"]
            yield row


def _ensure_head(entry: Mapping[str, Any], conversation: str | None, where: str) -> None:
    if entry.get("type") != "session" or entry.get("version") != layout.SESSION_VERSION:
        raise damaged(where, "a log begins with its session")
    if entry.get("id") != (conversation or MAIN):
        raise damaged(where, "it is of another conversation")


def _entry(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    row = entry.get("message")
    if entry.get("type") not in ("message", "compaction") or not isinstance(row, dict):
        raise damaged(where, f"it is a {entry.get('type')!r}")
    if not isinstance(entry.get("id"), str) or not isinstance(entry.get("timestamp"), str):
        raise damaged(where, "it has no id or no time")
    if row.get("role") not in ROLES or not isinstance(row.get("id"), str):
        raise damaged(where, f"its role is {row.get('role')!r}")
    if not isinstance(row.get("content"), list) or not isinstance(row.get("timestamp"), int):
        raise damaged(where, "it has no content or no time stamp")
    if row["role"] == "toolResult" and not isinstance(row.get("toolCallId"), str):
        raise damaged(where, "a result has no call")
    for part in row["content"]:
        _ensure_part(part, row["role"], where)
    return row


def _ensure_part(part: Any, role: str, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ROLES[role]:
        raise damaged(where, f"a message of role {role} has a part of type {kind!r}")
    for key, wanted in NEEDED[kind].items():
        if not isinstance(part.get(key), wanted):
            raise damaged(where, f"the {key} of a {kind} is not what it should be")


def _json(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise damaged(path, f"it can't be read: {error.strerror}") from None
    return _parsed(data, path)


def _parsed(data: bytes, where: Path | str) -> dict[str, Any]:
    try:
        found = json.loads(data, parse_constant=_no_json)
    except ValueError as error:
        raise damaged(where, f"it is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise damaged(where, "it is no JSON object")
    return found


def _no_json(word: str) -> None:
    """Python reads NaN and Infinity; the successor stops at them."""
    raise ValueError(f"{word} is no JSON")
