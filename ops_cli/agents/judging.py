"""What an agent file must hold beyond the release's own schema, and what can be mended in it.

The server's import looks at less than it needs: it finds a missing message with half of the agent
made, silently loses a block, and takes an agent that can't answer. Every rule here is one of those.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ops_cli.agents.reading import Path, where

SECTIONS = ("agents", "groups", "blocks", "files", "sources", "tools", "mcp_servers")
# The only ids that the server's import takes, by section.
PREFIXES = {
    "agents": "agent", "groups": "group", "blocks": "block", "files": "file", "sources": "source",
    "tools": "tool", "mcp_servers": "mcp_server",
}  # fmt: skip
MESSAGES = "messages"
# Of an agent: the keys with ids, and what they are ids of.
REFERENCES = {"tool_ids": "tools", "block_ids": "blocks", "source_ids": "sources"}
WINDOW = "in_context_message_ids"
# Where ids of a section stand besides at its own entries: in which objects, and the key.
PLACES = {
    "agents": (("agents/messages", "agent_id"), ("agents/files_agents", "agent_id"),
               ("groups", "agent_ids"), ("groups/manager_config", "manager_agent_id")),
    "groups": (("agents", "group_ids"),),
    "blocks": (("agents", "block_ids"), ("groups", "shared_block_ids")),
    "files": (("agents/files_agents", "file_id"),),
    "sources": (("agents", "source_ids"), ("agents/files_agents", "source_id"), ("files", "source_id")),
    "tools": (("agents", "tool_ids"),),
    MESSAGES: (("agents", WINDOW), ("agents/messages", "approval_request_id")),
}  # fmt: skip

Entry = dict[str, Any]


@dataclass(frozen=True)
class Mends:
    """What the person allows or asks for. `last_messages` is how many of them an agent whose context
    is empty begins with."""

    last_messages: int = 0
    allow_commands: bool = False


@dataclass
class Judgement:
    """`problems` keep the file from being imported; `notes` say what was mended, or what is odd."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judge(content: dict[str, Any], mends: Mends) -> Judgement:
    """Look at everything that we know of, and mend `content` where nothing is lost by it.

    What is not of the kind that the schema wants is left to the release's own judge.
    """
    found = Judgement()
    found.problems += _missing_sections(content)
    found.problems += _ids_twice(content)
    found.problems += _references(content)
    if not found.problems:
        found.notes += _number_anew(content)
    for rule in (_labels, _tool_names):
        found.problems += rule(content)
    found.notes += _source_types(content)
    found.notes += _groups(content)
    found.notes += _commands(content, mends)
    found.notes += _contexts(content, mends)
    for hint in (_limits, _rules, _approvals, _identities, _skills):
        found.notes += hint(content)
    return found


def of_wrong_kind(content: dict[str, Any]) -> list[str]:
    """What the schema would say first, for where no release is within reach to be asked."""
    found = []
    for section in SECTIONS:
        listed = content.get(section)
        if section in content and not isinstance(listed, list):
            found.append(f"{section} is not a list")
        for number, entry in enumerate(listed if isinstance(listed, list) else ()):
            if not isinstance(entry, dict):
                found.append(f"{section}[{number}] is not an object")
            elif section == "agents" and not isinstance(entry.get("name"), str):
                found.append(f"agents[{number}] has no name")
    return found


def entries(content: Any, section: str) -> Iterator[tuple[Path, Entry]]:
    """The objects of a list, with their paths; anything else is left out."""
    listed = content.get(section) if isinstance(content, dict) else None
    for number, entry in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(entry, dict):
            yield (section, number), entry


def messages(agent: Entry) -> list[Entry]:
    return [message for _, message in entries(agent, MESSAGES)]


def _texts(entry: Any, key: str) -> list[str]:
    value = entry.get(key) if isinstance(entry, dict) else None
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _missing_sections(content: dict[str, Any]) -> Iterator[str]:
    for section in SECTIONS:
        if section not in content:
            yield f"{section} is missing"
    if content.get("agents") == []:
        yield "agents is empty"


def _identified(content: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Every id that the file gives, with its path."""
    for section in SECTIONS:
        for path, entry in entries(content, section):
            if isinstance(entry.get("id"), str):
                yield (*path, "id"), entry["id"]
    for path, agent in entries(content, "agents"):
        for below, message in entries(agent, MESSAGES):
            if isinstance(message.get("id"), str):
                yield (*path, *below, "id"), message["id"]


def _ids_twice(content: dict[str, Any]) -> Iterator[str]:
    first: dict[str, Path] = {}
    for path, identifier in _identified(content):
        if identifier in first:
            yield f"{where(path)} is {identifier!r}, as {where(first[identifier])} is"
        first.setdefault(identifier, path)


def _references(content: dict[str, Any]) -> Iterator[str]:
    """An id that is nowhere is a KeyError of the server, with half of the agents made."""
    known = {section: _ids(content, section) for section in SECTIONS}
    for path, agent in entries(content, "agents"):
        if isinstance(agent.get("folder_ids"), list):
            # The server maps the ids of `source_ids` only, and then prefers these.
            agent["source_ids"] = agent["folder_ids"] or agent.get("source_ids")
            agent["folder_ids"] = None
        for key, section in REFERENCES.items():
            yield from _nowhere(path, agent, key, known[section], section)
        own = {message.get("id") for message in messages(agent)}
        yield from _nowhere(path, agent, WINDOW, own, f"{where(path)}.{MESSAGES}")
        for below, link in entries(agent, "files_agents"):
            yield from _unknown((*path, *below), link, "file_id", known["files"], "files")
            yield from _unknown((*path, *below), link, "source_id", known["sources"], "sources")
            yield from _unknown((*path, *below), link, "agent_id", {agent.get("id")}, "this agent")
    for path, file in entries(content, "files"):
        yield from _unknown(path, file, "source_id", known["sources"], "sources")
    for path, group in entries(content, "groups"):
        yield from _nowhere(path, group, "agent_ids", known["agents"], "agents")
        manager = group.get("manager_config")
        if isinstance(manager, dict) and manager.get("manager_agent_id"):
            below = (*path, "manager_config")
            yield from _unknown(below, manager, "manager_agent_id", known["agents"], "agents")


def _ids(content: dict[str, Any], section: str) -> set[Any]:
    return {entry.get("id") for _, entry in entries(content, section)}


def _nowhere(path: Path, entry: Entry, key: str, known: set[Any], place: str) -> Iterator[str]:
    for number, identifier in enumerate(entry.get(key) or () if _is_list(entry, key) else ()):
        if isinstance(identifier, str) and identifier not in known:
            yield f"{where((*path, key, number))} is {identifier!r}, which {place} does not hold"


def _unknown(path: Path, entry: Entry, key: str, known: set[Any], place: str) -> Iterator[str]:
    identifier = entry.get(key)
    if isinstance(identifier, str) and identifier not in known:
        yield f"{where((*path, key))} is {identifier!r}, which is not in {place}"


def _is_list(entry: Entry, key: str) -> bool:
    return isinstance(entry.get(key), list)


def _number_anew(content: dict[str, Any]) -> Iterator[str]:
    """Give ids that the server's import takes, where the file has some of another kind."""
    changed: Counter[str] = Counter()
    for section in SECTIONS:
        changed[section] = _renumber(content, section, entries(content, section), PREFIXES[section])
    every = (item for _, agent in entries(content, "agents") for item in entries(agent, MESSAGES))
    changed[MESSAGES] = _renumber(content, MESSAGES, every, "message")
    counted = [f"{count} {section}" for section, count in changed.items() if count]
    if counted:
        yield (
            f"ids were numbered anew, since the server takes only such as agent-0: of"
            f" {', '.join(counted)}"
        )


def _renumber(
    content: dict[str, Any], section: str, found: Iterable[tuple[Path, Entry]], prefix: str
) -> int:
    given = [entry for _, entry in found if isinstance(entry.get("id"), str)]
    if all(re.fullmatch(rf"{prefix}-\d+", entry["id"]) for entry in given):
        return 0
    new = {entry["id"]: f"{prefix}-{number}" for number, entry in enumerate(given)}
    for entry in given:
        entry["id"] = new[entry["id"]]
    for place, key in PLACES.get(section, ()):
        for holder in _holders(content, place):
            value = holder.get(key)
            if isinstance(value, list):
                named = [new.get(each, each) if isinstance(each, str) else each for each in value]
                holder[key] = named
            elif isinstance(value, str):
                holder[key] = new.get(value, value)
    return len(given)


def _holders(content: dict[str, Any], place: str) -> Iterator[Entry]:
    """The objects of a list; with `agents/messages` those of the lists in them."""
    section, _, below = place.partition("/")
    for _, entry in entries(content, section):
        if not below:
            yield entry
        elif isinstance(entry.get(below), dict):
            yield entry[below]
        else:
            yield from (child for _, child in entries(entry, below))


def _labels(content: dict[str, Any]) -> Iterator[str]:
    """Of two blocks with one label in an agent the server keeps one, or fails."""
    blocks = {block.get("id"): block for _, block in entries(content, "blocks")}
    for path, agent in entries(content, "agents"):
        seen: dict[str, tuple[Path, Entry]] = {}
        given = [
            ((*path, "block_ids", number), blocks[identifier])
            for number, identifier in enumerate(_texts(agent, "block_ids"))
            if identifier in blocks
        ]
        inline = [((*path, *below), block) for below, block in entries(agent, "memory_blocks")]
        for place, block in (*given, *inline):
            label = block.get("label")
            if not isinstance(label, str):
                continue
            if label not in seen:
                seen[label] = place, block
                continue
            other, first = seen[label]
            if block.get("value") == first.get("value") and place[2] == "memory_blocks":
                agent["memory_blocks"] = [
                    each for each in agent["memory_blocks"] if each is not block
                ]
                continue  # it says the same: the one by id stays
            same = "the same value" if block.get("value") == first.get("value") else "another value"
            yield (
                f"{where(place)} has the label {label!r} with {same}, as {where(other)} has:"
                " an agent has one block of a label"
            )


def _tool_names(content: dict[str, Any]) -> Iterator[str]:
    """The server tells the tools of a file apart by their names."""
    first: dict[str, Path] = {}
    for path, tool in entries(content, "tools"):
        name = tool.get("name")
        if isinstance(name, str) and name in first:
            yield f"{where((*path, 'name'))} is {name!r}, as {where(first[name])} is"
        elif isinstance(name, str):
            first[name] = (*path, "name")


def _source_types(content: dict[str, Any]) -> Iterator[str]:
    """The database wants to know in which language a tool is written; for long there was only one."""
    for path, tool in entries(content, "tools"):
        if tool.get("source_code") and not tool.get("source_type"):
            tool["source_type"] = "python"
            yield f"{where((*path, 'source_type'))} was missing: it is taken for python"


def _groups(content: dict[str, Any]) -> Iterator[str]:
    for path, group in entries(content, "groups"):
        if group.get("shared_block_ids"):
            # The import doesn't map them: it would fail with the agents made.
            group["shared_block_ids"] = []
            yield f"{where(path)} shares blocks, which no import carries: attach them afterwards"


def _commands(content: dict[str, Any], mends: Mends) -> Iterator[str]:
    """A server that is a command runs on the Letta server's machine, as whoever wrote it likes."""
    kept = []
    for path, server in entries(content, "mcp_servers"):
        command = _command(server)
        if command is None:
            kept.append(server)
            continue
        what = (
            f"{where(path)} ({server.get('server_name')}) runs a command on the server: {command}"
        )
        if mends.allow_commands:
            kept.append(server)
            yield f"{what}; it is taken, as --allow-commands says"
        else:
            yield f"{what}; it is not taken (--allow-commands takes it)"
    if _is_list(content, "mcp_servers") and len(kept) < len(content["mcp_servers"]):
        others = [entry for entry in content["mcp_servers"] if not isinstance(entry, dict)]
        content["mcp_servers"] = kept + others


def _command(server: Entry) -> str | None:
    configured = server.get("stdio_config")
    if server.get("server_type") != "stdio" and not configured:
        return None
    if not isinstance(configured, dict):
        return "(not said which)"
    words = [configured.get("command"), *_texts(configured, "args")]
    return " ".join(str(word) for word in words if word is not None)


def _contexts(content: dict[str, Any], mends: Mends) -> Iterator[str]:
    """An agent without a system message in its context imports, and its first message fails."""
    numbers = [
        int(found[1])
        for _, identifier in _identified(content)
        if (found := re.fullmatch(r"message-(\d{1,9})", identifier))
    ]
    free = max(numbers, default=-1) + 1
    for path, agent in entries(content, "agents"):
        if WINDOW in agent and not _is_list(agent, WINDOW):
            continue
        if MESSAGES in agent and not _is_list(agent, MESSAGES):
            continue
        window = _texts(agent, WINDOW)
        by_id = {message.get("id"): message for message in messages(agent)}
        if window and by_id.get(window[0], {}).get("role") == "system":
            continue
        was_empty = not window
        system = next((each for each in by_id.values() if each.get("role") == "system"), None)
        if system is None:
            system = _system_message(agent, f"message-{free}")
            free += 1
            agent[MESSAGES] = [system, *(agent.get(MESSAGES) or [])]
            how = "one was made of its system prompt"
        else:
            how = f"{system.get('id')} was put back"
        last = _last(agent, mends.last_messages) if was_empty else []
        agent[WINDOW] = [system["id"], *(each for each in window + last if each != system["id"])]
        state = "is empty" if was_empty else "does not begin with a system message"
        more = f", with the last {len(last)} message(s)" if last else ""
        hint = (
            " (--last-messages N puts the last ones back, too)"
            if was_empty and not last and len(by_id) > 1
            else ""
        )
        yield f"{where((*path, WINDOW))} {state}, so it couldn't answer: {how}{more}{hint}"


def _system_message(agent: Entry, identifier: str) -> Entry:
    text = agent.get("system") if isinstance(agent.get("system"), str) else ""
    return {
        "type": "message", "id": identifier, "role": "system", "agent_id": agent.get("id"),
        "content": [{"type": "text", "text": text or "You are a helpful assistant."}],
    }  # fmt: skip


def _last(agent: Entry, count: int) -> list[str]:
    """The ids of the last `count` messages, from one of a person's on: a model wants no less."""
    if count <= 0:
        return []
    talk = [message for message in messages(agent) if message.get("role") != "system"][-count:]
    while talk and talk[0].get("role") != "user":
        talk.pop(0)
    return [message["id"] for message in talk if isinstance(message.get("id"), str)]


def _limits(content: dict[str, Any]) -> Iterator[str]:
    for path, block in entries(content, "blocks"):
        value, limit = block.get("value"), block.get("limit")
        if isinstance(value, str) and isinstance(limit, int) and len(value) > limit:
            yield (
                f"{where(path)} ({block.get('label')}) has {len(value)} characters, its limit is"
                f" {limit}: it comes whole, and the agent can't write to it until it is shorter"
            )


def _rules(content: dict[str, Any]) -> Iterator[str]:
    tools = {tool.get("id"): tool.get("name") for _, tool in entries(content, "tools")}
    for path, agent in entries(content, "agents"):
        named = {tools.get(identifier) for identifier in _texts(agent, "tool_ids")}
        named |= set(_texts(agent, "tools"))
        for below, rule in entries(agent, "tool_rules"):
            wanted = [("tool_name", rule.get("tool_name"))]
            wanted += [("children", child) for child in _texts(rule, "children")]
            for key, name in wanted:
                if isinstance(name, str) and name and name not in named:
                    place = where((*path, *below, key))
                    yield f"{place} names the tool {name!r}, which the agent has not"


def _approvals(content: dict[str, Any]) -> Iterator[str]:
    for path, agent in entries(content, "agents"):
        by_id = {message.get("id"): message for message in messages(agent)}
        window = _texts(agent, WINDOW)
        last = by_id.get(window[-1], {}) if window else {}
        if last.get("role") == "approval" and last.get("tool_calls"):
            yield (
                f"{where(path)} waits for somebody to approve a tool call ({last.get('id')}): until"
                " then it answers nothing else"
            )


def _identities(content: dict[str, Any]) -> Iterator[str]:
    for path, agent in entries(content, "agents"):
        if agent.get("identity_ids"):
            # The server would look for these ids, and fail.
            agent["identity_ids"] = None
            yield f"{where(path)} names identities, which no agent file carries: attach them afterwards"


def _skills(content: dict[str, Any]) -> Iterator[str]:
    names = [str(skill.get("name")) for _, skill in entries(content, "skills")]
    if names:
        yield f"skills are not taken, since the server has no place for them: {', '.join(names)}"
