"""Removing what a smoke test made: its agent, and what Letta leaves when an agent is deleted."""

from __future__ import annotations

import datetime as dt
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError

if TYPE_CHECKING:
    from letta_client import Letta

    from healthchecks.smoke_steps import SmokeRun

# An agent is ours only with both: people may use either one for something else.
TAG = "letta-ops-smoke"
PREFIX = "letta-ops-smoke-"
LABEL = "letta_ops_smoke"
# Longer than any run takes: a run that goes on beside us is left alone.
LEFTOVER_AGE = dt.timedelta(minutes=15)
ATTEMPTS = 4  # a turn that is still going on writes rows under the agent while it's deleted
PAUSE = 1.0  # seconds


def sweep(client: Letta, run: SmokeRun) -> int:
    """Remove agents of earlier smoke tests that were killed; return how many.

    One that can't be removed is no reason not to test: `delete` reports it at the end.
    """
    import letta_client

    oldest = dt.datetime.now(dt.UTC) - LEFTOVER_AGE
    agents = [agent for agent in _ours(client) if agent.created_at and agent.created_at < oldest]
    removed = 0
    for agent in agents:
        try:
            _repeated(functools.partial(dismantle, client, agent.id))
            removed += 1
        except letta_client.NotFoundError:
            continue  # another smoke test removed it meanwhile
        except LettaOpsError as error:
            run.leftovers = f"{agent.name} of an earlier run can't be deleted: {error.message}"
    return removed


def delete(client: Letta, run: SmokeRun) -> str:
    """Delete the trial's agent and all that belongs to it; prove that the agent is gone.

    Raises LettaOpsError when there is none, or when something can't be removed.
    """
    import letta_client

    agent_id = run.agent.id if run.agent else _find(client, run)
    if agent_id is None:
        raise _failure("not run: no agent was made")
    what = _repeated(functools.partial(dismantle, client, agent_id))
    try:
        client.agents.retrieve(agent_id)
    except letta_client.NotFoundError:
        if run.leftovers:
            raise _failure(run.leftovers) from None
        return what
    raise _failure(f"the server says that it deleted {agent_id}, but still has it")


def dismantle(client: Letta, agent_id: str) -> str:
    """Remove the archives and blocks of the agent, then the agent itself; say what was removed.

    Letta deletes an agent but keeps its archive, with every passage, and its blocks. The agent goes
    last: by its tag a later run finds what an interrupted one left.
    """
    import letta_client

    # Lists first: a page that is asked for after its last entry was deleted is refused (404).
    archives = _archives(client, agent_id)
    blocks = list(_once(client.agents.blocks.list(agent_id=agent_id)))
    own = [archive.id for archive in archives if (archive.name or "").startswith(PREFIX)]
    own_blocks = [block.id for block in blocks if block.label == LABEL]
    for remove, identifiers in (
        (client.archives.delete, own),
        (client.blocks.delete, own_blocks),
        (client.agents.delete, [agent_id]),
    ):
        for identifier in identifiers:
            try:
                remove(identifier)
            except letta_client.NotFoundError:
                continue  # an attempt whose answer got lost
    return f"{agent_id}, {len(own_blocks)} block(s), {len(own)} archive(s)"


def _once(listed: Iterable[Any]) -> Iterator[Any]:
    """Each entry once: some lists of a server before 0.13 begin anew with every page, without an end."""
    seen: set[str] = set()
    for each in listed:
        if each.id in seen:
            return
        seen.add(each.id)
        yield each


def _archives(client: Letta, agent_id: str) -> list[Any]:
    """The agent's archives. Before 0.12 they can't be asked for: then its passages are deleted, and an
    empty archive stays."""
    import letta_client

    try:
        return list(client.archives.list(agent_id=agent_id))
    except letta_client.NotFoundError:
        with suppress(letta_client.NotFoundError):
            for passage in client.agents.passages.list(agent_id):
                client.agents.passages.delete(str(passage.id), agent_id=agent_id)
    return []


def _ours(client: Letta, name: str | None = None) -> list[Any]:
    import letta_client

    # Without `include` the server lists agents without their tags.
    listed = client.agents.list(tags=[TAG], name=name or letta_client.omit, include=["agent.tags"])
    return [agent for agent in listed if agent.name.startswith(PREFIX) and TAG in agent.tags]


def _find(client: Letta, run: SmokeRun) -> str | None:
    """Look for an agent whose making we asked for, but whose id we never heard."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        for agent in _ours(client, run.name):
            return str(agent.id)
    return None


def _repeated(act: Callable[[], str]) -> str:
    """Call `act` until it succeeds, at most ATTEMPTS times; raise what the last one raised."""
    import letta_client

    for attempt in range(ATTEMPTS):
        try:
            return act()
        except letta_client.NotFoundError:
            raise
        except letta_client.APIStatusError as error:
            refusal = error
        if attempt < ATTEMPTS - 1:
            time.sleep(PAUSE)
    raise _failure(f"the server answered {refusal.status_code}: {refusal.response.text[:200]}")


def _failure(detail: str) -> LettaOpsError:
    return LettaOpsError("smoke-failed", detail, "delete it with `letta-ops agent delete`")
