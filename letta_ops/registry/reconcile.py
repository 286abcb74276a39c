"""Is what the registry says so? Links and agents side by side: what differs, why, and what mends it.

No agent is ever deleted, and what has no single answer is told and left.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from infra.identity import person
from letta_ops.registry.errors import AlreadyLinked, KeyRefused, RegistryError
from letta_ops.registry.links import OF_KEY, TAG, UNLINKED, Event, Key, Link, Row
from letta_ops.registry.registry import Registry

MISSING, ORPHANED, DUPLICATED = "missing", "orphaned", "duplicated"
RENAMED, ELSEWHERE = "renamed", "of-another-server"
RECONCILED = "reconciled"  # in the history
EVERY_APP = "*"


@dataclass(frozen=True)
class Finding:
    """One thing that isn't so: `kind`, of which key and agents, `reason`, and `mend`, what `--apply` does
    about it; empty where somebody has to choose."""

    kind: str
    key: Key
    agents: tuple[str, ...]
    reason: str
    mend: str = ""
    row: Row | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "app": self.key.app,
            "app_agent_id": self.key.id,
            "agents": list(self.agents),
            "reason": self.reason,
            "mend": self.mend or None,
        }


def find(registry: Registry, app: str | None = None) -> list[Finding]:
    """Compare the links (of one application) with the server's agents. Raises as `Registry` does."""
    agents = registry.letta().every()
    rows = [row for row in registry.store.rows() if row.link is not None]
    found = compared(rows, agents, registry.server_name, app)
    return [_unless_unlinked(registry, each) for each in found]


def _unless_unlinked(registry: Registry, finding: Finding) -> Finding:
    """What somebody has unlinked is not linked again without him."""
    if finding.kind != ORPHANED or not finding.mend:
        return finding
    last = next(iter(registry.store.events(finding.key.app, finding.key.id)), None)
    if last is None or (last.what, last.before) != (UNLINKED, finding.agents[0]):
        return finding
    reason = f"{last.before} was unlinked {last.at:%Y-%m-%d %H:%M} by {last.who}: {last.reason}"
    return replace(finding, reason=reason, mend="")


def compared(
    rows: Iterable[Row], agents: Iterable[Mapping[str, Any]], server: str, app: str | None = None
) -> Iterator[Finding]:
    """The same of rows that have a link, and agents as the server tells them."""
    links = {row.key: row for row in rows}
    by_id = {str(agent["id"]): agent for agent in agents}
    linked = {row.agent: row.key for row in links.values()}
    made: dict[Key, list[str]] = defaultdict(
        list
    )  # for which keys agents were made, by their own words
    for identifier, agent in by_id.items():
        if (key := key_of(agent, app)) is not None:
            made[key].append(identifier)
    for key, row in links.items():
        if app in (None, key.app) and not (row.link and row.link.moved_out):
            yield from _of_link(row, by_id, made.get(key, []), linked, server)
    for key, found in made.items():
        if app not in (None, key.app) or key in links:
            continue
        loose = [each for each in found if each not in linked]
        if len(loose) == 1:
            # A name alone doesn't say of which application it is.
            marked = key_of(by_id[loose[0]]) is not None
            how = "was made for it" if marked else "has its name"
            reason = f"{loose[0]} {how}, and nothing links to it"
            yield Finding(ORPHANED, key, (loose[0],), reason, "link it" if marked else "")
        elif loose:
            yield _duplicated(key, loose)


def key_of(agent: Mapping[str, Any], app: str | None = None) -> Key | None:
    """For which id an agent was made: as its metadata says, where its tag agrees; of an application that
    is named, also by its name alone."""
    said = (agent.get("metadata") or {}).get(OF_KEY)
    tags = [tag for tag in agent.get("tags") or () if tag.startswith(TAG)]
    if isinstance(said, Mapping):
        try:
            key = Key.of(str(said.get("app")), str(said.get("app_agent_id")))
        except KeyRefused:
            return None
        return key if key.tag in tags else None
    name = str(agent.get("name") or "")
    if app and not tags and name.startswith(_PREFIX) and name != _PREFIX:
        key = Key(app, name.removeprefix(_PREFIX))
        return key if key.agent_name == name else None
    return None


_PREFIX = Key("", "").agent_name


def apply(registry: Registry, findings: Iterable[Finding]) -> list[Finding]:
    """Mend what can be; return what was. Raises RegistryError, with what it had come to."""
    done: list[Finding] = []
    for each in findings:
        if not each.mend:
            continue
        try:
            _mend(registry, each)
        except RegistryError as error:
            error.add_note(f"mended before that: {len(done)}")
            raise
        done.append(each)
    return done


def remember(registry: Registry, app: str | None, found: int, mended: int) -> None:
    """Put into the history when this was looked at last, and what came of it."""
    key = Key(app or EVERY_APP, "")
    reason = f"{found} found, {mended} mended"
    event = Event.now(person(), key, RECONCILED, None, None, reason)
    registry.store.replace(key, None, None, event)


def _ensure_still(registry: Registry, each: Finding) -> None:
    """Agents and links were read one after the other: what was linked in between is not gone."""
    server = registry.letta()
    went = each.row is not None and each.row.agent not in each.agents
    if (went and server.exists(str(each.row and each.row.agent))) or not server.exists(
        each.agents[0]
    ):
        raise AlreadyLinked(
            f"what {each.key} has was changed meanwhile", "run this again: nothing of it was mended"
        )


def _of_link(
    row: Row,
    agents: Mapping[str, Mapping[str, Any]],
    made: list[str],
    linked: Mapping[str | None, Key],
    server: str,
) -> Iterator[Finding]:
    link, key = row.link, row.key
    assert link is not None  # noqa: S101  # such rows only
    others = [each for each in made if each != row.agent and each not in linked]
    if row.agent not in agents:
        where = "" if link.server == server else f" (it was on {link.server})"
        reason = f"agent {row.agent} is not on the server{where}"
        kind = MISSING if link.server == server else ELSEWHERE
        if len(others) == 1:
            reason += f"; {others[0]} was made for the same id"
            yield Finding(kind, key, tuple(others), reason, f"link {others[0]}", row)
        else:
            yield Finding(
                kind, key, tuple(others), f"{reason}; restore it, or link another", "", row
            )
        return
    if others:
        yield _duplicated(key, [str(row.agent), *others], row)
    if link.server != server:
        reason = f"the link says {link.server}, and its agent is on {server}"
        yield Finding(ELSEWHERE, key, (str(row.agent),), reason, "say so in the link", row)
    said = key_of(agents[str(row.agent)])
    if said not in (None, key):
        yield Finding(
            RENAMED, key, (str(row.agent),), f"the agent says that it was made for {said}",
            "say in the agent for which id it is", row,
        )  # fmt: skip


def _duplicated(key: Key, agents: list[str], row: Row | None = None) -> Finding:
    which = f"; {row.agent} is linked" if row else ""
    reason = f"{len(agents)} agents were made for it: {', '.join(agents)}{which}"
    return Finding(DUPLICATED, key, tuple(agents), reason, "", row)


def _mend(registry: Registry, each: Finding) -> None:
    if each.kind == RENAMED:
        registry.letta().mark(each.agents[0], each.key)
        return
    was = each.row
    _ensure_still(registry, each)
    template = was.link.template if was and was.link else None
    link = Link(
        each.key.app, each.key.id, each.agents[0], registry.server_name, dt.datetime.now(dt.UTC),
        person(), f"reconcile: {each.reason}", template,
    )  # fmt: skip
    if was is not None and was.agent == link.letta_agent_id:
        link = replace(link, linked_at=was.link.linked_at)  # type: ignore[union-attr]  # it has one
    registry.put(link, "linked" if was is None else "moved", was)
