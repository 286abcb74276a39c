"""Agent file -> agents, through the API; what a failed import leaves behind is removed again."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backups.parallel import in_parallel
from infra.background import Background
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import Deployment
from ops_cli.agents.agent_file import AgentFile
from ops_cli.agents.checking import Checked, check
from ops_cli.agents.import_plan import (
    ImportChoices,
    Plan,
    PlannedTool,
    make_plan,
)
from ops_cli.agents.judging import entries
from ops_cli.agents.known import Known, by_name, namesakes
from ops_cli.agents.listing import PAGE, AgentSummary, summary

if TYPE_CHECKING:
    import httpx
    from letta_client import APIStatusError, Letta
    from letta_client.types import AgentState

IMPORT_SECONDS = 600.0
NOTE = "letta_ops_import"  # in an agent's metadata: of which file it was made, and by which import
TOGETHER = 4  # imports at a time


@dataclass(frozen=True)
class Imported:
    """The agents that an import made, in the order of the file; `before`: an earlier import did."""

    agents: tuple[AgentSummary, ...]
    tools: tuple[PlannedTool, ...] = ()
    warnings: tuple[str, ...] = ()
    before: bool = False
    content: dict[str, Any] = field(default_factory=dict)  # what was sent
    unsettled: _Work | None = None  # nobody has looked yet whether somebody else was quicker


def plan_import(deployment: Deployment, file: AgentFile, choices: ImportChoices) -> Plan:
    """Say what `import_agents` would do. Raises LettaOpsError as `check` and `make_plan` do."""
    from infra.api import api

    checked = _fit(_check(deployment, [file], choices)[0])
    with api(deployment) as client:
        found = namesakes(client, checked.file)
        plan = make_plan(client, checked.file, choices, [each.name for each in found])
    before = _imported_before(found, checked.file, content_hash(file.content))
    said = [f"{each.name} was imported before, as {each.id}" for each in before]
    return replace(plan, warnings=(*checked.notes, *said, *plan.warnings))


def import_agents(deployment: Deployment, file: AgentFile, choices: ImportChoices) -> Imported:
    """Import it. Names are kept, and tools that the server has are not overwritten unless
    `choices` say so (the server's own defaults are the opposite). A file that was imported before is
    not imported again, unless they say that.

    Raises LettaOpsError as `check` and `make_plan` do; `import-failed` when the server refuses, after
    what it had made was removed; `import-unfinished` when it gave no answer.
    """
    return _import(deployment, file, _check(deployment, [file], choices)[0], choices)


def import_files(
    deployment: Deployment, files: Sequence[AgentFile], choices: ImportChoices, report: Report
) -> list[Imported | LettaOpsError]:
    """Import many, some at a time; what fails keeps no other from being imported."""
    from infra.api import api, http

    names = Counter(name for file in files for name in _tool_names(file))
    shared = frozenset(name for name, count in names.items() if count > 1)
    choices = replace(choices, keep_tools=shared)
    asked = Background(lambda: _known(deployment, files))
    checked = _check(deployment, files, choices)
    known = asked.result()

    def one(number: int) -> Imported | LettaOpsError:
        try:
            made = _import(deployment, files[number], checked[number], choices, known, over)
        except LettaOpsError as error:
            report(f"import: {files[number].source}: {error.message.splitlines()[0]}")
            return error
        report(f"import: {files[number].source}: {len(made.agents)} agent(s)")
        return made

    with http(deployment, IMPORT_SECONDS) as over:
        made = in_parallel(one, range(len(files)), TOGETHER)
    if known.agents is None or not any(isinstance(each, Imported) for each in made):
        return made
    with api(deployment, IMPORT_SECONDS) as client:
        found = by_name(client, files)
        return [_settled(client, each, found) for each in made]


def _known(deployment: Deployment, files: Sequence[AgentFile]) -> Known:
    from infra.api import api

    with api(deployment) as client:
        return Known.of(client, files)


def _settled(
    client: Letta, made: Imported | LettaOpsError, found: Mapping[str, Sequence[AgentState]]
) -> Imported | LettaOpsError:
    """An import of many, with what the server has when all are done: a file that somebody else imported
    at the same time, or that was given twice, is taken back."""
    if isinstance(made, LettaOpsError) or made.unsettled is None:
        return made
    work = replace(made.unsettled, client=client)
    after = [agent for name in _names_in(work.content) for agent in found.get(name, ())]
    return work.settled(made, after)


def _names_in(content: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(str(agent.get("name")) for _, agent in entries(content, "agents")))


def content_hash(content: dict[str, Any]) -> str:
    """SHA-256 of what a file says, however it is written."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _tool_names(file: AgentFile) -> list[str]:
    return [str(tool.get("name")) for _, tool in entries(file.content, "tools")]


def _check(
    deployment: Deployment, files: Sequence[AgentFile], choices: ImportChoices
) -> list[Checked | LettaOpsError]:
    return check(
        deployment, files, choices.mends, name=choices.name, replace_nul=choices.replace_nul
    )


def _fit(checked: Checked | LettaOpsError) -> Checked:
    if isinstance(checked, LettaOpsError):
        raise checked
    return checked


def _import(
    deployment: Deployment,
    file: AgentFile,
    judged: Checked | LettaOpsError,
    choices: ImportChoices,
    known: Known | None = None,
    over: httpx.Client | None = None,
) -> Imported:
    """`known`: what the server has, where many are imported; then who was quicker is seen at the end."""
    from infra.api import api

    checked, digest = _fit(judged), content_hash(file.content)
    with api(deployment, IMPORT_SECONDS, over) as client:
        found = known.namesakes(client, checked.file) if known else namesakes(client, checked.file)
        there = _imported_before(found, checked.file, digest)
        if there and not choices.again:
            return Imported(tuple(there), before=True)
        plan = make_plan(
            client,
            checked.file,
            choices,
            [each.name for each in found],
            known.models if known else None,
            known.tools_of(client, checked.file) if known else None,
        )
        # The server's import is no transaction. The mark tells its agents from all others, also
        # from those that somebody else makes at the same time.
        mark = uuid.uuid4().hex
        content = marked(plan.content, digest, mark)
        before = Before.of(client, content)
        work = _Work(client, content, mark, digest, plan.there, before, checked.file, choices)
        identifiers = work.send()
        agents = tuple(AgentSummary(each, "", None, None, None, 0) for each in identifiers)
        warnings = (*checked.notes, *plan.warnings)
        made = Imported(agents, plan.tools, warnings, content=plan.content)
        if known is not None and known.agents is not None:
            return replace(made, unsettled=work)
        return work.settled(made, namesakes(client, checked.file))


def _note(agent: AgentState) -> dict[str, Any]:
    note: Any = (agent.metadata or {}).get(NOTE)
    return note if isinstance(note, dict) else {}


def _imported_before(
    found: Iterable[AgentState], file: AgentFile, digest: str
) -> list[AgentSummary]:
    """The agents that an import of this file has made, if all of them are there."""
    of_file = [summary(agent) for agent in found if _note(agent).get("sha256") == digest]
    names = [agent.name for agent in file.agents]
    there = [next((each for each in of_file if each.name == name), None) for name in names]
    whole = [each for each in there if each is not None]
    return whole if len(whole) == len(names) else []


def _quicker(found: Iterable[AgentState], digest: str, mark: str) -> list[AgentSummary]:
    """The agents of another import of the same file that was under way, and came first."""
    of_file = [agent for agent in found if _note(agent).get("sha256") == digest]
    told = {agent.id: summary(agent) for agent in of_file}
    ours = [(told[each.id].created or "", each.id) for each in of_file if _note(each)["by"] == mark]
    return [
        told[each.id]
        for each in of_file
        if ours and _note(each)["by"] != mark and (told[each.id].created or "", each.id) < min(ours)
    ]


def marked(content: dict[str, Any], digest: str, mark: str) -> dict[str, Any]:
    """Return a copy of an agent file's content whose agents say in their metadata of which file they are
    made (`digest`), and by which import (`mark`)."""
    changed = copy.deepcopy(content)
    for agent in changed["agents"]:
        agent["metadata"] = {**(agent.get("metadata") or {}), NOTE: {"sha256": digest, "by": mark}}
    return changed


@dataclass(frozen=True)
class Before:
    """Ids of what the server had that an import could make: what is there later is the import's."""

    blocks: frozenset[str]  # that say what the file says, and that nobody has
    folders: frozenset[str]  # with a name of the file's, or one that the import made of it
    servers: frozenset[str]

    @classmethod
    def of(cls, client: Letta, content: dict[str, Any]) -> Before:
        texts = {(block.get("label"), block.get("value")) for block in content["blocks"]}
        loose = client.blocks.list(connected_to_agents_count_eq=[0], limit=PAGE) if texts else ()
        names = [re.escape(str(source["name"])) for source in content["sources"]]
        named = re.compile("|".join(rf"{name}(_[0-9a-f]{{8}})?" for name in names))
        folders = client.folders.list(limit=PAGE) if names else ()
        servers = {str(server["server_name"]) for server in content["mcp_servers"]}
        return cls(
            frozenset(each.id for each in loose if (each.label, each.value) in texts),
            frozenset(each.id for each in folders if named.fullmatch(each.name)),
            frozenset(
                each.id
                for each in (client.mcp_servers.list() if servers else ())
                if each.server_name in servers and each.id
            ),
        )


@dataclass(frozen=True)
class _Work:
    """One import: what is sent, and how it is undone. `there` are tools by name as they were before."""

    client: Letta
    content: dict[str, Any]
    mark: str
    digest: str
    there: Mapping[str, dict[str, Any]]
    before: Before
    file: AgentFile
    choices: ImportChoices

    def settled(self, made: Imported, after: Sequence[AgentState]) -> Imported:
        """The import with what is told of its agents; taken back where the same was made before."""
        if not self.choices.again and (first := _quicker(after, self.digest, self.mark)):
            self.clean_up(frozenset(_tool_names(self.file)))
            return Imported(tuple(first), before=True)
        by_id = {agent.id: summary(agent) for agent in after}
        agents = tuple(by_id.get(each.id, each) for each in made.agents)
        return replace(made, agents=agents, unsettled=None)

    def send(self) -> list[str]:
        """Return the ids of the new agents. Raises LettaOpsError."""
        import letta_client

        choices = self.choices
        chosen: dict[str, Any] = {"model": choices.model, "embedding": choices.embedding}
        if choices.secrets:
            values = {name: value.reveal() for name, value in choices.secrets.items()}
            chosen["secrets"] = json.dumps(values)
        try:
            answer = self.client.agents.import_file(
                file=("agent.af", json.dumps(self.content).encode(), "application/json"),
                append_copy_suffix=False,
                override_existing_tools=choices.overwrite_tools,
                **{name: value for name, value in chosen.items() if value},
            )
        except letta_client.AuthenticationError:
            raise
        except letta_client.APIStatusError as error:
            raise LettaOpsError(
                "import-failed",
                f"the server refused the import ({error.status_code}): {_reason(error)}"
                f"\n{self.clean_up(choices.keep_tools)}",
                "correct the file; if it looks right, look at the server's log",
            ) from None
        except (letta_client.APIConnectionError, KeyboardInterrupt) as error:
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else "no answer came"
            raise LettaOpsError(
                "import-unfinished",
                f"the import was sent, but {why}: the server may still be making the agents",
                "run it again in a minute: what came whole is not imported twice;"
                " `letta-ops agent list` shows what is there",
            ) from None
        return answer.agent_ids

    def clean_up(self, keep_tools: frozenset[str]) -> str:
        """Remove what an import made, and put tools back that it overwrote; say so."""
        import letta_client

        removed: list[str] = []
        try:
            for orphan in namesakes(self.client, self.file):
                if _note(orphan).get("by") == self.mark:
                    self.client.agents.delete(orphan.id)
                    removed.append(orphan.id)
            removed += self._made()
            removed += self._tools(keep_tools)
        except letta_client.APIError as error:
            return (
                f"removed of it: {', '.join(removed) or 'nothing'}; the clean-up failed too: {error};"
                f" agents that remain have {self.mark} in their metadata"
            )
        return f"removed what it left: {', '.join(removed) or 'nothing'}"

    def _made(self) -> Iterator[str]:
        """Delete what was not there before, says what the file says, and is nobody's."""
        after = Before.of(self.client, self.content)
        for identifier in sorted(after.blocks - self.before.blocks):
            self.client.blocks.delete(identifier)
            yield identifier
        for identifier in sorted(after.folders - self.before.folders):
            self.client.folders.delete(identifier)
            yield identifier
        for identifier in sorted(after.servers - self.before.servers):
            self.client.mcp_servers.delete(identifier)
            yield identifier

    def _tools(self, keep: frozenset[str]) -> Iterator[str]:
        names = {str(tool["name"]) for tool in self.content["tools"] if tool.get("name")} - keep
        for tool in list(self.client.tools.list(names=list(names), limit=PAGE)) if names else ():
            was = self.there.get(tool.name or "")
            if tool.name not in names:
                continue
            if was is None:
                self.client.tools.delete(tool.id)
                yield tool.id
            elif was.get("source_code") != tool.source_code:
                source, schema = was.get("source_code"), was.get("json_schema")
                self.client.tools.update(tool.id, source_code=source, json_schema=schema)
                yield f"the changes of {tool.id}"


def _reason(error: APIStatusError) -> str:
    body = error.body
    return str(body.get("detail", body) if isinstance(body, dict) else body or error.message)[:500]
