"""The status of a stack that doesn't run, and the shape that scripts read."""

from __future__ import annotations

from healthchecks.status import Status, observe
from infra.database.facts import DatabaseFacts, Pgvector, Tables
from infra.stack.deployment import Database, Deployment, Role, Server

NOWHERE = Server("http://127.0.0.1:9")


def test_a_server_that_is_down_is_not_healthy_and_the_rest_is_still_told() -> None:
    status = observe(Deployment("prod", "external", NOWHERE, release="0.16.8"))
    assert not status.healthy
    assert status.as_json()["server"] == {
        "url": "http://127.0.0.1:9",
        "version": None,
        "healthy": False,
    }
    assert status.head == "1c28e167b74f"
    assert "no server answers" in status.problems[0]


def test_a_database_that_is_down_is_a_problem_and_no_exception() -> None:
    role = Role("letta")
    database = Database("127.0.0.1", 9, "letta", role, role)
    status = observe(Deployment("prod", "external", NOWHERE, database=database))
    assert status.database is None
    assert any("the database letta at 127.0.0.1:9" in problem for problem in status.problems)


def test_the_json_begins_with_the_promised_keys() -> None:
    facts = DatabaseFacts(
        "letta", "18.4", Pgvector("0.8.5", "public"), (Tables("public", "1c28e167b74f"),)
    )
    status = Status("prod", "local", "http://x", "0.16.8", True, facts, "1c28e167b74f", 7)
    answer = status.as_json()
    assert list(answer)[:5] == ["stack", "target", "server", "database", "agents"]
    assert answer["server"] == {"url": "http://x", "version": "0.16.8", "healthy": True}
    assert answer["database"] == {
        "name": "letta",
        "version": "18.4",
        "pgvector": "0.8.5",
        "revision": "1c28e167b74f",
        "head": "1c28e167b74f",
    }
    assert answer["agents"] == 7
