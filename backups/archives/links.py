"""The registry's links of agents that are restored under new ids, or erased.

An agent whose original is gone takes its place, in the same transaction; a copy beside the original is
nobody's, and must not look like an application's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backups.archives.staging import Staging
from infra.identity import person
from letta_ops.registry.carrying import has_registry
from letta_ops.registry.links import OF_KEY, TAG, Event, Link, Row
from letta_ops.registry.postgres import SCHEMA
from letta_ops.registry.postgres import replace as put_link

if TYPE_CHECKING:
    import psycopg

LINKED = f"""
SELECT app, app_agent_id, letta_agent_id, server, linked_at, linked_by, reason, template
FROM {SCHEMA}.registry_links WHERE letta_agent_id = ANY(%s)
"""
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
    _take_over(staging, {old: now for old, now in moved.items() if old not in there})
    _unmark(staging, [moved[old] for old in moved.keys() & there])


def _take_over(staging: Staging, moved: Mapping[str, str]) -> None:
    if not moved or not has_registry(staging.link):
        return
    for link in [Link(*row) for row in staging.link.execute(LINKED, [list(moved)])]:
        old, reason = link.letta_agent_id, "restored under a new id"
        new = replace(link, letta_agent_id=moved[old], reason=reason)
        event = Event.now(person(), link.key, "moved", moved[old], old, reason)
        put_link(staging.link, link.key, Row(link.key, link), Row(link.key, new), event)


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
