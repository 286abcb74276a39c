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
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import Deployment
from ops_cli.agents.agent_file import AgentFile
from ops_cli.agents.checking import Checked, check
from ops_cli.agents.import_plan import ImportChoices, Plan, PlannedTool, make_plan
from ops_cli.agents.judging import entries
from ops_cli.agents.listing import PAGE, SHOW_HIDDEN, AgentSummary, every_agent, summary

if TYPE_CHECKING:
    from letta_client import APIStatusError, Letta

IMPORT_SECONDS = 600.0
MARK = "letta-ops-import:"
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


def plan_import(deployment: Deployment, file: AgentFile, choices: ImportChoices) -> Plan:
    """Say what `import_agents` would do. Raises LettaOpsError as `check` and `make_plan` do."""
    from infra.api import api

    checked = _fit(_check(deployment, [file], choices)[0])
    with api(deployment) as client:
        plan = make_plan(client, checked.file, choices)
        there = _imported_before(client, checked.file, content_hash(file.content), choices)
    said = [f"{each.name} was imported before, as {each.id}" for each in there]
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
    names = Counter(name for file in files for name in _tool_names(file))
    shared = frozenset(name for name, count in names.items() if count > 1)
    choices = replace(choices, keep_tools=shared)
    checked = _check(deployment, files, choices)

    def one(number: int) -> Imported | LettaOpsError:
        try:
            made = _import(deployment, files[number], checked[number], choices)
        except LettaOpsError as error:
            report(f"import: {files[number].source}: {error.message.splitlines()[0]}")
            return error
        report(f"import: {files[number].source}: {len(made.agents)} agent(s)")
        return made

    results: list[Imported | LettaOpsError] = []
    for start in range(0, len(files), TOGETHER):
        results += in_parallel(one, range(start, min(start + TOGETHER, len(files))))
    return results


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
) -> Imported:
    from infra.api import api

    checked, digest = _fit(judged), content_hash(file.content)
    with api(deployment, IMPORT_SECONDS) as client:
        if not choices.again and (there := _imported_before(client, checked.file, digest, choices)):
            return Imported(tuple(there), before=True)
        plan = make_plan(client, checked.file, choices)
        # The server's import is no transaction. The mark tells its agents from all others, also
        # from those that somebody else makes at the same time.
        mark = MARK + uuid.uuid4().hex
        content = marked(plan.content, mark, digest)
        before = Before.of(client, content)
        identifiers = _send(client, content, choices, before, mark)
        if not choices.again and (first := _quicker(client, checked.file, digest, mark)):
            _clean_up(client, content, before, mark, frozenset(_tool_names(checked.file)))
            return Imported(tuple(first), before=True)
        agents, left = _unmark(client, identifiers, mark)
    return Imported(
        agents, plan.tools, (*checked.notes, *plan.warnings, *left), content=plan.content
    )


def _imported_before(
    client: Letta, file: AgentFile, digest: str, choices: ImportChoices
) -> list[AgentSummary]:
    """The agents that an import of this file has made, if all of them are there."""
    found = _of_file(client, file, digest)
    names = [agent.name for agent in file.agents]
    there = [next((each for each, _, _ in found if each.name == name), None) for name in names]
    whole = [each for each in there if each is not None]
    return whole if len(whole) == len(names) and not choices.again else []


def _quicker(client: Letta, file: AgentFile, digest: str, mark: str) -> list[AgentSummary]:
    """The agents of another import of the same file that was under way, and came first."""
    found = _of_file(client, file, digest)
    ours = [(created, each.id) for each, by, created in found if by == mark]
    others = [each for each, by, created in found if by != mark and (created, each.id) < min(ours)]
    return others if ours else []


def _of_file(client: Letta, file: AgentFile, digest: str) -> list[tuple[AgentSummary, str, str]]:
    """The agents with the file's names that say that they were made of it, by which import, and when."""
    found = []
    for name in dict.fromkeys(agent.name for agent in file.agents):
        for agent in client.agents.list(name=name, limit=PAGE, extra_query=dict(SHOW_HIDDEN)):
            note: Any = (agent.metadata or {}).get(NOTE)
            if agent.name == name and isinstance(note, dict) and note.get("sha256") == digest:
                told = summary(agent)
                found.append((told, str(note.get("by")), told.created or ""))
    return found


def marked(content: dict[str, Any], mark: str, digest: str = "") -> dict[str, Any]:
    """Return a copy of an agent file's content whose agents carry the tag `mark`, and say in their
    metadata of which file they are made."""
    changed = copy.deepcopy(content)
    for agent in changed["agents"]:
        agent["tags"] = [*(agent.get("tags") or []), mark]
        agent["metadata"] = {**(agent.get("metadata") or {}), NOTE: {"sha256": digest, "by": mark}}
    return changed


def _send(
    client: Letta, content: dict[str, Any], choices: ImportChoices, before: Before, mark: str
) -> list[str]:
    import letta_client

    chosen: dict[str, Any] = {"model": choices.model, "embedding": choices.embedding}
    if choices.secrets:
        values = {name: value.reveal() for name, value in choices.secrets.items()}
        chosen["secrets"] = json.dumps(values)
    try:
        answer = client.agents.import_file(
            file=("agent.af", json.dumps(content).encode(), "application/json"),
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
            f"\n{_clean_up(client, content, before, mark, choices.keep_tools)}",
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


def _clean_up(
    client: Letta,
    content: dict[str, Any],
    before: Before,
    mark: str,
    keep_tools: frozenset[str],
) -> str:
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
        removed += _clean_up_tools(client, content, before, keep_tools)
        for server in sorted(_servers(client, content) - before.servers):
            client.mcp_servers.delete(server)
            removed.append(server)
    except letta_client.APIError as error:
        return (
            f"removed of it: {', '.join(removed) or 'nothing'}; the clean-up failed too: {error};"
            f" agents that remain have the tag {mark}"
        )
    return f"removed what it left: {', '.join(removed) or 'nothing'}"


def _clean_up_tools(
    client: Letta, content: dict[str, Any], before: Before, keep: frozenset[str]
) -> Iterator[str]:
    names = [
        tool["name"] for tool in content["tools"] if tool.get("name") and tool["name"] not in keep
    ]
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
