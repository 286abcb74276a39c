"""Is an agent file fit to be sent? Everything that is wrong with it at once, before anything is."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from ops_cli.agents import release_judge
from ops_cli.agents.agent_file import AgentFile
from ops_cli.agents.judging import Mends, judge
from ops_cli.agents.reading import refuse, refused_characters, with_replacements


@dataclass(frozen=True)
class Checked:
    """A file that the server can take: what was mended in it, and what is odd, in `notes`."""

    file: AgentFile
    notes: tuple[str, ...]


def check(
    deployment: Deployment,
    file: AgentFile,
    mends: Mends,
    *,
    name: str | None = None,
    replace_nul: bool = False,
) -> Checked:
    """Check `file` by our rules and by the release's own schema; `name` is the agent's new one.

    Raises LettaOpsError: `agent-file-broken` with every problem and its path, `name-refused`, and
    what `release_judge.ask` says.
    """
    content, notes = copy.deepcopy(file.content), list(file.notes)
    if replace_nul:
        content, count = with_replacements(content)
        if count:
            notes.append(f"{count} character(s) that no Postgres holds were replaced by U+FFFD")
    agents = content.get("agents")
    if name and isinstance(agents, list) and len(agents) > 1:
        raise LettaOpsError(
            "name-refused",
            f"{file.source} holds {len(agents)} agents: they can't all be '{name}'",
            "leave --name out",
        )
    if name and isinstance(agents, list) and agents and isinstance(agents[0], dict):
        agents[0]["name"] = name
    found = judge(content, mends)
    problems = [*refused_characters(content), *found.problems]
    verdict = release_judge.ask(deployment, [content])
    if verdict is None:
        notes.append("no Letta release is within reach: the file was checked by our own rules only")
    else:
        told = "\n".join(problems)
        problems += [each for each in verdict.problems[0] if each not in told]
    if problems:
        refuse(file.source, problems)
    return Checked(replace(file, content=content), (*notes, *found.notes))
