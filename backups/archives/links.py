"""The registry's links of agents that are restored under new ids, or erased.

An agent whose original is gone takes its place, in the same transaction; a copy beside the original is
nobody's, and must not look like an application's.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backups.archives.staging import Staging
from infra.identity import person
from letta_ops.registry.carrying import has_registry
from letta_ops.registry.links import OF_KEY, TAG, Event, Key, Link, Row
from letta_ops.registry.postgres import SCHEMA
from letta_ops.registry.postgres import replace as put_link

if TYPE_CHECKING:
    import psycopg

LINKED = f"""
SELECT l.app, l.app_agent_id, l.letta_agent_id, l.server, l.linked_at, l.linked_by, l.template
FROM {SCHEMA}.registry_links l WHERE l.letta_agent_id = ANY(%s)
"""  # of names that stand above


FORGET = (
    f"DELETE FROM {SCHEMA}.registry_links WHERE letta_agent_id = ANY(%(agents)s)",
    f"DELETE FROM {SCHEMA}.registry_history WHERE ARRAY[letta_agent_id, before] && %(agents)s",
)


def forget(link: psycopg.Connection[Any], agents: Sequence[str]) -> int:
    """Forget whose agents these are, with the history: an application's id may be a name. Return how many
    links there were."""
    if not has_registry(link):
        return 0
    links, _ = (link.execute(query, {"agents": list(agents)}).rowcount for query in FORGET)
    return links


def relink(staging: Staging, new: Mapping[str, str]) -> None:
    """`new` are ids by those of the archive. Where the registry is in the same database, links of agents
    that are gone lead to the new ones."""
    moved = {old: now for old, now in new.items() if old != now and old.startswith("agent-")}
    if not moved:
        return
    there = {
        identifier
        for (identifier,) in staging.run(
            "SELECT id FROM {} WHERE id = ANY(%s)",
            staging.model.table("agents"),
            values=[list(moved)],
        )
    }
    for old in moved.keys() - there:
        _take_over(staging, old, moved[old])
    _unmark(staging, [moved[old] for old in moved.keys() & there])


def _take_over(staging: Staging, old: str, now: str) -> None:
    if not has_registry(staging.link):
        return
    for app, identifier, agent, server, at, by, template in staging.link.execute(LINKED, [[old]]):
        key, reason = Key(app, identifier), "restored under a new id"
        link = Link(app, identifier, agent, server, at, by, reason, template)
        moved = replace(link, letta_agent_id=now)
        event = Event(
            str(uuid.uuid4()), dt.datetime.now(dt.UTC), person(), app, identifier, "moved", now, old,
            reason,
        )  # fmt: skip
        put_link(staging.link, key, Row(key, link), Row(key, moved), event)


def _unmark(staging: Staging, copies: list[str]) -> None:
    """Take the marks of copies away: their originals have them."""
    if not copies:
        return
    if "agents_tags" in staging.model.columns:
        staging.run(
            "DELETE FROM {} WHERE agent_id = ANY(%s) AND starts_with(tag, %s)",
            staging.model.table("agents_tags"),
            values=[copies, TAG],
        )
    if "metadata_" in staging.model.names("agents"):
        staging.run(
            "UPDATE {} SET metadata_ = (metadata_::jsonb - %s)::json WHERE id = ANY(%s)"
            " AND json_typeof(metadata_) = 'object'",
            staging.model.table("agents"),
            values=[OF_KEY, copies],
        )
