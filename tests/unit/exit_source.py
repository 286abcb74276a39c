"""A source of V1's agents that is made by hand, for tests of the way out."""

from __future__ import annotations

import datetime as dt
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from ops_cli.exit.v1 import Agent, Conversation, File, Passage

BEGUN = dt.datetime(2025, 3, 1, 10, 0, 0, 123456, tzinfo=dt.UTC)


def agent_id(number: int) -> str:
    return f"agent-{number:08d}-1111-4111-8111-111111111111"


def message(number: int, role: str, text: str | None = None, **more: Any) -> dict[str, Any]:
    """A row of V1's, as its database has it."""
    return {
        "id": f"message-{number:08d}-1111-4111-8111-111111111111",
        "role": role,
        "content": [] if text is None else [{"type": "text", "text": text}],
        "created_at": (BEGUN + dt.timedelta(minutes=number)).isoformat(),
        **more,
    }


def call(identifier: str, name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": identifier, "type": "function", "function": function}


def result(identifier: str, text: str, status: str = "success") -> dict[str, Any]:
    return {"tool_call_id": identifier, "status": status, "func_response": text}


def wrapped(kind: str, **more: Any) -> str:
    return json.dumps({"type": kind, "time": "2025-03-01 10:00:00 AM UTC+0000", **more})


TALK = (
    message(0, "system", "You are compiled."),
    message(1, "user", wrapped("user_message", message="the oldest word: pernambuco")),
    message(2, "assistant", "I should.", tool_calls=[call("call_1", "send_message", message="Hi")]),
    message(3, "tool", wrapped("x"), tool_call_id="call_1", tool_returns=[result("call_1", "None")]),
    message(4, "user", "roll two dice"),
    message(5, "assistant", None, tool_calls=[call("call_2", "roll", d=6), call("call_3", "roll", d=8)]),
    message(6, "tool", None, tool_returns=[result("call_2", "4"), result("call_3", "8", "error")]),
    message(7, "user", wrapped("heartbeat", reason="time goes by")),
    message(8, "assistant", "4 and 8 \u2028 東京"),
)  # fmt: skip


@dataclass
class HandMade:
    """`talks` are messages by conversation of each agent: by id, None for the main one."""

    talks: dict[tuple[str, str | None], Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    kept: dict[str, Agent] = field(default_factory=dict)
    archival: dict[str, Sequence[Passage]] = field(default_factory=dict)
    documents: dict[str, Sequence[File]] = field(default_factory=dict)
    history: Path | None = None
    name: str = "a source made by hand"

    def agents(self, wanted: Sequence[str] | None) -> Sequence[str]:
        for word in wanted or ():
            if word not in self.kept:
                raise LettaOpsError("agent-unknown", f"there is no agent '{word}'", "")
        return list(self.kept) if wanted is None else list(wanted)

    def agent(self, identifier: str) -> Agent:
        return self.kept[identifier]

    def messages(self, agent: Agent, conversation: Conversation) -> Iterator[Mapping[str, Any]]:
        return iter(self.talks[agent.id, conversation.id])

    def passages(self, agent: Agent) -> Iterator[Passage]:
        return iter(self.archival.get(agent.id, ()))

    def files(self, agent: Agent) -> Iterator[File]:
        return iter(self.documents.get(agent.id, ()))

    def secret_values(self, agent: Agent, key: Sensitive | None) -> Mapping[str, Sensitive]:
        del key
        return {name: Sensitive(f"value of {name}") for name in agent.secrets}

    @contextmanager
    def git_memory(self, agent: Agent) -> Iterator[Path | None]:
        del agent
        yield self.history

    def add(
        self,
        number: int = 1,
        talk: Sequence[Mapping[str, Any]] = TALK,
        window: Sequence[str] | None = None,
        talks: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        passages: Sequence[Passage] = (),
        files: Sequence[File] = (),
        **more: Any,
    ) -> Agent:
        identifier = agent_id(number)
        ids = [each["id"] for each in talk] if window is None else window
        row = {
            "id": identifier,
            "name": f"agent {number}",
            "system": "You are old.",
            "agent_type": "memgpt_v2_agent",
            "llm_config": {"handle": "openai-proxy/fake", "context_window": 32_000},
            "created_at": BEGUN.isoformat(),
        }
        made = Agent(
            row={**row, **more.pop("row", {})},
            conversations=(
                Conversation(None, {}, tuple(ids)),
                *(
                    Conversation(name, {"id": name, "created_at": BEGUN.isoformat()},
                                 tuple(each["id"] for each in rows))
                    for name, rows in (talks or {}).items()
                ),
            ),
            counts={"messages": len(talk), "passages": len(passages), "files": len(files)},
            **{"blocks": (block("human", "likes tea"), block("persona", "I am P")), **more},
        )  # fmt: skip
        self.kept[identifier] = made
        self.talks[identifier, None] = talk
        self.talks |= {(identifier, name): rows for name, rows in (talks or {}).items()}
        self.archival[identifier], self.documents[identifier] = passages, files
        return made


def block(label: str, value: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"block-{label}", "label": label, "value": value, "shared_with": [],
        "updated_at": BEGUN.isoformat(), **more,
    }  # fmt: skip


def passage(number: int, text: str = "", vector: Sequence[float] | None = (0.5, -0.25)) -> Passage:
    created = (BEGUN + dt.timedelta(days=number)).isoformat()
    numbers = None if vector is None else array("f", vector)
    return Passage(
        f"passage-{number}", text or f"Passage {number}", created, ("red",), "archive", {}, numbers
    )
