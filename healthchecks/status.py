"""What runs, where, in which version and on which database: asked from them, never from files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from healthchecks.facts import (
    agents_by_api,
    count_agents,
    reading,
    server_version,
)
from infra.database.facts import DatabaseFacts, database_facts
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.stack.releases import RELEASES
from infra.targets import host
from infra.targets.facts import Running


@dataclass(frozen=True)
class Status:
    """The state of a stack; None where nobody could be asked, and `problems` says why.

    `healthy`: the server answered a request that needs its password and its database. `head` is
    that of the release that really runs. `services` holds the words of supervisord, or of the engine
    (`RUNNING (healthy)`), by name; `engine` is that engine's address.
    """

    stack: str
    target: str
    url: str
    version: str | None = None
    healthy: bool = False
    database: DatabaseFacts | None = None
    head: str | None = None
    agents: int | None = None
    uptime_seconds: float | None = None
    services: dict[str, str] = field(default_factory=dict)
    engine: str | None = None
    problems: tuple[str, ...] = ()
    wrong_password: bool = False

    def as_json(self) -> dict[str, Any]:
        found = self.database
        return {
            "stack": self.stack,
            "target": self.target,
            "server": {"url": self.url, "version": self.version, "healthy": self.healthy},
            "database": {
                "name": found.name if found else None,
                "version": found.version if found else None,
                "pgvector": found.pgvector.version if found and found.pgvector else None,
                "revision": found.revision if found else None,
                "head": self.head,
            },
            "agents": self.agents,
            "uptime_seconds": None if self.uptime_seconds is None else round(self.uptime_seconds),
            "services": dict(self.services),
            **({"engine": self.engine} if self.engine else {}),
            "problems": list(self.problems),
        }


def observe(deployment: Deployment) -> Status:
    """Ask the server, its database and its keeper at once; that one is down is no exception."""
    host(deployment)  # imported by one thread, before several need it (see `healthchecks.run`)
    with ThreadPoolExecutor(max_workers=3) as pool:
        asked = pool.submit(_server, deployment)
        looked = pool.submit(_database, deployment)
        supervised = pool.submit(_services, deployment)
        version, counted, refusal = asked.result()
        facts, agents, database_problem = looked.result()
        running, supervisor_problem = supervised.result()
    problems = [refusal.message if refusal else "", database_problem, supervisor_problem]
    release = RELEASES.get(version or deployment.release or "")
    return Status(
        stack=deployment.stack,
        target=deployment.target,
        url=deployment.server.url,
        version=version,
        healthy=counted is not None,
        database=facts,
        head=release.alembic_head if release else None,
        agents=agents if agents is not None else counted,
        uptime_seconds=running.uptime,
        services=running.services,
        engine=running.engine,
        problems=tuple(text for text in problems if text),
        wrong_password=refusal is not None and refusal.code == "wrong-password",
    )


def _server(deployment: Deployment) -> tuple[str | None, int | None, LettaOpsError | None]:
    version = None
    try:
        version = server_version(deployment)
        return version, agents_by_api(deployment), None
    except LettaOpsError as error:
        return version, None, error


def _database(deployment: Deployment) -> tuple[DatabaseFacts | None, int | None, str]:
    if deployment.database is None:
        return None, None, ""
    facts = None
    try:
        with reading(deployment) as link:
            facts = database_facts(link)
            if facts.schema is None:
                return facts, None, f"the database {facts.name} holds no Letta tables"
            return facts, count_agents(link, facts.schema), ""
    except LettaOpsError as error:
        return facts, None, error.message


def _services(deployment: Deployment) -> tuple[Running, str]:
    try:
        return host(deployment).running(), ""
    except LettaOpsError as error:
        return Running({}, None), error.message
