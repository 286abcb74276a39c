"""Is the database of the profile really the one that the server uses?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from healthchecks.facts import agents_by_api, count_agents, reading, request
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.targets import host
from infra.targets.facts import Measurement

if TYPE_CHECKING:
    import psycopg

# Each server makes its built-in tools at its first boot, under random ids, and never deletes them:
# they tell databases apart, also empty ones. (Its base providers have such ids too, but the API
# lists only those that users added.)
TOOLS_PATH = "/v1/tools/?limit=200&return_only_letta_tools=true"


@dataclass(frozen=True)
class Identity(Measurement):
    """What server and database say of the same things.

    `tools`: built-in tools that the API lists; `known_tools`: those of them in the database.
    `agents_before`, `agents_after`: counted by the API around `agents`, counted in the database.
    `sessions`: connections of others to the database; a server that pools keeps some open, and
    nothing but them tells a database from its own copy. `pools` is None where that isn't known.
    """

    database: str
    tools: int
    known_tools: int
    agents_before: int
    agents: int
    agents_after: int
    sessions: int
    pools: bool | None


def compare_server_and_database(deployment: Deployment) -> Identity:
    """Ask both; raises LettaOpsError when one of them can't be asked."""
    tools = [str(tool["id"]) for tool in request(deployment, TOOLS_PATH)]
    before = agents_by_api(deployment)
    with reading(deployment) as link:
        facts = database_facts(link)
        if facts.schema is None:
            return Identity(facts.name, len(tools), 0, before, 0, before, 0, None)
        known, organizations = _known(link, facts.schema, tools)
        agents = _agents_of(link, facts.schema, organizations)
        sessions = _sessions(link)
    after = agents_by_api(deployment)
    # Where we provisioned server and database, there is no pooler of others in between.
    pools = True if host(deployment).provides_database else None
    return Identity(facts.name, len(tools), known, before, agents, after, sessions, pools)


def _known(link: psycopg.Connection[Any], schema: str, tools: list[str]) -> tuple[int, list[str]]:
    from psycopg import sql

    query = sql.SQL("SELECT id, organization_id FROM {} WHERE id = ANY(%s)").format(
        sql.Identifier(schema, "tools")
    )
    rows = link.execute(query, (tools,)).fetchall()
    return len(rows), sorted({organization for _, organization in rows if organization})


def _agents_of(link: psycopg.Connection[Any], schema: str, organizations: list[str]) -> int:
    """The API counts the agents of one organization: the one whose tools it lists."""
    from psycopg import sql

    if not organizations:
        return count_agents(link, schema)
    query = sql.SQL("SELECT count(*) FROM {} WHERE organization_id = ANY(%s)").format(
        sql.Identifier(schema, "agents")
    )
    row = link.execute(query, (organizations,)).fetchone()
    if row is None:
        raise LettaOpsError("database", "the database counted nothing", "run the check again")
    return int(row[0])


def _sessions(link: psycopg.Connection[Any]) -> int:
    row = link.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND usename IS NOT NULL AND application_name IS DISTINCT FROM 'letta-ops'"
    ).fetchone()
    return int(row[0]) if row else 0
