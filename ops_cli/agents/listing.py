"""Finding agents: all of them, page by page, or one by its id or unique name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError

if TYPE_CHECKING:
    from letta_client import Letta
    from letta_client.types import AgentState

PAGE = 200  # the server refuses more
AGENT_ID = re.compile(r"agent-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Some agents are hidden from lists by default; who keeps a server has to see them too.
SHOW_HIDDEN = {"show_hidden_agents": "true"}


@dataclass(frozen=True)
class AgentSummary:
    """One line of the list. `messages` counts those in the context window."""

    id: str
    name: str
    type: str | None
    model: str | None
    created: str | None  # ISO 8601
    messages: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def every_agent(client: Letta, **filters: Any) -> Iterator[AgentSummary]:
    """Yield every agent that the filters let through, oldest first.

    `filters` are those of the list endpoint: `name` (exact), `tags`.
    """
    pages = client.agents.list(limit=PAGE, order="asc", extra_query=dict(SHOW_HIDDEN), **filters)
    for agent in pages:
        yield summary(agent)


def find_agent(client: Letta, wanted: str) -> AgentSummary:
    """Return the agent with this id, or the only one with this name.

    Raises LettaOpsError: `agent-unknown`, or `agent-ambiguous` with the ids to choose from.
    """
    import letta_client

    if AGENT_ID.fullmatch(wanted):
        try:
            return summary(client.agents.retrieve(wanted))
        except letta_client.NotFoundError:
            raise _unknown(wanted) from None
    found = [agent for agent in every_agent(client, name=wanted) if agent.name == wanted]
    if not found:
        raise _unknown(wanted)
    if len(found) > 1:
        listing = "\n".join(f"  {agent.id}  created {agent.created}" for agent in found)
        raise LettaOpsError(
            "agent-ambiguous",
            f"{len(found)} agents have the name '{wanted}':\n{listing}",
            "name one of them by its id",
        )
    return found[0]


def summary(agent: AgentState) -> AgentSummary:
    """Keep of an agent what a list tells."""
    configured = agent.llm_config.handle if agent.llm_config else None
    return AgentSummary(
        id=agent.id,
        name=agent.name,
        type=str(agent.agent_type) if agent.agent_type else None,
        model=agent.model or configured,
        created=agent.created_at.isoformat() if agent.created_at else None,
        messages=len(agent.message_ids or []),
    )


def _unknown(wanted: str) -> LettaOpsError:
    return LettaOpsError(
        "agent-unknown",
        f"there is no agent '{wanted}' on this server",
        "`letta-ops agent list` shows the agents with their ids",
    )
