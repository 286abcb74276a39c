"""What a server has already, asked for once where many files are imported, not once for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ops_cli.agents.agent_file import AgentFile
from ops_cli.agents.import_plan import ServerModels, server_models, tools_named
from ops_cli.agents.judging import entries
from ops_cli.agents.listing import PAGE, SHOW_HIDDEN

if TYPE_CHECKING:
    from letta_client import Letta
    from letta_client.types import AgentState

# Listing all agents takes longer than asking for a file's names, where they are so many for each file.
AGENTS_A_FILE = 20


@dataclass(frozen=True)
class Known:
    """`agents` by name, None where they are to be asked for by name; `tools` by name, but those of
    `differing`, which files of this import bring in differently: what is there is to be asked for."""

    models: ServerModels
    agents: Mapping[str, Sequence[AgentState]] | None
    tools: Mapping[str, dict[str, Any]]
    differing: frozenset[str]

    @classmethod
    def of(cls, client: Letta, files: Sequence[AgentFile]) -> Known:
        sources: dict[str, set[Any]] = defaultdict(set)
        for file in files:
            for _, tool in entries(file.content, "tools"):
                sources[str(tool.get("name"))].add(str(tool.get("source_code")))
        tools = tools_named(client, sources)
        differing = {
            name for name, given in sources.items() if len(given) > 1 and name not in tools
        }
        count: Any = client.get("/v1/agents/count", cast_to=object)
        few = int(count) <= AGENTS_A_FILE * len(files)
        return cls(
            server_models(client),
            by_name(client, files) if few else None,
            tools,
            frozenset(differing),
        )

    def namesakes(self, client: Letta, file: AgentFile) -> list[AgentState]:
        if self.agents is None:
            return namesakes(client, file)
        return [agent for name in _names(file) for agent in self.agents.get(name, ())]

    def tools_of(self, client: Letta, file: AgentFile) -> dict[str, dict[str, Any]]:
        if self.differing.isdisjoint(file.tools):
            return {name: self.tools[name] for name in file.tools if name in self.tools}
        return tools_named(client, file.tools)


def by_name(client: Letta, files: Iterable[AgentFile]) -> dict[str, list[AgentState]]:
    """All the server's agents with a name of these files."""
    wanted = {name for file in files for name in _names(file)}
    found: dict[str, list[AgentState]] = defaultdict(list)
    for agent in client.agents.list(limit=PAGE, order="asc", extra_query=dict(SHOW_HIDDEN)):
        if agent.name in wanted:
            found[agent.name].append(agent)
    return found


def namesakes(client: Letta, file: AgentFile) -> list[AgentState]:
    """The server's agents with a name of the file's."""
    return [
        agent
        for name in _names(file)
        for agent in client.agents.list(name=name, limit=PAGE, extra_query=dict(SHOW_HIDDEN))
        if agent.name == name
    ]


def _names(file: AgentFile) -> Iterator[str]:
    """Of a file that may not be checked yet."""
    given = (entry.get("name") for _, entry in entries(file.content, "agents"))
    yield from dict.fromkeys(name for name in given if isinstance(name, str))
