"""Agent -> agent file, through the API."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.parallel import in_parallel
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import Deployment
from ops_cli.agents.agent_file import AgentFile, parse_agent_file
from ops_cli.agents.listing import AgentSummary, find_agent
from ops_cli.agents.loss import Loss, of_export
from ops_cli.agents.redacting import redacted_content

if TYPE_CHECKING:
    import httpx
    from letta_client import Letta

    from backups.archives.file import OpenArchive

EXPORT_SECONDS = 600.0
INDEX = "index.json"
TOGETHER = 4  # exports at a time: the server reads one agent's rows for each


@dataclass(frozen=True)
class Shape:
    """How agents are exported: without their messages, or with secrets and personal data blackened."""

    scrub_messages: bool = False
    redact: bool = False


@dataclass(frozen=True)
class Exported:
    """An agent, and its agent file as the server wrote it; `losses` are what it doesn't carry."""

    agent: AgentSummary
    text: str
    file: AgentFile
    losses: tuple[Loss, ...]
    redacted: int = 0

    @property
    def messages(self) -> int:
        return sum(agent.messages for agent in self.file.agents)


def export_agent(
    deployment: Deployment,
    wanted: str,
    shape: Shape | None = None,
    over: httpx.Client | None = None,
) -> Exported:
    """Export the agent with this id or unique name; what came is checked to be a whole agent file.

    Raises LettaOpsError as `find_agent` and `infra.api.api` do.
    """
    from infra.api import api

    shape = shape or Shape()
    with api(deployment, EXPORT_SECONDS, over) as client:
        agent = find_agent(client, wanted)
        answer, file = _served(deployment, client, agent.id, shape)
    text, redacted = answer.decode(), 0
    losses = of_export(deployment, agent.id, file.content)
    if shape.redact:
        content, redacted = redacted_content(file.content)
        file, text = AgentFile(file.source, content), json.dumps(content, indent=2)
    return Exported(agent, text, file, losses, redacted)


def export_agents(
    deployment: Deployment,
    agents: Sequence[AgentSummary],
    folder: Path,
    shape: Shape,
    report: Report,
    *,
    again: bool = False,
) -> list[dict[str, Any]]:
    """Export each agent into a file of its own in `folder`, with an index that has their hashes.

    What a run before has written stays, unless `again`: so one that was interrupted goes on. Raises
    LettaOpsError like `export_agent`, and `output-refused`.
    """
    from infra.api import http

    folder.mkdir(parents=True, exist_ok=True)
    known = {} if again else _indexed(folder)
    writing = threading.Lock()
    entries: dict[str, dict[str, Any]] = {}

    def one(agent: AgentSummary) -> None:
        entry = known.get(agent.id)
        if entry is None or not _is_whole(folder, entry):
            exported = export_agent(deployment, agent.id, shape, over)
            name = _file_name(agent.name, agent.id)
            save(exported.text, folder / name)
            entry = {
                "id": agent.id,
                "name": agent.name,
                "file": name,
                "sha256": hashlib.sha256(exported.text.encode()).hexdigest(),
                "lost": {each.what: each.lost for each in exported.losses if each.lost},
            }
            report(f"export: {agent.name} ({agent.id})")
        with writing:
            entries[agent.id] = entry
            kept = {**known, **entries}
            save(json.dumps({"agents": list(kept.values())}, indent=1), folder / INDEX)

    with http(deployment, EXPORT_SECONDS) as over:
        in_parallel(one, agents, TOGETHER)
    return [entries[agent.id] for agent in agents]


def ensure_answers(deployment: Deployment) -> None:
    """Raise LettaOpsError where the server can't be asked for agent files."""
    from infra.api import api

    with api(deployment) as client:
        client.agents.list(limit=1)


def agent_files(deployment: Deployment, agents: Sequence[str]) -> Iterator[bytes]:
    """Yield the agent file of each of `agents` (ids) as the server writes it, some at a time.

    Raises LettaOpsError as `export_agent` does.
    """
    import letta_client

    from infra.api import api, http

    with http(deployment, EXPORT_SECONDS) as over, api(deployment, EXPORT_SECONDS, over) as client:

        def one(agent: str) -> bytes:
            try:
                return _served(deployment, client, agent, Shape())[0]
            except letta_client.APIStatusError as error:
                raise LettaOpsError(
                    "agent-not-exported",
                    f"the server gave no agent file of {agent}: it answered {error.status_code}; nothing"
                    " was written",
                    "see whether it is there (`letta-ops agent list`) and whose it is; or go without"
                    " --agent-files",
                ) from None

        for first in range(0, len(agents), TOGETHER):
            yield from in_parallel(one, agents[first : first + TOGETHER], TOGETHER)


def _served(
    deployment: Deployment, client: Letta, agent: str, shape: Shape
) -> tuple[bytes, AgentFile]:
    """The server's export of an agent (id); it is checked to be a whole agent file."""
    import httpx

    from infra.api import unreachable

    scrubbed = {"extra_query": {"scrub_messages": "true"}} if shape.scrub_messages else {}
    try:
        answer = client.agents.with_raw_response.export_file(agent, **scrubbed).read()  # type: ignore[arg-type]
    except httpx.HTTPError as error:  # the client does not translate what fails in the body
        raise unreachable(deployment, str(error)) from None
    return answer, parse_agent_file(answer, "the server's export")


def take_agent_files(
    archive: OpenArchive, wanted: Sequence[str], target: Path, *, overwrite: bool
) -> list[dict[str, str]]:
    """Write the agent files that an archive holds into the folder `target`: of the agents `wanted` (ids
    or names), or of all; that of one agent goes to `target`, if that ends in .af. None is written unless
    the whole archive is what went in.

    Raises LettaOpsError: `no-agent-files`, `agent-unknown`, `output-refused`, `archive-damaged`.
    """
    from infra.files import output

    names = {agent["id"]: agent["name"] for agent in archive.header.agents}
    held = {agent: _file_name(names.get(agent, ""), agent) for agent in archive.header.agent_files}
    if not held:
        raise LettaOpsError(
            "no-agent-files",
            "this archive holds no agent files",
            "restore it and export the agents; `agent archive --agent-files` takes them along",
        )
    known = {*held, *(names.get(agent) for agent in held)}
    if missing := [each for each in wanted if each not in known]:
        raise LettaOpsError(
            "agent-unknown",
            f"the archive has no agent file of {', '.join(missing)}",
            f"it has those of {', '.join(names.get(agent) or agent for agent in held)}",
        )
    taken = [agent for agent in held if not wanted or agent in wanted or names.get(agent) in wanted]
    folder, chosen = target, {agent: target / held[agent] for agent in taken}
    if len(taken) == 1 and target.suffix == ".af" and not target.is_dir():
        folder, chosen = target.parent, {taken[0]: target}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LettaOpsError(
            "output-refused",
            f"{folder} can't be a folder for agent files: {error.strerror}",
            "name another one",
        ) from None
    for path in chosen.values():
        check_output(path, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix=".agent-files-", dir=folder) as drafts:

        def take(agent: str, pieces: Iterator[bytes]) -> None:
            if agent not in chosen:
                deque(pieces, 0)
                return
            with output(Path(drafts) / chosen[agent].name) as sink:
                sink.writelines(pieces)

        archive.take_agent_file = take
        for _, pieces in archive.tables():
            deque(pieces, 0)
        archive.memories.close()
        for path in chosen.values():
            (Path(drafts) / path.name).replace(path)
    return [{"id": agent, "file": str(path)} for agent, path in chosen.items()]


def _file_name(name: str, agent: str) -> str:
    return f"{plain_name(name)}-{plain_name(agent.partition('-')[2])[:8]}.af"


def plain_name(name: str) -> str:
    """A file's name of an agent's: nothing in it leads anywhere."""
    kept = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
    return kept.strip("-")[:80] or "agent"


def _indexed(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads((folder / INDEX).read_text())
        return {entry["id"]: entry for entry in document["agents"]}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    try:
        data = (folder / Path(entry["file"]).name).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(data).hexdigest() == str(entry["sha256"])


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
    from infra.files import output

    with output(path) as sink:
        sink.write(text.encode())
