"""Is a store what its source says? Agent by agent, message by message, with a reader of our own."""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops_cli.exit import layout
from ops_cli.exit.memory import (
    ARCHIVAL,
    INDEX,
    OTHER,
    PASSAGE,
    Block,
    block_file,
    blocks_of,
    encoded,
    json_bytes,
    passage_head,
    passages_in,
    placed,
    value_of,
    vector_line,
    without_place,
)  # fmt: skip
from ops_cli.exit.messages import NOTHING, iso, milliseconds
from ops_cli.exit.reading import damaged, read_agent, read_conversation, read_record, read_rows
from ops_cli.exit.repository import Memory
from ops_cli.exit.said import Said, of_row, of_v1, said_by
from ops_cli.exit.v1 import CUSTOM, Agent, Conversation, Source, as_dict, dicts
from ops_cli.exit.writing import agent_record

LISTED = 50
# Which roles the successor has for V1's; an error of `send_message` is a reminder.
ROLES_OF = defaultdict(
    lambda: {"user"},
    assistant={"assistant"}, approval={"assistant", "toolResult"},
    tool={"toolResult", "user"}, function={"toolResult", "user"},
)  # fmt: skip
SHOWN = 80


@dataclass(frozen=True)
class Difference:
    """`what` is agent, conversation, message, context, block, passage, vector, file, tool or history."""

    what: str
    key: str
    why: str


@dataclass
class Verified:
    """One agent: what was compared, what differs, and what the successor has added since."""

    v1_id: str
    id: str
    name: str
    messages: int = 0
    blocks: int = 0
    passages: int = 0
    files: int = 0
    by_map: dict[str, int] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)
    count: int = 0
    differences: list[Difference] = field(default_factory=list)

    def differs(self, what: str, key: Any, why: str) -> None:
        self.count += 1
        if len(self.differences) < LISTED:
            self.differences.append(Difference(what, str(key), why))

    def add(self, what: str, count: int = 1) -> None:
        if count:
            self.added[what] = self.added.get(what, 0) + count


def verify_agent(store: Path, source: Source, agent: Agent) -> Verified:
    """Compare all of `agent` with what `store` holds of it.

    Raises LettaOpsError: `store-damaged`, those of the source.
    """
    identifier = layout.local_id(agent.id)
    found = Verified(agent.id, identifier, agent.name)
    record = read_record(store, identifier)
    if record is None:
        found.differs("agent", agent.id, "it is not in the store")
        return found
    if record.get("id") != identifier:
        raise damaged(store / layout.record_file(identifier), "it does not say what was exported")
    found.by_map = {str(key): int(count) for key, count in record.get("notes", {}).items()}
    _compare_agent(found, read_agent(store, identifier), agent, record.get("models") or {})
    for conversation in agent.conversations:
        _compare_conversation(found, store, source, agent, conversation)
    blocks = blocks_of(agent)
    with closing(Memory(store / layout.memory_folder(identifier))) as memory:
        _compare_memory(found, memory, source, agent, blocks)
        _compare_passages(found, memory, store, source, agent)
        with source.git_memory(agent) as history:
            own = {block.path for block in blocks}
            lacking = None if history is None else memory.lacks(history, own)
            if lacking is not None:
                found.differs("history", lacking, "it is not there")
    return found


def _compare_agent(
    found: Verified, there: Mapping[str, Any], agent: Agent, models: Mapping[str, str]
) -> None:
    wanted = agent_record(agent, models.get(agent.model, agent.model))
    for key, value in wanted.pop("model_settings").items():
        if as_dict(there.get("model_settings")).get(key) != value:
            found.add("settings of the model changed")  # it does so by itself, at the first turn
    del wanted["tags"]  # the successor adds some of its own
    for key, value in wanted.items():
        if there.get(key) != value:
            found.differs("agent", key, f"{_short(value)} -> {_short(there.get(key))}")
    for tag in sorted(set(agent.tags) - set(there["tags"])):
        found.differs("agent", "tags", f"{tag} is not there")


def _compare_conversation(
    found: Verified, store: Path, source: Source, agent: Agent, conversation: Conversation
) -> None:
    identifier = layout.local_id(agent.id)
    record = read_conversation(store, identifier, conversation.id)
    if record is None:
        found.differs("conversation", conversation.id or "main", "it is not there")
        return
    rows = _Rows(found, read_rows(store, identifier, conversation.id), conversation)
    spoken: set[str] = set()
    owed: dict[str, str] = {}  # results of approvals by call, which a message of V1 must repeat
    waiting: _Compared | None = None
    first = True
    for message in source.messages(agent, conversation):
        found.messages += 1
        if waiting is not None and message["id"] in waiting.joined:
            waiting.here += _expected(message, spoken)
            continue
        _judge(found, waiting)
        waiting = None
        there = rows.of(message["id"])
        expected = _expected(message, spoken)
        if _is_answer(message):
            said = [each for row in there for each in of_row(row)]
            owed |= {kind: message["id"] for kind, text in expected if (kind, text) not in said}
            expected = [each for each in expected if each in said]
        elif message.get("role") in ("tool", "function"):
            for kind, _ in of_v1(message):
                owed = {each: by for each, by in owed.items() if _call_of(each) != _call_of(kind)}
        silent = _may_be_silent(message, conversation, spoken, first=first)
        first = False
        if there:
            waiting = _Compared(message, there, expected)
        elif not silent:
            found.differs("message", message["id"], "it is not there")
    _judge(found, waiting)
    for kind, identifier in owed.items():
        found.differs("message", identifier, f"the {kind} is not there")
    rows.end()
    _compare_context(found, conversation, record, rows)


@dataclass
class _Compared:
    """A message with its rows, until it is known which others have joined it. `here`: what V1 says."""

    message: Mapping[str, Any]
    rows: list[dict[str, Any]]
    here: list[Said]

    @property
    def joined(self) -> set[str]:
        kept = [row["metadata"]["letta_v1"].get("joined") or [] for row in self.rows]
        return {each["id"] for joined in kept for each in joined}


class _Rows:
    """The rows of a log, taken by the message of V1 that they come of: in V1's order, or not at all."""

    def __init__(
        self, found: Verified, rows: Iterator[dict[str, Any]], conversation: Conversation
    ) -> None:
        self._found, self._rows = found, rows
        self._wanted = set(conversation.in_context)
        self._next = next(rows, None)
        self._seen: set[str] = set()
        self.origins: dict[str, str] = {}  # of rows in V1's context: V1's ids
        self.calls: dict[str, set[str]] = {}  # what those rows call
        self.results: dict[str, str] = {}  # of rows that are results: their calls
        self.compacted = False

    def of(self, message: str) -> list[dict[str, Any]]:
        taken = []
        while self._next is not None and _origin(self._next) == message:
            taken.append(self._taken())
        return taken

    def end(self) -> None:
        """What is left is the successor's own, or nobody's."""
        while self._next is not None:
            row = self._taken()
            if _origin(row) is None:
                self._found.add("messages")
                self.compacted |= "compaction" in (row.get("metadata") or {})
            else:
                self._found.differs("message", row["id"], "V1 has it elsewhere, or not at all")

    def _taken(self) -> dict[str, Any]:
        row = self._next
        assert row is not None  # noqa: S101  # the caller looked
        origin = _origin(row)
        if row["id"] in self._seen and origin is not None:
            self._found.differs("message", row["id"], "it is there twice")
        self._seen.add(row["id"])
        if origin in self._wanted:
            self.origins[row["id"]] = str(origin)
            self.calls[row["id"]] = {
                part["id"] for part in row["content"] if part["type"] == "toolCall"
            }
            if row["role"] == "toolResult":
                self.results[row["id"]] = row["toolCallId"]
        self._next = next(self._rows, None)
        return row


def _origin(row: Mapping[str, Any]) -> str | None:
    kept = (row.get("metadata") or {}).get("letta_v1")
    return kept.get("id") if isinstance(kept, dict) else None


def _may_be_silent(
    message: Mapping[str, Any], conversation: Conversation, spoken: set[str], *, first: bool
) -> bool:
    """Whether a message of V1 may be without a row."""
    role = message.get("role")
    if role == "system":
        return first or message["id"] == next(iter(conversation.in_context), None)
    if role in ("tool", "function"):
        return not _expected(message, spoken)
    return _is_answer(message)


def _is_answer(message: Mapping[str, Any]) -> bool:
    """Whether it is what somebody said to a request for approval."""
    return message.get("role") == "approval" and not message.get("tool_calls")


def _call_of(kind: str) -> str:
    return kind.partition(" of ")[2]


def _expected(message: Mapping[str, Any], spoken: set[str]) -> list[Said]:
    """What V1 says, but that something was sent; that it was not is said in words."""
    for each in dicts(message.get("tool_calls")):
        called = said_by(each) is None
        (spoken.discard if called else spoken.add)(str(each.get("id")))
    found = []
    for kind, text in of_v1(message):
        what, _, call = kind.partition(" of ")
        if call not in spoken or what not in ("result", "error"):
            found.append((kind, text))
        elif what == "error" and message.get("role") != "approval":
            found.append(("text", text))
    return found


def _judge(found: Verified, compared: _Compared | None) -> None:
    if compared is None:
        return
    message, rows = compared.message, compared.rows
    # A denial becomes a result in words of our own.
    told = [row for row in rows if "denied" not in row["metadata"]["letta_v1"]]
    here, there = _images_as_said(compared.here, [said for row in told for said in of_row(row)])
    if here != there:
        place = next(
            (
                number
                for number, pair in enumerate(zip(here, there, strict=False))
                if len(set(pair)) > 1
            ),
            min(len(here), len(there)),
        )
        one = here[place] if place < len(here) else "(nothing)"
        other = there[place] if place < len(there) else "(nothing)"
        found.differs("message", message["id"], f"{_short(one)} -> {_short(other)}")
    created = iso(message.get("created_at"))
    for row in rows:
        if row["metadata"].get("created_at") != created:
            found.differs(
                "message", row["id"], f"of {created} -> {row['metadata'].get('created_at')}"
            )
        if row["timestamp"] != milliseconds(created):
            found.differs("message", row["id"], "its time stamp is another")
        if row["role"] not in ROLES_OF[str(message.get("role") or "user")]:
            found.differs("message", row["id"], f"{message.get('role')} -> {row['role']}")


def _images_as_said(here: list[Any], there: list[Any]) -> tuple[list[Any], list[Any]]:
    """Images that V1 has only by address have become text."""
    gone = [said for said in here if said == ("image", "")]
    if not gone:
        return here, there
    kept = [said for said in here if said != ("image", "")]
    return kept, [said for said in there if not said[1].startswith("[image")]


def _compare_context(
    found: Verified, conversation: Conversation, record: Mapping[str, Any], rows: _Rows
) -> None:
    name = conversation.id or "main"
    window = [each for each in record["in_context_message_ids"] if each != NOTHING]
    there = [each for each in window if each in rows.origins]
    found.add("messages in context", len(window) - len(there))
    if rows.compacted:
        return  # what was in context is in the successor's own summary by now
    of: dict[str, list[str]] = {}
    for row, origin in rows.origins.items():
        of.setdefault(origin, []).append(row)
    here = [row for each in dict.fromkeys(conversation.in_context) for row in of.get(each, ())]
    open_: set[str] = set()
    for row in here:
        if row not in rows.results:
            open_ = rows.calls[row]
        elif rows.results[row] not in open_:
            continue  # the successor drops a result whose call is not in context
        if row not in there:
            found.differs("context", row, f"it is not in context in {name}")
    if [each for each in here if each in set(there)] != there:
        found.differs("context", name, "its order is another")


def _compare_memory(
    found: Verified, memory: Memory, source: Source, agent: Agent, blocks: Sequence[Block]
) -> None:
    for block in blocks:
        _compare_block(found, memory, block)
    for path, file in placed(source.files(agent)):
        found.files += 1
        if memory.read(path) != encoded(file.text):
            found.differs("file", file.name, f"{path} has another content, or is not there")
    _compare_tools(found, memory, agent)
    if memory.read(OTHER) != json_bytes(without_place(agent, blocks)):
        found.differs("agent", OTHER, "it says something else, or is not there")
    if memory.later:
        found.add("memory files added, changed or removed", memory.changed())
        return
    for path in memory.paths:
        if memory.in_work_tree(path) != memory.read(path):
            found.differs("memory file", path, "what lies there is not what was committed")


def _compare_block(found: Verified, memory: Memory, block: Block) -> None:
    found.blocks += 1
    content, label = memory.read(block.path), str(block.row.get("label"))
    try:
        value = None if content is None else value_of(content)
    except ValueError as error:
        found.differs("block", label, str(error))
        return
    if value is None:
        found.differs("block", label, f"{block.path} is not there")
    elif value != encoded(block.value):
        said = _short(value.decode(errors="replace"))
        found.differs("block", label, f"{_short(block.value)} -> {said}")
    elif content != block_file(block):
        found.differs("block", label, "its description or its settings are others")


def _compare_tools(found: Verified, memory: Memory, agent: Agent) -> None:
    scripts = {
        hashlib.sha256(memory.read(path) or b"").digest()
        for path in memory.paths
        if path.startswith("skills/")
    }
    for tool in agent.tools:
        code = tool.get("source_code") if tool.get("tool_type") == CUSTOM else None
        if code and hashlib.sha256(encoded(code)).digest() not in scripts:
            found.differs("tool", tool.get("name"), "its code is not there")


def _compare_passages(
    found: Verified, memory: Memory, store: Path, source: Source, agent: Agent
) -> None:
    there = _passages_there(found, memory)
    beside = store / layout.vectors_file(layout.local_id(agent.id))
    with beside.open("rb") if beside.is_file() else io.BytesIO() as vectors:
        for passage in source.passages(agent):
            found.passages += 1
            digest = there.pop(passage.id, None)
            if digest is None:
                found.differs("passage", passage.id, "it is not there")
            elif digest != _digest(passage_head(passage), encoded(passage.text)):
                found.differs("passage", passage.id, "it says something else")
            if passage.vector is not None and next(vectors, None) != vector_line(passage):
                found.differs("vector", passage.id, "it is another one, or is not there")
        if next(vectors, None) is not None:
            found.differs("vector", beside.name, "V1 has fewer")
    for identifier in there:
        found.differs("passage", identifier, "V1 does not have it")


def _passages_there(found: Verified, memory: Memory) -> dict[str, bytes]:
    """A digest of each passage in the files, by its id."""
    there: dict[str, bytes] = {}
    for path in memory.paths:
        if not path.startswith(f"{ARCHIVAL}/") or path == INDEX:
            continue
        content = memory.read(path) or b""
        if PASSAGE.search(content) is None:
            continue  # of V1's git memory
        try:
            for head, text in passages_in(content):
                there[str(head["id"])] = _digest(head, text)
        except (ValueError, KeyError, TypeError) as error:
            found.differs("passage", path, str(error))
    return there


def _digest(head: Mapping[str, Any], text: bytes) -> bytes:
    said = json.dumps(head, sort_keys=True).encode()
    return hashlib.sha256(said + b"\0" + text).digest()


def _short(value: Any) -> str:
    text = "(nothing)" if value is None else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
