"""What an import would make, compared with the server beforehand; and what is really sent."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from ops_cli.agents.agent_file import AgentFile
from ops_cli.agents.judging import Mends
from ops_cli.agents.listing import PAGE

if TYPE_CHECKING:
    from letta_client import Letta

DIFF_LINES = 40


@dataclass(frozen=True)
class Kind:
    """Of an agent (and of a source): the keys of a model's configuration, of its endpoint in it, and
    of its handle where there is no configuration; and what else of it is the server's own."""

    config: str
    endpoint: str
    handle: str
    keys: tuple[str, ...]


MODEL = Kind(
    "llm_config", "model_endpoint", "model",
    ("model", "model_endpoint_type", "model_endpoint", "provider_name", "provider_category",
     "context_window", "put_inner_thoughts_in_kwargs", "handle", "temperature", "max_tokens"),
)  # fmt: skip
EMBEDDING = Kind(
    "embedding_config", "embedding_endpoint", "embedding",
    ("embedding_endpoint_type", "embedding_endpoint", "embedding_model", "embedding_dim",
     "embedding_chunk_size", "handle", "batch_size"),
)  # fmt: skip


@dataclass(frozen=True)
class ImportChoices:
    """How an agent file is imported; None keeps what the file says.

    `models` says which handle is taken instead of another one, models and embedding models alike;
    `secrets` are values by name; with `again`, a file is imported though it was before. `keep_tools`
    are not removed though an import fails that made them: others need them.
    """

    name: str | None = None
    model: str | None = None
    embedding: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    overwrite_tools: bool = False
    allow_unknown_model: bool = False
    replace_nul: bool = False
    mends: Mends = field(default_factory=Mends)
    secrets: Mapping[str, Sensitive] = field(default_factory=dict)
    again: bool = False
    keep_tools: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ServerModels:
    """What the server has: the configurations of its models and embedding models, by handle."""

    models: Mapping[str, dict[str, Any]]
    embeddings: Mapping[str, dict[str, Any]]

    def of(self, kind: Kind) -> Mapping[str, dict[str, Any]]:
        return self.models if kind is MODEL else self.embeddings


@dataclass(frozen=True)
class PlannedAgent:
    """An agent that an import would make."""

    name: str
    model: str | None
    embedding: str | None
    messages: int


@dataclass(frozen=True)
class PlannedTool:
    """A tool of the file: `created`; `reused`, which is the same on the server; `kept` or `replaced`,
    which is another there, by `difference` (a unified diff)."""

    name: str
    fate: str
    difference: str = ""


@dataclass(frozen=True)
class Plan:
    """What an import would make, what the person should know beforehand, and what to send; `there` are
    the server's tools of the same names, whole."""

    agents: tuple[PlannedAgent, ...]
    tools: tuple[PlannedTool, ...]
    warnings: tuple[str, ...]
    content: dict[str, Any]
    there: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def make_plan(
    client: Letta,
    file: AgentFile,
    choices: ImportChoices,
    namesakes: Iterable[str] = (),
    server: ServerModels | None = None,
    there: Mapping[str, dict[str, Any]] | None = None,
) -> Plan:
    """Compare `file`, which was checked, with the server; nothing is changed there.

    `namesakes` are names of the file's that agents have already; `server`, and `there` (the server's
    tools of the file's names), are asked for where they are None.

    Raises LettaOpsError: `model-unknown` when an agent would have a model that the server does not
    have.
    """
    agents = tuple(
        PlannedAgent(
            agent.name,
            choices.model or choices.models.get(agent.model or "", agent.model),
            choices.embedding or choices.models.get(agent.embedding or "", agent.embedding),
            agent.messages,
        )
        for agent in file.agents
    )
    server = server or server_models(client)
    unknown = list(unknown_models(agents, server))
    if unknown and not choices.allow_unknown_model:
        raise _model_unknown(unknown)
    content, moved = with_own_models(file.content, server, choices)
    there = tools_named(client, file.tools) if there is None else there
    tools = tuple(_planned_tools(file, there, choices))
    servers = tuple(_keep_servers(client, content, choices))
    warnings = (*unknown, *moved, *servers, *_warnings(file, namesakes, choices.secrets))
    return Plan(agents, tools, warnings, content, there)


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


def with_own_models(
    content: dict[str, Any], server: ServerModels, choices: ImportChoices
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a copy of an agent file's content that uses the server's models, and what changed.

    An agent file names the URL of its model, and the server would use it as it is: an imported
    agent would talk to the provider of whoever exported it, and send it this server's API key.
    """
    changed = copy.deepcopy(content)
    said: list[str] = []
    for kind, chosen in ((MODEL, choices.model), (EMBEDDING, choices.embedding)):
        if chosen:
            continue  # then the server replaces the whole configuration itself
        for entry in changed["agents"]:
            said += _map(entry, kind, server, choices.models)
        for entry in (*changed["agents"], *changed["sources"]):
            said += _move(entry.get(kind.config), kind, server)
    return changed, tuple(dict.fromkeys(said))


def _map(
    entry: dict[str, Any], kind: Kind, server: ServerModels, models: Mapping[str, str]
) -> Iterator[str]:
    """Give an agent the configuration of the model that it is to have instead of its own, or that it
    only names: the import asks for the whole."""
    configured = entry.get(kind.config)
    handle = str((configured or {}).get("handle") or entry.get(kind.handle) or "")
    wanted = models.get(handle, handle)
    own = server.of(kind).get(wanted)
    if own is None or (configured and wanted == handle):
        return
    entry[kind.config] = {key: own[key] for key in kind.keys if own.get(key) is not None}
    entry[kind.handle] = None
    if wanted != handle:
        yield f"{wanted} is used instead of {handle}"
    before, after = (configured or {}).get("embedding_dim"), own.get("embedding_dim")
    if before and after and before != after:
        yield f"{wanted} has {after} dimensions, {handle} had {before}: files are embedded anew"


def _move(configured: dict[str, Any] | None, kind: Kind, server: ServerModels) -> Iterator[str]:
    if not configured:
        return
    handle, url = configured.get("handle"), configured.get(kind.endpoint)
    known = server.of(kind).get(handle) if handle else None
    own = (known or {}).get(kind.endpoint)
    if own is None and url:
        served = handle or "its model"
        yield f"the agent will use {url} for {served}, as the file says: do you trust it?"
    elif own is not None and url != own:
        configured[kind.endpoint] = own
        yield f"{handle} is used at {own}, as this server does; the file says {url}"


def tools_named(client: Letta, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The server's tools with these names, whole."""
    wanted = list(names)
    found: dict[str, dict[str, Any]] = {}
    for first in range(0, len(wanted), PAGE):
        some = wanted[first : first + PAGE]
        for tool in client.tools.list(names=some, limit=PAGE):
            if tool.name in some and tool.name:
                found[tool.name] = tool.to_dict()
    return found


def _planned_tools(
    file: AgentFile, there: Mapping[str, dict[str, Any]], choices: ImportChoices
) -> Iterator[PlannedTool]:
    for name, source in file.tools.items():
        here = str((there.get(name) or {}).get("source_code") or "")
        if name not in there:
            yield PlannedTool(name, "created")
        elif source is None or here == source:
            yield PlannedTool(name, "reused")
        else:
            fate = "replaced" if choices.overwrite_tools else "kept"
            yield PlannedTool(name, fate, _difference(name, here, source))


def _difference(name: str, here: str, there: str) -> str:
    lines = list(
        difflib.unified_diff(
            here.splitlines(), there.splitlines(), f"{name} on the server", f"{name} in the file",
            lineterm="",
        )
    )  # fmt: skip
    cut = [f"({len(lines) - DIFF_LINES} more lines)"] if len(lines) > DIFF_LINES else []
    return "\n".join(lines[:DIFF_LINES] + cut)


def _keep_servers(client: Letta, content: dict[str, Any], choices: ImportChoices) -> Iterator[str]:
    """Leave MCP servers out that are here under the same name: an import would overwrite them."""
    if not content["mcp_servers"] or choices.overwrite_tools:
        return
    there = {server.server_name for server in client.mcp_servers.list()}
    here = {entry["server_name"] for entry in content["mcp_servers"]}
    for name in sorted(here & there):
        yield f"the server has an MCP server '{name}' already: it stays as it is (--overwrite-tools)"
    content["mcp_servers"] = [
        entry for entry in content["mcp_servers"] if entry["server_name"] not in there
    ]


def _warnings(
    file: AgentFile, namesakes: Iterable[str], given: Mapping[str, Sensitive]
) -> Iterator[str]:
    for name in dict.fromkeys(namesakes):
        yield f"the server has an agent named '{name}' already; only their ids tell them apart"
    for agent in file.agents:
        if lacking := [name for name in agent.secrets if name not in given]:
            names = ", ".join(lacking)
            yield f"'{agent.name}' needs secrets, which no agent file carries; set them: {names}"
    known = {name for agent in file.agents for name in agent.secrets}
    if unknown := sorted(given.keys() - known):
        yield f"no agent of the file has a secret {', '.join(unknown)}: it is not set"
    if file.files:
        yield f"the server embeds {file.files} file(s) in the background, and marks what fails"


def server_models(client: Letta) -> ServerModels:
    """Ask for them: of many files, once."""
    return ServerModels(
        {
            model.handle: {**model.to_dict(), "model_endpoint": model.api_model_endpoint}
            for model in client.models.list()
            if model.handle
        },
        {
            model.handle: model.to_dict()
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
