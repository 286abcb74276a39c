"""Do the registry's links lead to agents that are there?"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backups.catalog import deployment_id
from healthchecks.facts import reading
from infra.database.facts import database_facts
from infra.stack.deployment import Deployment
from infra.targets.facts import Measurement

if TYPE_CHECKING:
    import psycopg

SHOWN = 5  # of each kind
SECONDS = 15.0  # less than a check may take


@dataclass(frozen=True)
class Links(Measurement):
    """How many links there are, and what is wrong with some: how many, and the first of them in words.

    `reconciled` is when somebody looked last; None: nobody did.
    """

    count: int
    gone: tuple[int, tuple[str, ...]]  # their agent is not there
    orphaned: tuple[int, tuple[str, ...]]  # agents that were made for an id, and have no link
    elsewhere: int  # of another server
    reconciled: dt.datetime | None


def look_at_links(deployment: Deployment) -> Links:
    """In the deployment's database with two queries; else the server is asked for its agents.

    Raises LettaOpsError.
    """
    if deployment.registry is not None:
        return _by_api(deployment)
    with reading(deployment) as link:
        schema = database_facts(link).schema
        return NONE if schema is None else _in_database(link, schema, deployment_id(deployment))


NONE = Links(0, (0, ()), (0, ()), 0, None)


def _in_database(link: psycopg.Connection[Any], schema: str, server: str) -> Links:
    from psycopg import sql

    from letta_ops.registry.carrying import has_registry
    from letta_ops.registry.links import MOVED_OUT, TAG, Key
    from letta_ops.registry.reconcile import RECONCILED

    if not has_registry(link):
        return NONE
    tables = {name: sql.Identifier(schema, name) for name in ("agents", "agents_tags")}
    gone = link.execute(
        sql.SQL(
            "SELECT l.app, l.app_agent_id, count(*) OVER () FROM letta_ops.registry_links l"
            " WHERE l.letta_agent_id IS NOT NULL AND NOT starts_with(l.letta_agent_id, {moved})"
            " AND NOT EXISTS (SELECT FROM {agents} a WHERE a.id = l.letta_agent_id) LIMIT {most}"
        ).format(most=SHOWN, moved=MOVED_OUT, **tables)
    ).fetchall()
    orphaned = link.execute(
        sql.SQL(
            "SELECT t.agent_id, count(*) OVER () FROM {agents_tags} t WHERE starts_with(t.tag, %s)"
            " AND NOT EXISTS (SELECT FROM letta_ops.registry_links l"
            " WHERE l.letta_agent_id IN (t.agent_id, replace(t.agent_id, 'agent-', {moved})))"
            " LIMIT {most}"
        ).format(most=SHOWN, moved=MOVED_OUT, **tables),
        [TAG],
    ).fetchall()
    row = link.execute(
        "SELECT count(letta_agent_id), count(*) FILTER (WHERE server <> %s),"
        " (SELECT max(at) FROM letta_ops.registry_history WHERE what = %s)"
        " FROM letta_ops.registry_links",
        [server, RECONCILED],
    ).fetchone()
    count, elsewhere, reconciled = row or (0, 0, None)
    return Links(
        count,
        (gone[0][2] if gone else 0, tuple(str(Key(app, each)) for app, each, _ in gone)),
        (orphaned[0][1] if orphaned else 0, tuple(agent for agent, _ in orphaned)),
        elsewhere,
        reconciled,
    )


def _by_api(deployment: Deployment) -> Links:
    from backups.registry import opened
    from letta_ops.registry import reconcile

    with opened(deployment, SECONDS) as registry:
        found = reconcile.find(registry)
        count = sum(row.link is not None for row in registry.store.rows())
        events = registry.store.events()
        last = next((each.at for each in events if each.what == reconcile.RECONCILED), None)
    gone = [str(each.key) for each in found if each.kind == reconcile.MISSING]
    orphaned = [agent for each in found if each.kind == reconcile.ORPHANED for agent in each.agents]
    elsewhere = sum(each.kind == reconcile.ELSEWHERE for each in found)
    return Links(
        count,
        (len(gone), tuple(gone[:SHOWN])),
        (len(orphaned), tuple(orphaned[:SHOWN])),
        elsewhere,
        last,
    )
