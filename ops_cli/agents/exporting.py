"""Agent -> agent file, through the API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from ops_cli.agents.agent_file import AgentFile, parse_agent_file
from ops_cli.agents.listing import AgentSummary, find_agent

EXPORT_SECONDS = 600.0
# What the server's exporter leaves out, read in its code and measured.
LEFT_OUT = (
    "archival memory",
    "messages that are no longer in the context window",
    "other conversations",
    "identities",
    "the values of secrets",
)


@dataclass(frozen=True)
class Exported:
    """An agent, and its agent file as the server wrote it."""

    agent: AgentSummary
    text: str
    file: AgentFile

    @property
    def messages(self) -> int:
        return sum(agent.messages for agent in self.file.agents)


def export_agent(deployment: Deployment, wanted: str) -> Exported:
    """Export the agent with this id or unique name; what came is checked to be a whole agent file.

    Raises LettaOpsError as `find_agent` and `infra.api.api` do.
    """
    import httpx

    from infra.api import api, unreachable

    with api(deployment, EXPORT_SECONDS) as client:
        agent = find_agent(client, wanted)
        try:
            answer = client.agents.with_raw_response.export_file(agent.id).read()
        except httpx.HTTPError as error:  # the client does not translate what fails in the body
            raise unreachable(deployment, str(error)) from None
    return Exported(agent, answer.decode(), parse_agent_file(answer, "the server's export"))


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise LettaOpsError when the export could not be kept at `path`: asked before it is made."""
    if path.is_dir():
        problem, hint = "is a folder", "name a file in it"
    elif not path.absolute().parent.is_dir():
        problem, hint = "lies in a folder that does not exist", "make the folder first"
    elif path.exists() and not overwrite:
        problem, hint = "exists already", "name another file, or add --force to replace it"
    else:
        return
    raise LettaOpsError("output-refused", f"{path} {problem}", hint)


def save(text: str, path: Path) -> None:
    """Write the agent file, whole or not at all, mode 0600: it holds conversations."""
    from infra.files import write_private

    try:
        write_private(path, text)
    except OSError as error:
        raise LettaOpsError(
            "output-refused",
            f"cannot write {path}: {error.strerror}",
            "free some disk space, or name a file in a folder that you may write to",
        ) from None
