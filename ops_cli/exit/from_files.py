"""Agents of V1 out of agent files (`.af`): what a file has of them, which is less than V1 had."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from ops_cli.agents.agent_file import read_agent_file
from ops_cli.exit.v1 import Agent, Conversation, File, Passage, as_dict, dicts, without_secrets

# Files have ids of their own (`agent-0`): of the same file always the same ones come of them.
NAMESPACE = uuid.UUID("6f0f5d2e-2f0c-5c52-9d1e-6c2a5f7b9a10")


class FileSource:
    """The agents of one agent file, which is read whole: it has no archival memory, and is small."""

    def __init__(self, path: Path) -> None:
        self.name = f"the agent file {path}"
        content = read_agent_file(path).content
        said = json.dumps(content, sort_keys=True)
        self._salt = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
        self._content = content
        agents = self._all("agents")
        self._given = {self._id("agent", str(each.get("id"))): each for each in agents}
        if len(self._given) != len(agents):
            raise LettaOpsError(
                "agent-file-broken",
                f"{path} has {len(agents)} agents with {len(self._given)} different ids",
                "give each of them an id of its own",
            )

    def agents(self, wanted: Sequence[str] | None) -> Sequence[str]:
        if wanted is None:
            return list(self._given)
        found: dict[str, None] = {}
        for word in wanted:
            matches = [
                identifier for identifier, each in self._given.items()
                if word in (identifier, each.get("id"), each.get("name"))
            ]  # fmt: skip
            if len(matches) != 1:
                raise LettaOpsError(
                    "agent-ambiguous" if matches else "agent-unknown",
                    f"{len(matches) or 'no'} agents of {self.name} are called '{word}'",
                    f"name one of {', '.join(self._given)}",
                )
            found[matches[0]] = None
        return list(found)

    def agent(self, identifier: str) -> Agent:
        given = self._given[identifier]
        blocks = self._by_id("blocks")
        tools = self._by_id("tools")
        used = {
            block: [
                self._id("agent", str(each.get("id"))) for each in self._all("agents")
                if each is not given and block in (each.get("block_ids") or ())
            ]
            for block in given.get("block_ids") or ()
        }  # fmt: skip
        inline = dicts(given.get("memory_blocks"))
        row = {
            key: value for key, value in given.items()
            if value not in (None, [], {})
            and key not in ("messages", "in_context_message_ids", "memory_blocks", "tags", "secrets",
                            "tool_exec_environment_variables")
        }  # fmt: skip
        window = [self._message_id(each) for each in given.get("in_context_message_ids") or ()]
        return Agent(
            row={**row, "id": identifier},
            tags=tuple(given.get("tags") or ()),
            blocks=(
                *({**blocks[each], "shared_with": used[each]} for each in used if each in blocks),
                *({**each, "shared_with": []} for each in inline),
            ),
            conversations=(Conversation(None, {}, tuple(window)),),
            tools=tuple(tools[each] for each in given.get("tool_ids") or () if each in tools),
            counts={"messages": len(given.get("messages") or ()), "files": len(self._files(given))},
            other={
                name: found
                for name in ("groups", "mcp_servers", "sources")
                if (found := [without_secrets(each) for each in self._all(name)])
            },
            secrets=tuple(sorted({
                *as_dict(given.get("tool_exec_environment_variables")),
                *as_dict(given.get("secrets")),
            })),
        )  # fmt: skip

    def messages(self, agent: Agent, conversation: Conversation) -> Iterator[Mapping[str, Any]]:
        del conversation  # a file has the main one only
        for each in dicts(self._given[agent.id].get("messages")):
            yield {**each, "id": self._message_id(each.get("id"))}

    def passages(self, agent: Agent) -> Iterator[Passage]:
        del agent  # a file has none
        return iter(())

    def files(self, agent: Agent) -> Iterator[File]:
        sources = self._by_id("sources")
        for each in self._files(self._given[agent.id]):
            source = sources.get(str(each.get("source_id")), {})
            name = each.get("original_file_name") or each.get("file_name") or each.get("id")
            yield File(
                str(each.get("id")), str(name), str(source.get("name") or "files"),
                str(each.get("content") or ""),
            )  # fmt: skip

    def secret_values(self, agent: Agent, key: Sensitive | None) -> Mapping[str, Sensitive]:
        del agent, key  # a file has their names only
        return {}

    @contextmanager
    def git_memory(self, agent: Agent) -> Iterator[Path | None]:
        del agent  # a file has none
        yield None

    def _files(self, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        known = self._by_id("files")
        wanted = [str(each.get("file_id")) for each in dicts(given.get("files_agents"))]
        return [known[each] for each in wanted if each in known]

    def _message_id(self, identifier: Any) -> str:
        return self._id("message", str(identifier))

    def _id(self, kind: str, identifier: str) -> str:
        """V1's own, where the file has them."""
        prefix, _, rest = identifier.partition("-")
        try:
            return f"{prefix}-{uuid.UUID(rest)}" if prefix == kind else self._made(kind, identifier)
        except ValueError:
            return self._made(kind, identifier)

    def _made(self, kind: str, identifier: str) -> str:
        return f"{kind}-{uuid.uuid5(NAMESPACE, f'{kind} {identifier} {self._salt}')}"

    def _all(self, section: str) -> list[dict[str, Any]]:
        return dicts(self._content.get(section))

    def _by_id(self, section: str) -> dict[str, dict[str, Any]]:
        return {str(each.get("id")): each for each in self._all(section)}
