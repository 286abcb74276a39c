"""One agent of V1 -> its files in a store of the successor. What makes it seen is written last."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from ops_cli.exit import layout
from ops_cli.exit.memory import GIT_MEMORY_TAG, MemoryNote, Told, memory_files
from ops_cli.exit.messages import MAIN, Converted, iso, milliseconds
from ops_cli.exit.placing import told_of_disk
from ops_cli.exit.repository import write_repository
from ops_cli.exit.v1 import Agent, Conversation, Source, as_dict

ID = re.compile(r"agent-[A-Za-z0-9][A-Za-z0-9._-]{0,119}")  # in base64 a name has 255 bytes
CONVERSATION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,149}")
# The successor takes this number for a default of its own, and replaces it.
TAKEN_FOR_DEFAULT = 128_000
TAG = "letta-v1:"  # before the old id
COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
FORMAT = 1
KIND = "letta-v1-export"

Models = Mapping[str, str]  # V1's handles, and those of the successor in their place


@dataclass(frozen=True)
class Exported:
    """An agent that was written; `messages` are V1's, `rows` the successor's."""

    v1_id: str
    id: str
    name: str
    model: str
    conversations: int
    messages: int
    rows: int
    blocks: int
    passages: int
    files: int
    notes: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Exported:
        """What a record of one says."""
        return cls(**{each.name: record[each.name] for each in fields(cls)})


def made_of(agent: Agent, models: Models) -> str:
    """A digest of what an export comes of: of the same, there is nothing to do again."""
    said = json.dumps([asdict(agent), sorted(models.items()), FORMAT], sort_keys=True, default=str)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


def write_agent(store: Path | None, source: Source, agent: Agent, models: Models) -> Exported:
    """Write `agent` with all that is its into `store`; into nothing where that is None: then only what
    there is to say comes of it.

    Raises LettaOpsError: `disk-full`, those of the source.
    """
    if not ID.fullmatch(agent.id):
        raise LettaOpsError(
            "agent-refused",
            f"the id {agent.id!r} can't be the name of a folder",
            "export the other agents by --agent",
        )
    identifier, model = layout.local_id(agent.id), models.get(agent.model, agent.model)
    notes: Counter[str] = Counter()
    messages = rows = 0
    with told_of_disk(store or Path()):
        for conversation in agent.conversations:
            converted = Converted(agent, conversation, identifier, model, notes)
            _write_conversation(store, source, converted, models)
            messages, rows = messages + converted.count, rows + converted.written
        told = Told(notes)
        commit = _write_memory(store, source, agent, identifier, told)
        done = Exported(
            v1_id=agent.id, id=identifier, name=agent.name, model=model,
            conversations=len(agent.conversations), messages=messages, rows=rows,
            blocks=len(agent.blocks), passages=told.passages, files=told.files,
            notes={str(note): count for note, count in sorted(notes.items())},
        )  # fmt: skip
        if store is not None:
            record = {
                "kind": KIND, "format": FORMAT, "source": source.name, "commit": commit,
                "made_of": made_of(agent, models), "models": dict(models),
                "exported_at": iso(dt.datetime.now(dt.UTC).isoformat()), **done.as_json(),
            }  # fmt: skip
            _write_json(store / layout.record_file(identifier), record)
            _write_json(store / layout.agent_file(identifier), agent_record(agent, model))
    return done


def agent_record(agent: Agent, model: str) -> dict[str, Any]:
    """The agent as the successor keeps it."""
    config = as_dict(agent.row.get("llm_config"))
    settings: dict[str, Any] = {}
    if isinstance(limit := config.get("context_window"), int):
        settings["context_window_limit"] = limit - 1 if limit == TAKEN_FOR_DEFAULT else limit
    if isinstance(config.get("max_tokens"), int):
        settings["max_tokens"] = config["max_tokens"]
    if isinstance(config.get("parallel_tool_calls"), bool):
        settings["parallel_tool_calls"] = config["parallel_tool_calls"]
    tags = [*agent.tags, GIT_MEMORY_TAG, TAG + agent.id]
    return {
        "id": layout.local_id(agent.id),
        "name": agent.name,
        "description": agent.row.get("description"),
        "system": agent.row.get("system") or "",
        "tags": list(dict.fromkeys(tags)),
        "model": model,
        "model_settings": settings,
        **({"hidden": True} if agent.row.get("hidden") else {}),
    }


def conversation_record(converted: Converted, models: Models) -> dict[str, Any]:
    """Known when all of its messages were converted."""
    row = converted.conversation.row
    begun = row or converted.agent.row
    created = iso(begun.get("created_at") or converted.first)
    last = row.get("last_message_at") or converted.last
    model = row.get("model")
    return {
        "id": converted.conversation.id or MAIN,
        "agent_id": converted.agent_id,
        "archived": False,
        "archived_at": None,
        "created_at": created,
        "updated_at": iso(converted.last or begun.get("updated_at") or created),
        "last_message_at": iso(last) if last else None,
        "summary": row.get("summary"),
        "in_context_message_ids": converted.window,
        **({"model": models.get(model, model)} if model else {}),
    }


def manifest_record(converted: Converted) -> dict[str, Any]:
    return {
        "schema_version": layout.SCHEMA_VERSION,
        "message_format": layout.MESSAGE_FORMAT,
        "provider_stack": layout.PROVIDER_STACK,
        # Where the successor takes a time for made up, it counts from here.
        "created_at": converted.first or iso(converted.agent.row.get("created_at")),
    }


def _write_conversation(
    store: Path | None, source: Source, converted: Converted, models: Models
) -> None:
    conversation = converted.conversation
    if conversation.id is not None and not CONVERSATION_ID.fullmatch(conversation.id):
        raise LettaOpsError(
            "agent-refused",
            f"{converted.agent.id} has a conversation with the id {conversation.id!r}",
            "export the other agents by --agent",
        )
    rows = converted.rows(source.messages(converted.agent, conversation))
    if store is None:
        for _ in rows:
            pass
        return
    folder = store / layout.conversation_folder(converted.agent_id, conversation.id)
    log = folder / layout.MESSAGES
    with layout.new_file(log) as file:
        for line in _lines(rows, conversation, iso(_begun(converted))):
            file.write(line.encode("utf-8", "backslashreplace"))
    if not converted.written:
        log.unlink()
    _write_json(folder / layout.MANIFEST, manifest_record(converted))
    _write_json(folder / layout.CONVERSATION, conversation_record(converted, models))
    if converted.written:
        last = milliseconds(converted.last or "") / 1000
        os.utime(log, (last, last))


def _begun(converted: Converted) -> Any:
    return (converted.conversation.row or converted.agent.row).get("created_at")


def _lines(
    rows: Iterator[dict[str, Any]], conversation: Conversation, created: str
) -> Iterator[str]:
    head = {
        "type": "session",
        "version": layout.SESSION_VERSION,
        "id": conversation.id or MAIN,
        "timestamp": created,
        "cwd": "/",
    }
    yield COMPACT.encode(head) + "\n"
    before: str | None = None
    for number, row in enumerate(rows, 1):
        entry = f"{number:08x}"
        line = {
            "type": "message", "id": entry, "parentId": before,
            "timestamp": row["metadata"]["created_at"], "message": row,
        }  # fmt: skip
        try:
            yield COMPACT.encode(line) + "\n"
        except ValueError:  # a number that JSON does not have
            yield COMPACT.encode(_in_json(line)) + "\n"
        before = entry


def _in_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_in_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _write_memory(
    store: Path | None, source: Source, agent: Agent, identifier: str, told: Told
) -> str | None:
    passages, files = source.passages(agent), source.files(agent)
    with source.git_memory(agent) as history:
        if history is None and GIT_MEMORY_TAG in agent.tags:
            told.notes[MemoryNote.NO_GIT] += 1
        if store is None:
            for _ in memory_files(agent, passages, files, told, lambda _: None):
                pass
            return None
        vectors = store / layout.vectors_file(identifier)
        with layout.new_file(vectors) as beside:
            commit = write_repository(
                store / layout.memory_folder(identifier),
                memory_files(agent, passages, files, told, beside.write),
                _last_change(agent),
                history,
            )
    if not told.vectors:
        vectors.unlink()
    return commit


def _last_change(agent: Agent) -> int:
    """When what is in memory was last changed, as V1 says: seconds since 1970."""
    moments = [agent.row.get("created_at"), *(block.get("updated_at") for block in agent.blocks)]
    return max(milliseconds(iso(each)) // 1000 for each in moments)


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    with layout.new_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")
