"""What an import would make, compared with the server beforehand; and what is really sent."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from ops_cli.agents.agent_file import AgentFile
from ops_cli.agents.listing import every_agent

if TYPE_CHECKING:
    from letta_client import Letta

# Of an agent (and of a source): the configuration of a model, and the key of its endpoint in it.
MODEL, EMBEDDING = ("llm_config", "model_endpoint"), ("embedding_config", "embedding_endpoint")


@dataclass(frozen=True)
class ImportChoices:
    """How an agent file is imported; None keeps what the file says."""

    name: str | None = None
    model: str | None = None
    embedding: str | None = None
    override_tools: bool = False
    allow_unknown_model: bool = False


@dataclass(frozen=True)
class ServerModels:
    """What the server has: the endpoints of its models and embedding models, by handle."""

    models: Mapping[str, str | None]
    embeddings: Mapping[str, str | None]

    def endpoints(self, kind: tuple[str, str]) -> Mapping[str, str | None]:
        return self.models if kind == MODEL else self.embeddings


@dataclass(frozen=True)
class PlannedAgent:
    """An agent that an import would make."""

    name: str
    model: str | None
    embedding: str | None
    messages: int


@dataclass(frozen=True)
class Plan:
    """What an import would make, what the person should know beforehand, and what to send."""

    agents: tuple[PlannedAgent, ...]
    warnings: tuple[str, ...]
    content: dict[str, Any]


def make_plan(client: Letta, file: AgentFile, choices: ImportChoices) -> Plan:
    """Compare `file` with the server; nothing is changed there.

    Raises LettaOpsError: `model-unknown` when an agent would have a model that the server does not
    have, `name-refused` when one name is to be given to several agents.
    """
    if choices.name and len(file.agents) > 1:
        raise LettaOpsError(
            "name-refused",
            f"{file.source} holds {len(file.agents)} agents: they can't all be '{choices.name}'",
            "leave --name out",
        )
    agents = tuple(
        PlannedAgent(
            choices.name or agent.name,
            choices.model or agent.model,
            choices.embedding or agent.embedding,
            agent.messages,
        )
        for agent in file.agents
    )
    server = _server_models(client)
    unknown = list(unknown_models(agents, server))
    if unknown and not choices.allow_unknown_model:
        raise _model_unknown(unknown)
    content, moved = with_own_endpoints(file.content, server, choices)
    warnings = (*unknown, *moved, *_warnings(client, file, agents, choices))
    return Plan(agents, warnings, content)


def unknown_models(agents: Iterable[PlannedAgent], server: ServerModels) -> Iterator[str]:
    """Say of each model that an agent would have and the server has not, what could be chosen."""
    agents = tuple(agents)
    for handle in dict.fromkeys(agent.model for agent in agents if agent.model):
        if handle not in server.models:
            yield f"the server has no model {handle}: --model takes {_listed(server.models)}"
    for handle in dict.fromkeys(agent.embedding for agent in agents if agent.embedding):
        if handle not in server.embeddings:
            yield (
                f"the server has no embedding model {handle}:"
                f" --embedding takes {_listed(server.embeddings)}"
            )


def with_own_endpoints(
    content: dict[str, Any], server: ServerModels, choices: ImportChoices
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a copy of an agent file's content that uses the server's endpoints, and what changed.

    An agent file names the URL of its model, and the server would use it as it is: an imported
    agent would talk to the provider of whoever exported it, and send it this server's API key.
    """
    changed = copy.deepcopy(content)
    said: list[str] = []
    for kind, chosen in ((MODEL, choices.model), (EMBEDDING, choices.embedding)):
        if chosen:
            continue  # then the server replaces the whole configuration itself
        for entry in (*changed["agents"], *changed["sources"]):
            said += _move(entry.get(kind[0]), kind[1], server.endpoints(kind))
    return changed, tuple(dict.fromkeys(said))


def _move(
    configured: dict[str, Any] | None, key: str, endpoints: Mapping[str, str | None]
) -> Iterator[str]:
    if not configured:
        return
    handle, url = configured.get("handle"), configured.get(key)
    own = endpoints.get(handle) if handle else None
    if own is None and url:
        served = handle or "its model"
        yield f"the agent will use {url} for {served}, as the file says: do you trust it?"
    elif own is not None and url != own:
        configured[key] = own
        yield f"{handle} is used at {own}, as this server does; the file says {url}"


def _warnings(
    client: Letta, file: AgentFile, agents: tuple[PlannedAgent, ...], choices: ImportChoices
) -> Iterator[str]:
    for name in dict.fromkeys(agent.name for agent in agents):
        if any(found.name == name for found in every_agent(client, name=name)):
            yield f"the server has an agent named '{name}' already; only their ids tell them apart"
    sources = {name: code for name, code in file.tools.items() if code}
    for tool in client.tools.list(names=list(sources), limit=200) if sources else ():
        if tool.name in sources and tool.source_code != sources[tool.name]:
            fate = "is replaced" if choices.override_tools else "stays (see --override-tools)"
            yield f"the server's tool '{tool.name}' is another than the file's, and {fate}"
    for agent in file.agents:
        if agent.secrets:
            names = ", ".join(agent.secrets)
            yield f"'{agent.name}' needs secrets, which no agent file carries; set them: {names}"
    if file.files:
        yield f"the server embeds {file.files} file(s) in the background, and marks what fails"


def _server_models(client: Letta) -> ServerModels:
    return ServerModels(
        {model.handle: model.api_model_endpoint for model in client.models.list() if model.handle},
        {
            model.handle: model.embedding_endpoint
            for model in client.models.embeddings.list()
            if model.handle
        },
    )


def _model_unknown(problems: list[str]) -> LettaOpsError:
    return LettaOpsError(
        "model-unknown",
        "an agent that is imported like this could not answer; nothing was sent\n"
        + "\n".join(f"  - {problem}" for problem in problems),
        "name a model that the server has (--model, --embedding), or configure the provider; with"
        " --allow-unknown-model the agent is imported as it is",
    )


def _listed(handles: Iterable[str]) -> str:
    names = sorted(handles)
    if not names:
        return "none, since it has none"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"one of {', '.join(names[:8])}{more}"
