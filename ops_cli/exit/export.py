"""Agents of V1 -> a store of the successor; or, with nothing written, what would come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from ops_cli.exit import layout
from ops_cli.exit.placing import Stage, staged
from ops_cli.exit.reading import ensure_store
from ops_cli.exit.secrets import Secrets, add_secrets, read_secrets, secrets_of
from ops_cli.exit.v1 import Agent, Source
from ops_cli.exit.verify import Verified, verify_agent
from ops_cli.exit.writing import Exported, Models, made_of, write_agent

Open = Callable[[], AbstractContextManager[Source]]
UNKNOWN = "agent-unknown"
LINES = 20  # of progress, for as many agents as there may be


@dataclass
class Result:
    """What an export did: `unchanged` were there already, of the same state of V1."""

    store: Path
    agents: list[Exported] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    replaced: Path | None = None
    secrets: int = 0
    notes: list[str] = field(default_factory=list)


def export(
    sources: Sequence[Open], wanted: Sequence[str] | None, destination: Path, models: Models,
    report: Report, *, replace: bool = False, secrets: Secrets | None = None,
) -> Result:  # fmt: skip
    """Write the agents `wanted` (ids, or names that one has; None: all) into the store `destination`,
    with the `secrets` of their tools where they are asked for.

    Raises LettaOpsError: `agent-unknown`, `agent-exists`, `not-a-store`, `store-newer`, `disk-full`,
    `locked`, those of the sources. Nothing has taken its place then.
    """
    result = Result(destination)
    taken_along: dict[str, Sensitive] = {}
    with staged(destination) as stage:
        stage.finish_placing()
        for source, agents in _chosen(sources, wanted):
            due = _due(stage, source, agents, models, result, replace=replace)
            for number, identifier in enumerate(due, 1):
                agent = source.agent(identifier)
                _tell(report, source, number, len(due), agent)
                stage.clear(layout.local_id(identifier), [each.id for each in agent.conversations])
                result.agents.append(write_agent(stage.store, source, agent, models))
            if secrets is not None:
                found, notes = secrets_of(source, agents, secrets)
                taken_along |= found
                result.notes += notes
        there = read_secrets(destination) if taken_along else {}
        stage.place({each.id for each in result.agents}, replace=replace)
        if taken_along:
            result.secrets = add_secrets(stage, there, taken_along, replace=replace)
    result.replaced = stage.replaced
    return result


def _due(
    stage: Stage, source: Source, agents: Sequence[str], models: Models, result: Result, *,
    replace: bool,
) -> list[str]:  # fmt: skip
    """Those that are to be written; the others are there, or wait since a run before. Raises
    LettaOpsError (`agent-exists`)."""
    due, taken = [], []
    for identifier in agents:
        local = layout.local_id(identifier)
        placed, waiting = stage.placed(local), stage.waiting(local)
        digest = made_of(source.agent(identifier), models) if placed or waiting else None
        if placed is not None and local in stage.resumed and placed.get("made_of") == digest:
            result.agents.append(Exported.of(placed))
        elif placed is not None and not replace:
            if placed.get("made_of") == digest:
                result.unchanged.append(identifier)
            else:
                taken.append(identifier)
        elif waiting is not None and waiting.get("made_of") == digest:
            result.agents.append(Exported.of(waiting))
        else:
            due.append(identifier)
    if taken:
        raise LettaOpsError(
            "agent-exists",
            f"{stage.destination} has agents of these ids already, of another state:"
            f" {', '.join(taken[:10])}{' ...' if len(taken) > 10 else ''}; nothing was changed",
            "--replace sets those aside and takes these; or export into a new folder",
        )
    return due


def plan(
    sources: Sequence[Open], wanted: Sequence[str] | None, models: Models, report: Report
) -> Iterator[tuple[Agent, Exported]]:
    """Yield each agent, and what an export would make of it. All is read, and nothing is written."""
    for source, agents in _chosen(sources, wanted):
        for number, identifier in enumerate(agents, 1):
            agent = source.agent(identifier)
            _tell(report, source, number, len(agents), agent)
            yield agent, write_agent(None, source, agent, models)


def verify(
    sources: Sequence[Open], wanted: Sequence[str] | None, store: Path, report: Report
) -> Iterator[Verified]:
    """Yield the comparison of each agent of the sources with what is in `store`."""
    ensure_store(store)
    for source, agents in _chosen(sources, wanted):
        for number, identifier in enumerate(agents, 1):
            agent = source.agent(identifier)
            _tell(report, source, number, len(agents), agent)
            yield verify_agent(store, source, agent)


def _tell(report: Report, source: Source, number: int, count: int, agent: Agent) -> None:
    """A line for each of a few agents, and for some of many."""
    if number in (1, count) or number % max(1, count // LINES) == 0:
        report(f"{source.name}: agent {number} of {count}: {agent.name}")


def _chosen(
    sources: Sequence[Open], wanted: Sequence[str] | None
) -> Iterator[tuple[Source, Sequence[str]]]:
    """Each source with those of its agents that are wanted; one that several have is taken once."""
    missing: dict[str, LettaOpsError] = {}
    found: set[str] = set()
    seen: set[str] = set()
    for open_source in sources:
        with open_source() as source:
            if wanted is None:
                agents = list(source.agents(None))
            else:
                agents = []
                for word in wanted:
                    try:
                        agents += source.agents([word])
                        found.add(word)
                    except LettaOpsError as refused:
                        if refused.code != UNKNOWN:
                            raise
                        missing.setdefault(word, refused)
            fresh = [each for each in dict.fromkeys(agents) if each not in seen]
            seen.update(fresh)
            yield source, fresh
    for word, error in missing.items():
        if word not in found:
            raise error


def new_ids(result: Result) -> Mapping[str, str]:
    """V1's ids, and the successor's."""
    here = {each.v1_id: each.id for each in result.agents}
    return {**here, **{each: layout.local_id(each) for each in result.unchanged}}
