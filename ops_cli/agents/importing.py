"""Agent file -> agents, through the API; what a failed import leaves behind is removed again."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.deployment import Deployment
from infra.errors import LettaOpsError
from ops_cli.agents.agent_file import AgentFile
from ops_cli.agents.listing import AgentSummary, every_agent, summary

if TYPE_CHECKING:
    from letta_client import APIStatusError, Letta

IMPORT_SECONDS = 600.0
MARK = "letta-ops-import:"


@dataclass(frozen=True)
class ImportChoices:
    """How an agent file is imported; None keeps what the file says."""

    name: str | None = None
    model: str | None = None
    embedding: str | None = None
    override_tools: bool = False
    allow_unknown_model: bool = False


@dataclass(frozen=True)
class PlannedAgent:
    """An agent that an import would make."""

    name: str
    model: str | None
    embedding: str | None
    messages: int


@dataclass(frozen=True)
class Plan:
    """What an import would make, and what the person should know beforehand."""

    agents: tuple[PlannedAgent, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Imported:
    """The agents that an import made, in the order of the file."""

    agents: tuple[AgentSummary, ...]
    warnings: tuple[str, ...]


def plan_import(deployment: Deployment, file: AgentFile, choices: ImportChoices) -> Plan:
    """Compare the file with the server; nothing is changed.

    Raises LettaOpsError: `model-unknown` when an agent would have a model that the server does not
    have, `name-refused` when one name is to be given to several agents.
    """
    from infra.connect import api

    with api(deployment) as client:
        return _plan(client, file, choices)


def import_agents(deployment: Deployment, file: AgentFile, choices: ImportChoices) -> Imported:
    """Import the file: names are kept, and tools that the server has are not overwritten unless
    `choices` say so (the server's own defaults are the opposite).

    Raises LettaOpsError as `plan_import` does; `import-failed` when the server refuses, after what
    it had made was removed; `import-unfinished` when it gave no answer.
    """
    from infra.connect import api

    with api(deployment, IMPORT_SECONDS) as client:
        plan = _plan(client, file, choices)
        # The server's import is no transaction. The mark tells its agents from all others, also
        # from those that somebody else makes at the same time.
        mark = MARK + uuid.uuid4().hex
        identifiers = _send(client, marked(file.content, mark), choices, mark)
        agents, left = _unmark(client, identifiers, mark)
    return Imported(agents, (*plan.warnings, *left))


def marked(content: dict[str, Any], mark: str) -> dict[str, Any]:
    """Return a copy of an agent file whose agents carry the tag `mark`."""
    changed = copy.deepcopy(content)
    for agent in changed["agents"]:
        agent["tags"] = [*(agent.get("tags") or []), mark]
    return changed


def _plan(client: Letta, file: AgentFile, choices: ImportChoices) -> Plan:
    if choices.name and len(file.agents) > 1:
        raise LettaOpsError(
            "name-refused",
            f"{file.source} holds {len(file.agents)} agents: they can't all be '{choices.name}'",
            "leave --name out",
        )
    agents = tuple(
        PlannedAgent(
            name=choices.name or agent.name,
            model=choices.model or agent.model,
            embedding=choices.embedding or agent.embedding,
            messages=agent.messages,
        )
        for agent in file.agents
    )
    unknown = list(_unknown_models(client, agents))
    if unknown and not choices.allow_unknown_model:
        raise _model_unknown(unknown)
    return Plan(agents, (*unknown, *_warnings(client, file, agents, choices)))


def _unknown_models(client: Letta, agents: tuple[PlannedAgent, ...]) -> Iterator[str]:
    models = {model.handle for model in client.models.list()} - {None}
    embeddings = {model.handle for model in client.models.embeddings.list()} - {None}
    wanted = dict.fromkeys(agent.model for agent in agents if agent.model)
    for handle in wanted:
        if handle not in models:
            yield f"the server has no model {handle}: --model takes one of {_listed(models)}"
    for handle in dict.fromkeys(agent.embedding for agent in agents if agent.embedding):
        if handle not in embeddings:
            yield (
                f"the server has no embedding model {handle}:"
                f" --embedding takes one of {_listed(embeddings)}"
            )


def _warnings(
    client: Letta, file: AgentFile, agents: tuple[PlannedAgent, ...], choices: ImportChoices
) -> Iterator[str]:
    for name in dict.fromkeys(agent.name for agent in agents):
        if any(found.name == name for found in every_agent(client, name=name)):
            yield f"an agent named '{name}' is there already: now there are two, told apart by id"
    sources = {name: code for name, code in file.tools.items() if code}
    present = client.tools.list(names=list(sources), limit=200) if sources else ()
    for tool in present:
        if tool.name in sources and tool.source_code != sources[tool.name]:
            yield (
                f"the server's tool '{tool.name}' differs from the file's and "
                + ("is overwritten" if choices.override_tools else "stays (see --override-tools)")
            )
    for agent in file.agents:
        if agent.secrets:
            names = ", ".join(agent.secrets)
            yield f"'{agent.name}' needs secrets, which no agent file carries; set them: {names}"
    if file.files:
        yield f"the server embeds {file.files} file(s) in the background, and marks what fails"


def _send(client: Letta, content: dict[str, Any], choices: ImportChoices, mark: str) -> list[str]:
    import letta_client

    chosen = {"name": choices.name, "model": choices.model, "embedding": choices.embedding}
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
            f"\n{_clean_up(client, mark)}",
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


def _clean_up(client: Letta, mark: str) -> str:
    """Remove the agents that a failed import made, with their blocks, and say so."""
    import letta_client

    removed: list[str] = []
    blocks: set[str] = set()
    try:
        for orphan in list(every_agent(client, tags=[mark])):
            found = client.agents.retrieve(orphan.id, include=["agent.blocks"]).blocks
            blocks |= {block.id for block in found or []}
            client.agents.delete(orphan.id)
            removed.append(orphan.id)
        # Every import makes blocks of its own, so nobody else has them.
        for block in sorted(blocks):
            client.blocks.delete(block)
    except letta_client.APIError as error:
        return (
            f"removed of it: {', '.join(removed) or 'nothing'}; the clean-up failed too: {error};"
            f" what remains has the tag {mark}"
        )
    if not removed:
        return "it left no agents; memory blocks and tools of the file may have been made"
    return f"removed the agents that it left: {', '.join(removed)}"


def _model_unknown(problems: list[str]) -> LettaOpsError:
    return LettaOpsError(
        "model-unknown",
        "an agent that is imported like this could not answer; nothing was sent\n"
        + "\n".join(f"  - {problem}" for problem in problems),
        "name a model that the server has (--model, --embedding), or configure the provider; with"
        " --allow-unknown-model the agent is imported as it is",
    )


def _listed(handles: Iterable[str | None]) -> str:
    names = sorted(handle for handle in handles if handle)
    shown = ", ".join(names[:8])
    return (shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "(it has none)"


def _reason(error: APIStatusError) -> str:
    body = error.body
    return str(body.get("detail", body) if isinstance(body, dict) else body or error.message)[:500]
