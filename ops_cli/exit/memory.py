"""An agent's memory as the successor has it: files of a git repository."""

from __future__ import annotations

import base64
import json
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ops_cli.exit.messages import iso
from ops_cli.exit.names import Names
from ops_cli.exit.v1 import CUSTOM, Agent, File, Passage, as_dict, dicts

OTHER = "reference/letta-v1.json"
ARCHIVAL, INDEX = "reference/archival", "reference/archival/index.md"
FILES = "reference/files"
# With more passages than this, each month has a file: every prompt lists all files by their names.
SINGLE_FILES = 20
LARGEST = 1 << 20  # bytes of passages in one file
OWN_FOLDERS = ("system/", "reference/", "skills/")  # of the successor, and of V1's git memory
GIT_MEMORY_TAG = "git-memory-enabled"
SURROGATE = re.compile("[\ud800-\udfff]")
PASSAGE = re.compile(rb"<!-- letta-v1 passage (\{.*\}) -->\n")


@dataclass
class Told:
    """What was seen while the files were made; whole when all of them were."""

    notes: Counter[str] = field(default_factory=Counter)
    passages: int = 0
    files: int = 0
    vectors: int = 0


class MemoryNote(StrEnum):
    """Like `messages.Note`, of all that isn't a message."""

    SHARED = "shared blocks become copies of their own"
    RENAMED = "names that git or another system can't keep are changed"
    SURROGATES = "characters that are none (lone surrogates) are replaced in memory files"
    OF_CONVERSATION = "blocks of single conversations become files beside the others"
    TOOLS = "custom tools become skills, which run nothing by themselves"
    BUILT_IN = "V1's own tools and tools of MCP servers have no place"
    RULES = "tool rules have no place"
    IDENTITIES = "identities have no place"
    GROUPS = "groups have no place: their agents are on their own"
    MCP = "MCP servers have no place: add them to the successor anew"
    SECRETS = "secrets of tools are left out"
    SLEEPTIME = "sleeptime agents no longer work in the background"
    AUTOCLEAR = "agents that forget after each turn will remember"
    NO_GIT = "git memory that can't be reached: its blocks come along, its history doesn't"
    HISTORY = "steps, runs and the history of blocks stay in V1's backup"


@dataclass(frozen=True)
class Block:
    """Where a block of V1 stands: `path` in the repository, and its content without the front matter."""

    path: str
    row: Mapping[str, Any]

    @property
    def value(self) -> str:
        return str(self.row.get("value") or "")


def blocks_of(agent: Agent, notes: Counter[str] | None = None) -> list[Block]:
    """Where the blocks go: as the successor itself would put them, and where git memory had them."""
    names, found = Names(), []
    notes = Counter() if notes is None else notes
    folders = OWN_FOLDERS if GIT_MEMORY_TAG in agent.tags else OWN_FOLDERS[:1]
    for row in agent.blocks:
        label = str(row.get("label") or "unnamed")
        path = label if label.startswith(folders) else f"system/{label}"
        if len(folders) > 1 and path.startswith("skills/") and path.count("/") == 1:
            path += "/SKILL"  # as V1's git memory has it
        if row.get("conversation_id"):
            notes[MemoryNote.OF_CONVERSATION] += 1
            path = f"reference/conversations/{row['conversation_id']}/{label}"
        named = names.of(path, ".md")
        if named != f"{path}.md":
            notes[MemoryNote.RENAMED] += 1
        if row.get("shared_with"):
            notes[MemoryNote.SHARED] += 1
        found.append(Block(named, row))
    return found


def memory_files(
    agent: Agent,
    passages: Iterable[Passage],
    files: Iterable[File],
    told: Told,
    vectors: Callable[[bytes], Any],
) -> Iterator[tuple[str, bytes]]:
    """Yield each file's path and content. Vectors, a line of JSON each, go to `vectors`: they are too
    large for a repository that nobody searches them in."""
    blocks, listed = blocks_of(agent, told.notes), list[str]()
    for block in blocks:
        yield block.path, block_file(block, told.notes)
    for path, content in _archival(agent, passages, told, vectors):
        yield path, content
    for path, file in placed(files):
        told.files += 1
        listed.append(f"- `{path}`: {_one_line(file.name)}, of the source {_one_line(file.source)}")
        yield path, encoded(file.text, told.notes)
    if listed:
        yield (
            f"{FILES}/index.md",
            _front("Index of the files of V1") + encoded("\n".join(listed) + "\n"),
        )
    yield from _skills(agent, told.notes)
    _judge(agent, told.notes)
    yield OTHER, json_bytes(without_place(agent, blocks))


def placed(files: Iterable[File]) -> Iterator[tuple[str, File]]:
    """Yield each file with its path. What ends in .md must be the successor's own kind of file."""
    taken = Names()
    taken.of("index", ".md")
    for file in files:
        name = f"{file.source}/{file.name.replace('/', '-')}"
        ending = ".txt" if name.endswith(".md") else ""
        yield f"{FILES}/{taken.of(name, ending)}", file


def block_file(block: Block, notes: Counter[str] | None = None) -> bytes:
    label = str(block.row.get("label") or "")
    said = _one_line(block.row.get("description")) or f"Memory block {_one_line(label) or 'of V1'}"
    if not label.isascii():  # its file can't be called so
        said = f"{_one_line(label)}: {said}"
    lines = ["---", f"description: {said}"]
    if block.row.get("read_only"):
        lines.append("read_only: true")  # only a first commit may say so
    if isinstance(block.row.get("limit"), int):
        lines.append(f"limit: {block.row['limit']}")
    return encoded("\n".join([*lines, "---", block.value]), notes)


def value_of(content: bytes) -> bytes:
    """The value in the file of a block. Raises ValueError for one that is none of ours."""
    if not content.startswith(b"---\n"):
        raise ValueError("it has no front matter")
    _, found, value = content.partition(b"\n---\n")
    if not found:
        raise ValueError("its front matter has no end")
    return value


def without_place(agent: Agent, blocks: Iterable[Block]) -> dict[str, Any]:
    """All that has no place there, and what says where the rest stands."""
    row = {key: value for key, value in agent.row.items() if key not in ("system", "message_ids")}
    return {
        "kind": "letta-v1-agent",
        "format": 1,
        "agent": row,
        "tags": list(agent.tags),
        "blocks": [
            {"file": block.path, **{key: value for key, value in block.row.items() if key != "value"}}
            for block in blocks
        ],
        "conversations": [dict(each.row) for each in agent.conversations if each.id is not None],
        "tools": [
            {key: value for key, value in tool.items()
             if tool.get("tool_type") == CUSTOM or key != "source_code"}
            for tool in agent.tools
        ],
        "secrets": list(agent.secrets),
        "counts": dict(agent.counts),
        **{table: [dict(each) for each in rows] for table, rows in agent.other.items()},
    }  # fmt: skip


def encoded(text: str, notes: Counter[str] | None = None) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        if notes is not None:
            notes[MemoryNote.SURROGATES] += 1
        return SURROGATE.sub("\ufffd", text).encode()


def json_bytes(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _archival(
    agent: Agent, passages: Iterable[Passage], told: Told, vectors: Callable[[bytes], Any]
) -> Iterator[tuple[str, bytes]]:
    names = Names()
    by_month = agent.counts.get("passages", 0) > SINGLE_FILES
    index: list[tuple[str, int, str, str]] = []
    held: list[bytes] = []
    month, size, days = "", 0, ("", "")

    def written() -> tuple[str, bytes]:
        path = f"{ARCHIVAL}/{names.of(month, '.md')}"
        index.append((path, len(held), *days))
        head = _front(f"{len(held)} archival memories of V1, {days[0]} to {days[1]}")
        return path, head + b"".join(held)

    for passage in passages:
        told.passages += 1
        created = iso(passage.created_at)
        if passage.vector is not None:
            told.vectors += 1
            vectors(vector_line(passage))
        entry = passage_entry(passage, told.notes)
        if not by_month:
            path = f"{ARCHIVAL}/{names.of(f'{created[:10]}-{passage.id}', '.md')}"
            yield path, _front(_beginning(passage.text)) + entry
            continue
        if held and (created[:7] != month or size + len(entry) > LARGEST):
            yield written()
            held, size = [], 0
        if not held:
            month, days = created[:7], (created[:10], created[:10])
        held.append(entry)
        size, days = size + len(entry), (days[0], created[:10])
    if held:
        yield written()
    if index:
        lines = [
            f"- `{path}`: {count} memories, {first} to {last}" for path, count, first, last in index
        ]
        yield INDEX, _front("Index of the archival memory of V1") + encoded("\n".join(lines) + "\n")


def passage_entry(passage: Passage, notes: Counter[str] | None = None) -> bytes:
    """A passage in a file: what it is, in a comment, then its text, whose length is known."""
    text = encoded(passage.text, notes)
    said = json.dumps(passage_head(passage), ensure_ascii=True).replace(">", "\\u003e")
    return b"<!-- letta-v1 passage " + said.encode() + b" -->\n" + text + b"\n"


def passage_head(passage: Passage) -> dict[str, Any]:
    return {
        "id": passage.id,
        "created_at": iso(passage.created_at),
        "bytes": len(encoded(passage.text)),
        "archive": passage.archive,
        "tags": list(passage.tags),
        "metadata": dict(passage.metadata),
    }


def vector_line(passage: Passage) -> bytes:
    """A passage's vector as a line of JSON: base64 of its floats of 32 bits, the low byte first, as
    the embeddings of OpenAI's API come."""
    assert passage.vector is not None  # noqa: S101  # the caller looked
    numbers = passage.vector
    if sys.byteorder == "big":
        numbers = array("f", numbers)
        numbers.byteswap()
    return b'{"id":%s,"dimensions":%d,"embedding":"%s"}\n' % (
        json.dumps(passage.id).encode(), len(numbers), base64.b64encode(numbers),
    )  # fmt: skip


def passages_in(content: bytes) -> Iterator[tuple[Mapping[str, Any], bytes]]:
    """Each passage of a file: what its comment says, and its text. Raises ValueError."""
    place = content.index(b"\n---\n", 3) + 5 if content.startswith(b"---\n") else 0
    while place < len(content):
        found = PASSAGE.match(content, place)
        if found is None:
            raise ValueError(f"there is no passage at byte {place}")
        head = json.loads(found[1])
        end = found.end() + int(head["bytes"])
        if content[end : end + 1] != b"\n":
            raise ValueError(f"the passage at byte {place} does not end where it should")
        yield head, content[found.end() : end]
        place = end + 1


def _skills(agent: Agent, notes: Counter[str]) -> Iterator[tuple[str, bytes]]:
    names = Names()
    for tool in agent.tools:
        if tool.get("tool_type") != CUSTOM or not tool.get("source_code"):
            notes[MemoryNote.BUILT_IN] += 1
            continue
        notes[MemoryNote.TOOLS] += 1
        name = str(tool.get("name") or "tool")
        folder = f"skills/{names.of(name.replace('/', '-'))}"
        schema = as_dict(tool.get("json_schema"))
        said = _one_line(tool.get("description") or schema.get("description")) or f"The tool {name}"
        script = "tool.ts" if tool.get("source_type") == "typescript" else "tool.py"
        needs = [
            f"{each.get('name')}{(each.get('version') and '==' + str(each['version'])) or ''}"
            for each in dicts(tool.get("pip_requirements"))
        ]
        lines = [
            f"# {name}",
            "",
            "A tool of Letta V1. Nothing runs it by itself: read the script, and run it yourself.",
            "",
            f"- `{script}`: its code, as it was",
            "- `schema.json`: its name, description and parameters",
            *([f"- it needs these packages: {', '.join(needs)}"] if needs else []),
        ]
        head = f"---\nname: {folder.partition('/')[2]}\ndescription: {said}\n---\n"
        yield f"{folder}/SKILL.md", encoded(head + "\n".join(lines) + "\n", notes)
        yield f"{folder}/{script}", encoded(str(tool["source_code"]), notes)
        yield f"{folder}/schema.json", json_bytes(schema)


def _judge(agent: Agent, notes: Counter[str]) -> None:
    """Count what has no place."""
    for note, count in (
        (MemoryNote.RULES, len(agent.row.get("tool_rules") or ())),
        (MemoryNote.IDENTITIES, len(agent.other.get("identities", ()))),
        (MemoryNote.GROUPS, len(agent.other.get("groups", ()))),
        (MemoryNote.MCP, len(agent.other.get("mcp_server", ()))),
        (MemoryNote.SECRETS, len(agent.secrets)),
        (MemoryNote.SLEEPTIME, bool(agent.row.get("enable_sleeptime"))),
        (MemoryNote.AUTOCLEAR, bool(agent.row.get("message_buffer_autoclear"))),
        (
            MemoryNote.HISTORY,
            agent.counts.get("steps", 0) + agent.counts.get("history of blocks", 0),
        ),
    ):
        if count:
            notes[note] += count


def _front(description: str) -> bytes:
    return encoded(f"---\ndescription: {_one_line(description) or 'Archival memory of V1'}\n---\n")


def _beginning(text: str) -> str:
    line = _one_line(text[:300])
    return line if len(line) <= 100 else f"{line[:100]}..."


def _one_line(text: Any) -> str:
    """Without what would end the line, or begin something in the front matter."""
    return " ".join(str(text or "").split()).lstrip("|>")
