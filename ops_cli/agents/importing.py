"""Agent file -> agents, through the API; what a failed import leaves behind is removed again."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from ops_cli.agents.agent_file import AgentFile
from ops_cli.agents.import_plan import ImportChoices, Plan, make_plan
from ops_cli.agents.listing import PAGE, AgentSummary, every_agent, summary

if TYPE_CHECKING:
    from letta_client import APIStatusError, Letta

IMPORT_SECONDS = 600.0
MARK = "letta-ops-import:"


@dataclass(frozen=True)
class Imported:
    """The agents that an import made, in the order of the file."""

    agents: tuple[AgentSummary, ...]
    warnings: tuple[str, ...]


def plan_import(deployment: Deployment, file: AgentFile, choices: ImportChoices) -> Plan:
    """Say what `import_agents` would do. Raises LettaOpsError as `make_plan` does."""
    from infra.api import api

    with api(deployment) as client:
        return make_plan(client, file, choices)


def import_agents(deployment: Deployment, file: AgentFile, choices: ImportChoices) -> Imported:
    """Import the file. Names are kept, and tools that the server has are not overwritten unless
    `choices` say so (the server's own defaults are the opposite).

    Raises LettaOpsError as `make_plan` does; `import-failed` when the server refuses, after what
    it had made was removed; `import-unfinished` when it gave no answer.
    """
    from infra.api import api

    with api(deployment, IMPORT_SECONDS) as client:
        plan = make_plan(client, file, choices)
        # The server's import is no transaction. The mark tells its agents from all others, also
        # from those that somebody else makes at the same time.
        mark = MARK + uuid.uuid4().hex
        identifiers = _send(client, marked(plan.content, mark), choices, mark)
        agents, left = _unmark(client, identifiers, mark)
    return Imported(agents, (*plan.warnings, *left))


def marked(content: dict[str, Any], mark: str) -> dict[str, Any]:
    """Return a copy of an agent file's content whose agents carry the tag `mark`."""
    changed = copy.deepcopy(content)
    for agent in changed["agents"]:
        agent["tags"] = [*(agent.get("tags") or []), mark]
    return changed


def _send(client: Letta, content: dict[str, Any], choices: ImportChoices, mark: str) -> list[str]:
    import letta_client

    chosen = {"name": choices.name, "model": choices.model, "embedding": choices.embedding}
    before = _loose_blocks(client, content)
    try:
        answer = client.agents.import_file(
            file=("agent.af", json.dumps(content).encode(), "application/json"),
            append_copy_suffix=False,
            override_existing_tools=choices.override_tools,
            **{name: value for name, value in chosen.items() if value},  # type: ignore[arg-type]
        )
    except letta_client.AuthenticationError:
        raise
    except letta_client.APIStatusError as error:
        raise LettaOpsError(
            "import-failed",
            f"the server refused the import ({error.status_code}): {_reason(error)}"
            f"\n{_clean_up(client, content, before, mark)}",
            "correct the file; if it looks right, look at the server's log",
        ) from None
    except (letta_client.APIConnectionError, KeyboardInterrupt) as error:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else "no answer came"
        raise LettaOpsError(
            "import-unfinished",
            f"the import was sent, but {why}: the server may still be making the agents",
            f"see whether they came: `letta-ops agent list --tag {mark}`; if they did, delete them"
            " before you import the file again",
        ) from None
    return answer.agent_ids


def _unmark(
    client: Letta, identifiers: Iterable[str], mark: str
) -> tuple[tuple[AgentSummary, ...], tuple[str, ...]]:
    """Take the mark off the new agents. That failing is no reason to call the import failed."""
    import letta_client

    agents, warnings = [], []
    for identifier in identifiers:
        try:
            agent = client.agents.retrieve(identifier, include=["agent.tags"])
            tags = [tag for tag in agent.tags or [] if tag != mark]
            agents.append(summary(client.agents.update(identifier, tags=tags)))
        except letta_client.APIError as error:
            agents.append(AgentSummary(identifier, "", None, None, None, 0))
            warnings.append(f"{identifier} keeps the tag {mark}: {error}")
    return tuple(agents), tuple(warnings)


def _clean_up(client: Letta, content: dict[str, Any], before: set[str], mark: str) -> str:
    """Remove what a failed import made, its agents and their blocks, and say so."""
    import letta_client

    removed: list[str] = []
    try:
        for orphan in list(every_agent(client, tags=[mark])):
            client.agents.delete(orphan.id)
            removed.append(orphan.id)
        for block in sorted(_loose_blocks(client, content) - before):
            client.blocks.delete(block)
            removed.append(block)
    except letta_client.APIError as error:
        return (
            f"removed of it: {', '.join(removed) or 'nothing'}; the clean-up failed too: {error};"
            f" agents that remain have the tag {mark}"
        )
    tools = "; tools that it added stay" if content["tools"] else ""
    return f"removed what it left: {', '.join(removed) or 'nothing'}{tools}"


def _loose_blocks(client: Letta, content: dict[str, Any]) -> set[str]:
    """Ids of the blocks that say what a block of the file says, and that no agent has."""
    texts = {(block.get("label"), block.get("value")) for block in content["blocks"]}
    if not texts:
        return set()
    loose = client.blocks.list(connected_to_agents_count_eq=[0], limit=PAGE)
    return {block.id for block in loose if (block.label, block.value) in texts}


def _reason(error: APIStatusError) -> str:
    body = error.body
    return str(body.get("detail", body) if isinstance(body, dict) else body or error.message)[:500]
