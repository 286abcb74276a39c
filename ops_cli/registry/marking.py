"""For which id an agent is made: the marks that an agent file is given, or must not carry along."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from letta_ops.registry.links import OF_KEY, TAG, Key
from ops_cli.agents.judging import entries

if TYPE_CHECKING:
    from ops_cli.agents.agent_file import AgentFile


def marked_for(file: AgentFile, key: Key) -> AgentFile:
    """The file, its one agent marked as one that is being made for `key`."""
    content = copy.deepcopy(file.content)
    for _, agent in entries(content, "agents"):
        tags = [tag for tag in agent.get("tags") or () if not str(tag).startswith(TAG)]
        agent["tags"] = [*tags, key.unfinished_tag]
        metadata = agent.get("metadata") or {}
        agent["metadata"] = {k: v for k, v in metadata.items() if k != OF_KEY}
    return replace(file, content=content)
