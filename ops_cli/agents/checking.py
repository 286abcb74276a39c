"""Are agent files fit to be sent? Everything that is wrong with each at once, before anything is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from ops_cli.agents import release_judge
from ops_cli.agents.agent_file import AgentFile
from ops_cli.agents.judging import Judgement, Mends, judge, of_wrong_kind
from ops_cli.agents.reading import refusal, refused_characters, with_replacements

NOT_ASKED = "no Letta release is within reach: the file was checked by our own rules only"


@dataclass(frozen=True)
class Checked:
    """A file that the server can take: what was mended in it, and what is odd, in `notes`."""

    file: AgentFile
    notes: tuple[str, ...]


def check(
    deployment: Deployment,
    files: Sequence[AgentFile],
    mends: Mends,
    *,
    name: str | None = None,
    replace_nul: bool = False,
) -> list[Checked | LettaOpsError]:
    """Check files by our rules and by the release's own schema, which is asked once for all of them;
    `name` is the agent's new one. Of a file that is not fit, the error is returned
    (`agent-file-broken` with every problem and its path, `name-refused`).

    Raises LettaOpsError as `release_judge.ask` does.
    """
    looked = [_looked_at(file, mends, name, replace_nul=replace_nul) for file in files]
    contents = [each.content for each in looked if not isinstance(each, LettaOpsError)]
    verdict = release_judge.ask(deployment, contents) if contents else None
    told = iter(verdict.problems) if verdict else None
    found: list[Checked | LettaOpsError] = []
    for file, each in zip(files, looked, strict=True):
        if isinstance(each, LettaOpsError):
            found.append(each)
        else:
            found.append(each.judged(file, None if told is None else next(told)))
    return found


@dataclass(frozen=True)
class _Looked:
    """What our rules say of one file; `content` is mended."""

    content: dict[str, Any]
    judgement: Judgement

    def judged(self, file: AgentFile, told: Sequence[str] | None) -> Checked | LettaOpsError:
        """Together with what the release says; None: it wasn't asked."""
        own = self.judgement.problems
        more = of_wrong_kind(self.content) if told is None else told
        said = "\n".join(own)
        problems = [*own, *(each for each in more if each not in said)]
        if problems:
            return refusal(file.source, problems)
        asked = (NOT_ASKED,) if told is None else ()
        return Checked(replace(file, content=self.content), (*asked, *self.judgement.notes))


def _looked_at(
    file: AgentFile, mends: Mends, name: str | None, *, replace_nul: bool
) -> _Looked | LettaOpsError:
    content, notes = copy.deepcopy(file.content), list(file.notes)
    if replace_nul:
        content, count = with_replacements(content)
        if count:
            notes.append(f"{count} character(s) that no Postgres holds were replaced by U+FFFD")
    agents = content.get("agents")
    if name and isinstance(agents, list) and len(agents) > 1:
        return LettaOpsError(
            "name-refused",
            f"{file.source} holds {len(agents)} agents: they can't all be '{name}'",
            "leave --name out",
        )
    if name and isinstance(agents, list) and agents and isinstance(agents[0], dict):
        agents[0]["name"] = name
    found = judge(content, mends)
    problems = [*refused_characters(content), *found.problems]
    return _Looked(content, Judgement(problems, [*notes, *found.notes]))
