"""What an agent of V1 is, wherever it comes from: the port that every source has."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from infra.sensitive import Sensitive

# Kinds of agents whose text beside a tool call is what they think, not what they say.
SPEAKS_PLAINLY = ("letta_v1_agent", "react_agent", "workflow_agent", "split_thread_agent")
# Columns and keys that may hold a secret, beside those that end in `_enc`.
SECRET = ("token", "custom_headers", "stdio_config", "env", "value", "api_key", "access_key")
CUSTOM = "custom"  # a tool whose code is the user's


def json_object(value: Any) -> dict[str, Any] | None:
    """The JSON object that a text is, or that is one already; None for anything else, and for what only
    Python takes for JSON (`NaN`), or has no number for (`1e999`)."""
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_refused, parse_float=_finite)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _finite(word: str) -> float:
    number = float(word)
    return number if math.isfinite(number) else _refused(word)


def dicts(value: Any) -> list[dict[str, Any]]:
    """The objects of what should be a list of them: files are written by hand, too."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def without_secrets(row: Mapping[str, Any], keep: Sequence[str] = ()) -> dict[str, Any]:
    """A row without what may be a secret, but for what to `keep`, and without what is empty."""
    return {
        key: value
        for key, value in row.items()
        if value not in (None, [], {})
        and not key.endswith("_enc")
        and (key not in SECRET or key in keep)
    }


@dataclass(frozen=True)
class Conversation:
    """`id` is None for an agent's main one, which V1 keeps without a row; `in_context` are messages."""

    id: str | None
    row: Mapping[str, Any]
    in_context: tuple[str, ...]


@dataclass(frozen=True)
class Agent:
    """An agent without what may be large. Rows are as V1's tables have them, `metadata_` and all.

    `blocks` have `shared_with` (other agents' ids) and, where one stands in a conversation only,
    `conversation_id`. `counts` are of messages, passages and files; `other` is what the successor has
    no place for, by table, without any secret.
    """

    row: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    blocks: tuple[Mapping[str, Any], ...] = ()
    conversations: tuple[Conversation, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    other: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()  # the names of its tools' secrets

    @property
    def id(self) -> str:
        return str(self.row["id"])

    @property
    def name(self) -> str:
        return str(self.row.get("name") or "")

    @property
    def model(self) -> str:
        """The handle of its model, as V1 writes it: PROVIDER/MODEL."""
        config = as_dict(self.row.get("llm_config"))
        return str(config.get("handle") or config.get("model") or self.row.get("model") or "")

    @property
    def thinks_in_text(self) -> bool:
        """Whether text beside a tool call is its inner monologue (agents of MemGPT's kind)."""
        return (self.row.get("agent_type") or "memgpt_agent") not in SPEAKS_PLAINLY


@dataclass(frozen=True)
class Passage:
    """One of archival memory; `vector` has the dimensions of its model, without V1's padding."""

    id: str
    text: str
    created_at: str
    tags: tuple[str, ...]
    archive: str
    metadata: Mapping[str, Any]
    vector: array[float] | None  # of 32 bits


@dataclass(frozen=True)
class File:
    """A file of a source, as the text that V1 made of it."""

    id: str
    name: str
    source: str
    text: str


class Source(Protocol):
    """Agents of V1. All that is yielded is of one moment."""

    name: str  # for people

    def agents(self, wanted: Sequence[str] | None) -> Sequence[str]:
        """The ids of those wanted (ids, or names that one has); None: of all.

        Raises LettaOpsError: `agent-unknown`, `agent-ambiguous`."""

    def agent(self, identifier: str) -> Agent: ...

    def messages(self, agent: Agent, conversation: Conversation) -> Iterator[Mapping[str, Any]]:
        """The rows of its messages, in V1's order."""

    def passages(self, agent: Agent) -> Iterator[Passage]: ...

    def files(self, agent: Agent) -> Iterator[File]: ...

    def secret_values(self, agent: Agent, key: Sensitive | None) -> Mapping[str, Sensitive]:
        """The secrets of its tools by name, opened with `key`, else with the key that the source knows.

        Raises LettaOpsError: `secret-unreadable`."""

    def git_memory(self, agent: Agent) -> AbstractContextManager[Path | None]:
        """A folder with the agent's bare repository, where it has git memory."""
