"""Where things stand in the successor's store (letta-code 0.32, `local-store.ts`), and its formats."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

AGENTS, CONVERSATIONS, MEMFS = "agents", "conversations", "memfs"
CONVERSATION, MANIFEST, MESSAGES = "conversation.json", "manifest.json", "messages.jsonl"
SCHEMA_VERSION, MESSAGE_FORMAT, PROVIDER_STACK = 2, "pi-session-entry-jsonl", "pi-ai"
SESSION_VERSION = 3
LOCAL = "agent-local-"  # by this beginning the successor knows an agent of this machine
RECORD = "letta-v1.json"  # ours: of what an agent was made
VECTORS = "letta-v1-vectors.jsonl"
SECRETS = "secrets/local-agent-secrets.json"
OWN = (AGENTS, CONVERSATIONS, MEMFS)


def local_id(identifier: str) -> str:
    """`agent-UUID` of V1 as the successor's id."""
    return identifier if identifier.startswith(LOCAL) else LOCAL + identifier.removeprefix("agent-")


def segment(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def agent_file(agent: str) -> str:
    return f"{AGENTS}/{segment(agent)}.json"


def conversation_folder(agent: str, conversation: str | None) -> str:
    """`conversation` is None for the main one."""
    key = f"default:{agent}" if conversation is None else f"conversation:{conversation}"
    return f"{CONVERSATIONS}/{segment(key)}"


def memory_folder(agent: str) -> str:
    return f"{MEMFS}/{agent}/memory"


def vectors_file(agent: str) -> str:
    return f"{MEMFS}/{agent}/{VECTORS}"


def record_file(agent: str) -> str:
    return f"{MEMFS}/{agent}/{RECORD}"


def make_private(folder: Path) -> None:
    """Make `folder` and what is missing above it, for this account alone: a store holds what was said."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def new_file(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A file, and the folder for it, that are this account's alone before there is anything in them."""
    make_private(path.parent)
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        yield file


def agent_ids(store: Path) -> set[str]:
    """The agents that a store holds, by the names of their files."""
    return {
        base64.urlsafe_b64decode(path.stem + "=" * (-len(path.stem) % 4)).decode(errors="replace")
        for path in (store / AGENTS).glob("*.json")
        if not path.name.startswith("._")
    }
