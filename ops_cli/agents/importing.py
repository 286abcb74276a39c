"""Agent file -> agents, through the API; what a failed import leaves behind is removed again."""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from ops_cli.agents.agent_file import AgentFile
from ops_cli.agents.checking import Checked, check
from ops_cli.agents.import_plan import ImportChoices, Plan, PlannedTool, make_plan
from ops_cli.agents.listing import PAGE, AgentSummary, every_agent, summary

if TYPE_CHECKING:
    from letta_client import APIStatusError, Letta

IMPORT_SECONDS = 600.0
MARK = "letta-ops-import:"


@dataclass(frozen=True)
class Imported:
    """The agents that an import made, in the order of the file."""

    agents: tuple[AgentSummary, ...]
    tools: tuple[PlannedTool, ...]
    warnings: tuple[str, ...]


def plan_import(deployment: Deployment, file: AgentFile, choices: ImportChoices) -> Plan:
    """Say what `import_agents` would do. Raises LettaOpsError as `check` and `make_plan` do."""
    from infra.api import api

    checked = _checked(deployment, file, choices)
    with api(deployment) as client:
        plan = make_plan(client, checked.file, choices)
    return replace(plan, warnings=(*checked.notes, *plan.warnings))


def import_agents(deployment: Deployment, file: AgentFile, choices: ImportChoices) -> Imported:
    """Import it. Names are kept, and tools that the server has are not overwritten unless
    `choices` say so (the server's own defaults are the opposite).

    Raises LettaOpsError as `check` and `make_plan` do; `import-failed` when the server refuses, after
    what it had made was removed; `import-unfinished` when it gave no answer.
    """
    from infra.api import api

    checked = _checked(deployment, file, choices)
    with api(deployment, IMPORT_SECONDS) as client:
        plan = make_plan(client, checked.file, choices)
        # The server's import is no transaction. The mark tells its agents from all others, also
        # from those that somebody else makes at the same time.
        mark = MARK + uuid.uuid4().hex
        identifiers = _send(client, marked(plan.content, mark), choices, mark)
        agents, left = _unmark(client, identifiers, mark)
    return Imported(agents, plan.tools, (*checked.notes, *plan.warnings, *left))


def _checked(deployment: Deployment, file: AgentFile, choices: ImportChoices) -> Checked:
    return check(
        deployment, file, choices.mends, name=choices.name, replace_nul=choices.replace_nul
    )


def marked(content: dict[str, Any], mark: str) -> dict[str, Any]:
    """Return a copy of an agent file's content whose agents carry the tag `mark`."""
    changed = copy.deepcopy(content)
    for agent in changed["agents"]:
        agent["tags"] = [*(agent.get("tags") or []), mark]
    return changed


def _send(client: Letta, content: dict[str, Any], choices: ImportChoices, mark: str) -> list[str]:
    import letta_client

    chosen = {"model": choices.model, "embedding": choices.embedding}
    before = Before.of(client, content)
    try:
        answer = client.agents.import_file(
            file=("agent.af", json.dumps(content).encode(), "application/json"),
            append_copy_suffix=False,
            override_existing_tools=choices.overwrite_tools,
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


@dataclass(frozen=True)
class Before:
    """What the server had that an import of a file could touch: what is there later is the import's."""

    blocks: frozenset[str]  # ids of blocks that nobody has
    sources: frozenset[str]  # ids
    servers: frozenset[str]  # ids of MCP servers
    tools: Mapping[str, dict[str, Any]]  # by name, those of the file's names, whole

    @classmethod
    def of(cls, client: Letta, content: dict[str, Any]) -> Before:
        names = [tool["name"] for tool in content["tools"] if tool.get("name")]
        found = client.tools.list(names=names, limit=PAGE) if names else ()
        return cls(
            frozenset(_loose_blocks(client, content)),
            frozenset(_sources(client, content)),
            frozenset(_servers(client, content)),
            {tool.name: tool.to_dict() for tool in found if tool.name},
        )


def _clean_up(client: Letta, content: dict[str, Any], before: Before, mark: str) -> str:
    """Remove what a failed import made, and put tools back that it overwrote; say so."""
    import letta_client

    removed: list[str] = []
    try:
        for orphan in list(every_agent(client, tags=[mark])):
            client.agents.delete(orphan.id)
            removed.append(orphan.id)
        for block in sorted(_loose_blocks(client, content) - before.blocks):
            client.blocks.delete(block)
            removed.append(block)
        for source in sorted(_sources(client, content) - before.sources):
            client.folders.delete(source)
            removed.append(source)
        removed += _clean_up_tools(client, content, before)
        for server in sorted(_servers(client, content) - before.servers):
            client.mcp_servers.delete(server)
            removed.append(server)
    except letta_client.APIError as error:
        return (
            f"removed of it: {', '.join(removed) or 'nothing'}; the clean-up failed too: {error};"
            f" agents that remain have the tag {mark}"
        )
    return f"removed what it left: {', '.join(removed) or 'nothing'}"


def _clean_up_tools(client: Letta, content: dict[str, Any], before: Before) -> Iterator[str]:
    names = [tool["name"] for tool in content["tools"] if tool.get("name")]
    for tool in list(client.tools.list(names=names, limit=PAGE)) if names else ():
        was = before.tools.get(tool.name or "")
        if was is None:
            client.tools.delete(tool.id)
            yield tool.id
        elif was.get("source_code") != tool.source_code:
            client.tools.update(
                tool.id, source_code=was.get("source_code"), json_schema=was.get("json_schema")
            )
            yield f"the changes of {tool.id}"


def _sources(client: Letta, content: dict[str, Any]) -> set[str]:
    """Ids of the folders that have a name of the file's, or one that the import made of it."""
    names = [source["name"] for source in content["sources"]]
    if not names:
        return set()
    made = re.compile("|".join(rf"{re.escape(name)}(_[0-9a-f]{{8}})?" for name in names))
    return {each.id for each in client.folders.list(limit=PAGE) if made.fullmatch(each.name)}


def _servers(client: Letta, content: dict[str, Any]) -> set[str]:
    names = {server["server_name"] for server in content["mcp_servers"]}
    found = client.mcp_servers.list() if names else ()
    return {each.id for each in found if each.server_name in names and each.id}


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
