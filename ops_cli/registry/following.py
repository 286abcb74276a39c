"""Ids that change are rewritten: what restores and imports make of agents that applications have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from backups.registry import opened
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment

if TYPE_CHECKING:
    from letta_ops.registry.links import Key
    from letta_ops.registry.registry import Registry


def follow_restore(deployment: Deployment, moved: Mapping[str, str]) -> list[str]:
    """Links of agents that are gone lead to the new ids, by the old ones, that they were restored under;
    return what there is to say."""
    said = []
    try:
        with opened(deployment) as registry:
            for old, new in moved.items():
                for row in list(registry.store.rows(agent=old)):
                    if row.link is None or registry.letta().exists(old):
                        continue
                    link = replace(row.link, letta_agent_id=new, reason="restored under a new id")
                    registry.put(link, "moved", row)
                    said.append(f"{row.key} has agent {new} now")
    except LettaOpsError as error:
        said.append(_behind(error))
    return said


def follow_exit(deployment: Deployment, moved: Mapping[str, str]) -> list[str]:
    """Links lead to the ids that agents have at the successor, by V1's; return what there is to say.

    Whether V1 still has the agents is not asked: its server may be gone. Raises LettaOpsError.
    """
    said = []
    with opened(deployment) as registry:
        for old, new in moved.items():
            for row in list(registry.store.rows(agent=old)):
                if row.link is not None:
                    link = replace(row.link, letta_agent_id=new, reason="moved to the successor")
                    registry.put(link, "moved", row)
                    said.append(f"{row.key} has agent {new} now")
    return said


def follow_import(deployment: Deployment, made: Sequence[tuple[Key, str]]) -> list[str]:
    """Agents that came with marks of a key become its agents where it has none that is there; else they
    are copies, and the marks are taken away. Return what there is to say."""
    try:
        with opened(deployment) as registry:
            return list(_followed(registry, made))
    except LettaOpsError as error:
        return [_behind(error)]


def _followed(registry: Registry, made: Sequence[tuple[Key, str]]) -> Iterator[str]:
    for key, agent in made:
        row = registry.store.find(key)
        if row is not None and row.link is not None:
            there = row.link.there
            if registry.letta().exists(str(row.agent)) if there is None else there:
                registry.letta().mark(agent, None)
                yield f"{agent} is a copy: {key} has {row.agent}"
                continue
        link = registry.new_link(key, agent, "imported")
        registry.put(link, "linked" if row is None or row.link is None else "moved", row)
        yield f"{key} has agent {agent} now"


def _behind(error: LettaOpsError) -> str:
    return (
        f"the registry does not know of it: {error.message}; `letta-ops registry reconcile --apply`"
        " tells it"
    )
