"""What an agent file doesn't carry, counted: of an agent that is exported, or of a file that came in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from ops_cli.agents import served, stored
from ops_cli.agents.judging import Entry, entries, messages

NEVER_CARRIED = ("passages", "identities", "conversations")
# Letta's `MessageRole`.
ROLES = ("approval", "assistant", "function", "summary", "system", "tool", "user")


@dataclass(frozen=True)
class Loss:
    """One kind of thing: how many one side has, and how many of them are on the other."""

    what: str
    has: int
    carried: int

    @property
    def lost(self) -> int:
        return max(0, self.has - self.carried)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "lost": self.lost}


def of_export(deployment: Deployment, agent: str, content: dict[str, Any]) -> tuple[Loss, ...]:
    """Compare an agent (id) with the agent file that the server made of it.

    Raises LettaOpsError like `stored.show` and `served.show`.
    """
    return tuple(_compared(known(deployment, [agent])[agent], _carried(_first(content))))


def of_import(
    deployment: Deployment, agents: Iterable[str], content: dict[str, Any]
) -> tuple[Loss, ...]:
    """Compare a file with the agents (ids) that were made of it."""
    agents = list(agents)
    return compared_with(content, agents, known(deployment, agents))


def compared_with(
    content: dict[str, Any], agents: Iterable[str], counts: Mapping[str, dict[str, int]]
) -> tuple[Loss, ...]:
    """What `of_import` says, of agents whose `counts` are known."""
    has: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for (_, entry), identifier in zip(entries(content, "agents"), agents, strict=False):
        has.update(_carried(entry, with_values=True))
        made.update(counts[identifier])
    return tuple(_compared(has, made))


def known(deployment: Deployment, agents: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many of each agents (ids) have, as the database tells, or the API as far as it does."""
    if deployment.database is not None:
        try:
            return {shown["id"]: _counts(shown) for shown in stored.show_all(deployment, agents)}
        except LettaOpsError as error:
            if error.code not in ("database-unreachable", "no-database"):
                raise
    return {agent: _counts(served.show(deployment, agent)) for agent in agents}


def _counts(shown: dict[str, Any]) -> dict[str, int]:
    lists = ("blocks", "tools", "tags", "tool_rules")
    by_role = shown.get("messages_by_role")  # which the API doesn't tell
    return {
        **shown["counts"],
        **({} if by_role is None else _by_role(by_role)),
        **{what: len(shown[what]) for what in lists},
    }


def _by_role(counts: Mapping[str, int]) -> dict[str, int]:
    return {f"messages of role {role}": counts.get(role, 0) for role in ROLES}


def _first(content: dict[str, Any]) -> Entry:
    return next((entry for _, entry in entries(content, "agents")), {})


def _carried(agent: Entry, *, with_values: bool = False) -> dict[str, int]:
    secrets = {
        **(agent.get("tool_exec_environment_variables") or {}),
        **(agent.get("secrets") or {}),
    }
    return {
        "messages": len(messages(agent)),
        **_by_role(Counter(str(message.get("role")) for message in messages(agent))),
        "blocks": len(agent.get("block_ids") or []) + len(agent.get("memory_blocks") or []),
        "tools": len(agent.get("tool_ids") or []) + len(agent.get("tools") or []),
        "tags": len(agent.get("tags") or []),
        "tool_rules": len(agent.get("tool_rules") or []),
        "files": len(agent.get("files_agents") or []),
        "groups": len(agent.get("group_ids") or []),
        # A file has their names; only with a value is one carried.
        "secrets": len(secrets) if with_values else sum(bool(value) for value in secrets.values()),
        **({} if with_values else dict.fromkeys(NEVER_CARRIED, 0)),
    }


def _compared(has: Mapping[str, int], carried: Mapping[str, int]) -> Iterator[Loss]:
    for what, count in has.items():
        if what in carried and count:
            yield Loss(what, count, min(count, carried[what]))


def in_words(losses: Iterable[Loss]) -> list[str]:
    return [f"{each.what}: {each.carried} of {each.has}" for each in losses if each.lost]
