"""Can a server that reaches no model work with its data? An agent is made, changed and deleted."""

from __future__ import annotations

import secrets
from typing import Any

from backups.verdicts import FAILED, PASSED, CheckResult
from healthchecks.through_api import Served
from infra.api import api

WRITING = "writing"
LABEL = "human"
# Nobody is asked at these: to make an agent, a server only keeps what it is told of its models.
NOWHERE = "http://127.0.0.1:9/v1"
LLM = {
    "model": "none", "model_endpoint_type": "openai", "model_endpoint": NOWHERE,
    "context_window": 8192,
}  # fmt: skip
EMBEDDING = {
    "embedding_model": "none", "embedding_endpoint_type": "openai", "embedding_endpoint": NOWHERE,
    "embedding_dim": 1536, "embedding_chunk_size": 300,
}  # fmt: skip


def judge_writing(served: Served) -> CheckResult:
    """Make an agent, change its block, read it back, export and delete it. Raises LettaOpsError."""
    name = f"letta-ops-writing-{secrets.token_hex(4)}"
    marker = secrets.token_hex(8)
    with api(served.server) as client:
        agent = client.agents.create(
            name=name,
            llm_config=LLM,  # type: ignore[arg-type]  # what the server asks for is less
            embedding_config=EMBEDDING,  # type: ignore[arg-type]
            memory_blocks=[{"label": LABEL, "value": "nothing yet"}],
        )
        try:
            client.agents.blocks.update(LABEL, agent_id=agent.id, value=marker)
            found = client.agents.blocks.retrieve(LABEL, agent_id=agent.id).value
            exported: Any = client.agents.export_file(agent.id)
        finally:
            client.agents.delete(agent.id)
    if found != marker:
        return CheckResult(WRITING, FAILED, "a block that was changed is not what was written")
    if marker not in str(exported):
        return CheckResult(WRITING, FAILED, "an agent's file doesn't hold what was just written")
    return CheckResult(WRITING, PASSED, "an agent was made, changed, exported and deleted")
