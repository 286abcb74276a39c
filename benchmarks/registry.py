"""Asking for an application's agent, against the bare SELECT that an application would write itself."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator

import psycopg
import psycopg_pool

from benchmarks.stage import Figure
from infra.api import api
from infra.stack.deployment import postgres_uri
from letta_ops.registry import Registry
from tests.live.machine import Machine

LINKS = 1_000_000
CALLS = 5_000
# An agent a link: without its own agent no link is one that `get` returns.
AGENTS = """
INSERT INTO agents SELECT (jsonb_populate_record(a, jsonb_build_object(
    'id', 'agent-' || gen_random_uuid(), 'name', 'bench', 'system', '', 'message_ids', '[]'::jsonb))).*
FROM agents a, generate_series(1, %s) WHERE a.id = %s
"""
FILL = """
INSERT INTO letta_ops.registry_links (app, app_agent_id, folded, letta_agent_id, server, linked_at,
    linked_by, reason)
SELECT 'shop', 'customer-' || row_number() OVER (), md5(id), id, 'here', now(), 'bench', 'bench'
FROM agents WHERE name = 'bench'
"""
BARE = "SELECT letta_agent_id FROM letta_ops.registry_links WHERE app = %s AND app_agent_id = %s"


def measure(machine: Machine) -> Iterator[Figure]:
    stack = machine.stack("registry")
    stack.up("--no-smoke")
    stack.json("registry", "list")
    database, password = stack.deployment.database, stack.deployment.server.password
    assert database is not None
    url = postgres_uri(database, database.owner, "sslmode=disable").reveal()
    model = stack.deployment.model
    with api(stack.deployment) as client:
        agent = client.agents.create(name="one", model=model.handle, embedding=model.embedding)
    with psycopg.connect(url, autocommit=True) as link:
        link.execute(AGENTS, [LINKS, agent.id])
        link.execute(FILL)
        link.execute("ANALYZE agents, letta_ops.registry_links")
        settings = {
            "server": stack.deployment.server.url,
            "password": password.reveal() if password else None,
            "app": "shop",
        }
        with Registry.open(url, **settings) as registry:  # type: ignore[arg-type]  # as they are
            pool = psycopg_pool.ConnectionPool(url, kwargs={"autocommit": True}, min_size=1)

            def pooled(each: str) -> object:
                with pool.connection() as lent:
                    return lent.execute(BARE, ["shop", each]).fetchone()

            ways: dict[str, Callable[[str], object]] = {
                "pooled": pooled,
                "bare": lambda each: link.execute(BARE, ["shop", each]).fetchone(),
                "get": registry.get,
                "ensure": registry.ensure,
            }
            times = _side_by_side(ways)
            pool.close()
    median = {name: statistics.median(found) for name, found in times.items()}
    last = {name: statistics.quantiles(found, n=100)[98] for name, found in times.items()}
    told = ", ".join(
        f"{name} {median[name] * 1e6:.0f} us (p99 {last[name] * 1e6:.0f})" for name in ways
    )
    scene = f"{LINKS:,} links, warm connection"
    yield Figure(f"registry get, 99th percentile, {scene}", last["get"] * 1000, "ms", 5.0, told)
    yield Figure(
        f"registry get against a bare SELECT by primary key, {scene}",
        median["get"] / median["bare"], "x", 1.5, told,
    )  # fmt: skip
    yield Figure(
        f"the same against a bare SELECT through psycopg's pool, {scene}",
        median["get"] / median["pooled"], "x", None, told,
    )  # fmt: skip
    yield Figure(
        f"registry ensure of a known id against get, {scene}",
        median["ensure"] / median["get"], "x", 2.0, told,
    )  # fmt: skip
    stack.destroy("--delete-data")


def _side_by_side(ways: dict[str, Callable[[str], object]]) -> dict[str, list[float]]:
    """Seconds of each call, the ways taking turns, each with ids of its own."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(CALLS):
        for name, way in ways.items():
            identifier = f"customer-{random.randrange(1, LINKS + 1)}"  # noqa: S311  # a benchmark's
            started = time.perf_counter()
            way(identifier)
            if number >= CALLS // 20:  # the first ones warm up
                times[name].append(time.perf_counter() - started)
    return times
