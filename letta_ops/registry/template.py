"""Agents from a file: what one is made with, per user or per persona, and what a changed file changes.

What the agent has made of its own memory is never written over: a block is changed only while it still
says what the template said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from letta_ops.registry.errors import TemplateWrong
from letta_ops.registry.links import TAG, Key, shown

if TYPE_CHECKING:
    from letta_ops.registry.server import LettaServer

TEXTS = ("name", "description", "system", "model", "embedding")
# What an agent is made with, and what no server changes afterwards.
ONCE = ("agent_type", "include_base_tools")
LISTS = ("tools", "tags")
OF_BLOCK = {"label": str, "value": str, "description": str, "limit": int, "read_only": bool}
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Difference:
    """Something that a template says and the agent doesn't have. `kept`: why it stays as it is."""

    path: str  # `system`, `blocks.persona`, `tools`
    before: Any
    after: Any
    kept: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {_brief(self.before)} -> {_brief(self.after)}"
        return f"{text} (stays: {self.kept})" if self.kept else text


@dataclass(frozen=True)
class Template:
    """What agents are made with, checked, with its `{placeholders}`.

    `{app}` and `{app_agent_id}` are always there; `{{` is a brace.
    """

    content: Mapping[str, Any]
    source: str = "the template"

    @classmethod
    def of(cls, content: Any, source: str = "the template") -> Template:
        """Raises TemplateWrong with every problem."""
        if problems := list(_problems(content)):
            listing = "\n".join(f"  - {each}" for each in problems)
            raise TemplateWrong(f"{source}: {len(problems)} problem(s)\n{listing}", HINT)
        return cls(content, source)

    @classmethod
    def read(cls, file: Path) -> Template:
        """Read YAML. Raises TemplateWrong."""
        import yaml

        try:
            return cls.of(yaml.safe_load(file.read_text(encoding="utf-8-sig")), str(file))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise TemplateWrong(f"{file} can't be read: {reason}", "correct the path") from None
        except yaml.YAMLError as error:
            raise TemplateWrong(f"{file} is not YAML: {error}", HINT) from None

    def filled(self, key: Key, values: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What an agent of `key` is made with. Raises TemplateWrong for placeholders without a value."""
        known = {"app": key.app, "app_agent_id": key.id, **(values or {})}
        missing: set[str] = set()

        def text(found: re.Match[str]) -> str:
            if found[1] is None:
                return found[0][0]
            if found[1] not in known:
                missing.add(found[1])
            return known.get(found[1], "")

        def fill(value: Any) -> Any:
            if isinstance(value, str):
                return PLACEHOLDER.sub(text, value)
            if isinstance(value, Mapping):
                return {name: fill(each) for name, each in value.items()}
            return [fill(each) for each in value] if isinstance(value, list) else value

        made: dict[str, Any] = fill(self.content)
        if missing:
            names = ", ".join(f"{{{name}}}" for name in sorted(missing))
            raise TemplateWrong(
                f"{self.source} has placeholders without a value: {names}",
                "give each (`--set NAME=VALUE`); a brace itself is written twice",
            )
        return made


HINT = (
    "a template is YAML with name, description, system, model, embedding, agent_type, tools, tags,"
    " include_base_tools, and blocks with label, value, description, limit, read_only"
)


def body_of(key: Key, wanted: Mapping[str, Any] | None, server: LettaServer) -> dict[str, Any]:
    """What the server is asked to make for `key`; `wanted` is a template that was filled in."""
    wanted = wanted or {}
    body = {name: wanted[name] for name in (*TEXTS, *ONCE, "tools") if name in wanted}
    if "blocks" in wanted:
        body["memory_blocks"] = wanted["blocks"]
    if "model" not in body or "embedding" not in body:
        model, embedding = server.first_models()
        body = {"model": model, **({"embedding": embedding} if embedding else {}), **body}
    body.setdefault("name", key.agent_name)
    return body | {"tags": [*wanted.get("tags", ()), key.tag], "metadata": key.metadata}


def differences(
    applied: Mapping[str, Any] | None, wanted: Mapping[str, Any], agent: Mapping[str, Any]
) -> list[Difference]:
    """What `wanted` says otherwise than `applied`, the template that was applied last (None: none was),
    and the `agent` as the server tells it doesn't have."""
    if applied == wanted:
        return []
    before = applied or {}
    new = [name for name in (*TEXTS, *ONCE) if name in wanted and wanted[name] != before.get(name)]
    found = [
        Difference(name, _has(agent, name), wanted[name])
        for name in new
        if name in TEXTS and wanted[name] != _has(agent, name)
    ]
    found += [
        Difference(name, before.get(name), wanted[name], "only a new agent can have it")
        for name in new
        if name in ONCE and applied is not None
    ]
    for name in LISTS:
        there = [
            each["name"] if isinstance(each, Mapping) else each for each in agent.get(name) or ()
        ]
        more = [each for each in wanted.get(name, ()) if each not in there]
        less = [
            each
            for each in before.get(name, ())
            if each not in wanted.get(name, ()) and each in there
        ]
        if more or less:
            found.append(Difference(name, less, more))
    return [*found, *_of_blocks(before, wanted, agent)]


def apply(
    server: LettaServer,
    agent: Mapping[str, Any],
    found: list[Difference],
    wanted: Mapping[str, Any],
) -> None:
    """Make the agent what `wanted` says, as far as that was `found` to differ and may change."""
    identifier, changes = agent["id"], [each for each in found if not each.kept]
    blocks = {each["label"]: each for each in wanted.get("blocks", ())}
    there = {each["label"] for each in _blocks(agent)}
    texts = {each.path: each.after for each in changes if each.path in TEXTS}
    for each in changes:
        if each.path == "tags":
            kept = [tag for tag in agent.get("tags") or () if tag not in each.before]
            texts["tags"] = [*kept, *each.after]
        elif each.path == "tools":
            for name in each.after:
                server.attach_tool(identifier, name)
            for name in each.before:
                server.detach_tool(identifier, name)
        elif each.path.startswith("blocks."):
            block = blocks[each.path.removeprefix("blocks.")]
            if block["label"] in there:
                server.change_block(identifier, block["label"], block)
            else:
                server.add_block(identifier, block)
    if texts:
        server.change(identifier, texts)


def _of_blocks(
    before: Mapping[str, Any], wanted: Mapping[str, Any], agent: Mapping[str, Any]
) -> Iterator[Difference]:
    then = {each["label"]: each for each in before.get("blocks", ())}
    now = {each["label"]: each for each in _blocks(agent)}
    for block in wanted.get("blocks", ()):
        label = block["label"]
        has, said = now.get(label), then.get(label)
        if block == said:
            continue
        if has is None:
            yield Difference(f"blocks.{label}", None, block.get("value", ""))
            continue
        if all(has.get(name) == value for name, value in block.items()):
            continue
        own = said is None or has.get("value") != said.get("value", "")
        kept = "the agent has written there itself" if own else ""
        yield Difference(f"blocks.{label}", has.get("value"), block.get("value", ""), kept)


def _blocks(agent: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    memory = agent.get("memory") or {}
    return list(agent.get("blocks") or memory.get("blocks") or ())


def _has(agent: Mapping[str, Any], name: str) -> Any:
    if name == "model":
        return agent.get("model") or (agent.get("llm_config") or {}).get("handle")
    if name == "embedding":
        return agent.get("embedding") or (agent.get("embedding_config") or {}).get("handle")
    return agent.get(name)


def _problems(content: Any) -> Iterator[str]:
    if not isinstance(content, Mapping):
        yield "it holds no keys"
        return
    known = {**dict.fromkeys((*TEXTS, "agent_type"), str), "include_base_tools": bool}
    for name, value in content.items():
        if name in known:
            yield from _kind(str(name), value, known[name])
        elif name in LISTS:
            yield from _list(str(name), value)
        elif name == "blocks":
            yield from _block_problems(value)
        else:
            yield f"{shown(str(name))} is unknown"


def _block_problems(value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield "blocks must be a list"
        return
    labels = []
    for number, block in enumerate(value):
        if not isinstance(block, Mapping) or not isinstance(block.get("label"), str):
            yield f"blocks[{number}] has no label"
            continue
        labels.append(block["label"])
        for name, each in block.items():
            if name in OF_BLOCK:
                yield from _kind(f"blocks[{number}].{name}", each, OF_BLOCK[name])
            else:
                yield f"blocks[{number}].{name} is unknown"
        text, limit = block.get("value"), block.get("limit")
        if isinstance(text, str) and isinstance(limit, int) and len(text) > limit:
            yield f"blocks[{number}].value has {len(text)} characters, its limit is {limit}"
    for label in sorted({each for each in labels if labels.count(each) > 1}):
        yield f"blocks has {shown(label)} twice"


def _list(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        yield f"{name} must be a list of texts"
    elif any(each.startswith(TAG) for each in value):
        yield f"{name} has {TAG}, which marks the agents of this registry"


def _kind(name: str, value: Any, kind: type) -> Iterator[str]:
    # True is a whole number to Python.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        word = {str: "a text", int: "a whole number", bool: "true or false"}[kind]
        yield f"{name} must be {word}"


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else shown(str(value), 40)
