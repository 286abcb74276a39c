"""From SQLite: a file that a real server of 0.11.7 has written becomes a stack, and nothing is lost."""

from __future__ import annotations

import lzma
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.live.home_made import on_sqlite
from tests.live.machine import Stack
from tests.live.seeding import Server, seed

# Written by `seed` through the API of 0.11.7; it can't insert into archival memory there (HTTP 400).
FILE = Path(__file__).with_name("sqlite-0.11.7.db.xz")
ARCHIVAL = """
INSERT INTO archives (id, name, is_deleted, created_at, organization_id, vector_db_provider)
  SELECT 'archive-00000000-0000-4000-8000-000000000001', 'by hand', 0, '2025-01-01 00:00:00', id, 'NATIVE'
  FROM organizations LIMIT 1;
INSERT INTO archives_agents (agent_id, archive_id, is_owner)
  SELECT id, 'archive-00000000-0000-4000-8000-000000000001', 1 FROM agents WHERE name = 'seeded-0';
"""
pytestmark = pytest.mark.target(
    "local", reason="what comes in is a backup by then, on every target"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "sqlite.db"
    path.parent.mkdir()
    path.write_bytes(lzma.decompress(FILE.read_bytes()))
    link = sqlite3.connect(path)
    link.executescript(ARCHIVAL)
    link.execute(
        "INSERT INTO archival_passages (id, text, embedding, embedding_config, metadata_, is_deleted,"
        " created_at, organization_id, archive_id) SELECT 'passage-00000000-0000-4000-8000-000000000001',"
        " 'The lighthouse is red.', ?, embedding_config, '{}', 0, '2025-01-01 00:00:00', organization_id,"
        " 'archive-00000000-0000-4000-8000-000000000001' FROM agents WHERE name = 'seeded-0'",
        [struct.pack("<4096f", *[n / 4096 for n in range(4096)])],
    )
    link.commit()
    link.close()
    return path


def held(file: Path) -> dict[str, Any]:
    """What of the file can be asked for through the API."""
    with sqlite3.connect(file) as link:
        return {
            "messages": dict(link.execute("SELECT agent_id, count(*) FROM messages GROUP BY 1")),
            "texts": {text for (text,) in link.execute("SELECT value FROM block")},
            "tags": sorted(link.execute("SELECT agent_id, tag FROM agents_tags")),
            "secrets": sorted(
                link.execute("SELECT agent_id, value FROM agent_environment_variables")
            ),
        }


def served(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = {"messages": {}, "texts": set(), "tags": [], "secrets": []}
    server = Server(stack.deployment)
    for name in [each["id"] for each in server.call("GET", "/v1/agents/?limit=100")]:
        include = "include=agent.secrets&include=agent.tags"
        agent = server.call("GET", f"/v1/agents/{name}?{include}")
        found["tags"] += [(name, tag) for tag in agent["tags"]]
        found["secrets"] += [(name, each["value"]) for each in agent["secrets"]]
        found["messages"][name] = stack.json("agent", "show", name)["counts"]["messages"]
    found["texts"] = {each["value"] for each in server.call("GET", "/v1/blocks/?limit=200")}
    return {**found, "tags": sorted(found["tags"]), "secrets": sorted(found["secrets"])}


@pytest.mark.long
def test_a_file_becomes_a_stack_and_each_agent_goes_on(own_stack: Stack, file: Path) -> None:
    wanted, before = held(file), file.read_bytes()
    shown = own_stack.json("migrate", "from-sqlite", str(file), "--dry-run")
    assert shown["problems"] == []
    assert shown["rows"]["messages"] == sum(wanted["messages"].values())
    assert own_stack.json("agent", "list") == []

    # Other tests, which had this stack before, may have left something that is kept.
    done = own_stack.json("migrate", "from-sqlite", str(file), "--yes", "--replace")
    assert done["proven"]
    assert done["compared_rows"] >= sum(shown["rows"].values())
    port = own_stack.ports["model_port"]
    assert list(done["endpoints"].values()) == [f"http://127.0.0.1:{port}/v1"]
    assert served(own_stack) == wanted
    assert file.read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == ["sqlite.db"]
    server = Server(own_stack.deployment)
    for name in wanted["messages"]:
        assert server.say(name, "Are you still there?")["messages"]
    (agent,) = server.call("GET", "/v1/agents/?name=seeded-0")
    found = server.call("GET", f"/v1/agents/{agent['id']}/archival-memory")
    assert "The lighthouse is red." in [each["text"] for each in found]

    # It was a backup by then, of somebody else: none of the stack's own, and never its newest.
    assert own_stack.json("backup", "list") == []
    refused = own_stack.run("--json", "migrate", "from-sqlite", str(file), "--yes")
    assert refused.code == 1
    assert refused.json["error"]["code"] == "stack-not-empty"
    for agent in server.call("GET", "/v1/agents/"):
        server.call("DELETE", f"/v1/agents/{agent['id']}")
    refused = own_stack.run("--json", "migrate", "from-sqlite", str(file), "--yes")
    assert " blocks" in refused.json["error"]["message"]  # which nobody may have attached yet


@pytest.mark.long
def test_what_postgres_refuses_is_told_and_nothing_is_changed(own_stack: Stack, file: Path) -> None:
    with sqlite3.connect(file) as link:
        link.execute("UPDATE block SET value = 'a' || char(0) || 'b' WHERE label = 'shared'")
        link.execute("UPDATE messages SET step_id = 'step-gone' WHERE role = 'assistant'")
    refused = own_stack.run("--json", "migrate", "from-sqlite", str(file), "--yes", "--replace")
    assert refused.code == 1
    assert refused.json["error"]["code"] == "rows-refused"
    columns = {(each["table"], each["column"]) for each in refused.json["problems"]}
    assert columns == {("block", "value"), ("messages", "step_id")}
    assert all(each["mend"] is None for each in refused.json["problems"])
    mended = own_stack.json("migrate", "from-sqlite", str(file), "--dry-run", "--mend")
    assert all(each["mend"] for each in mended["problems"])
    assert mended["rows_left_out"] == 0


@pytest.mark.long
def test_a_server_that_runs_on_sqlite_is_brought_along(
    own_stack: Stack, tmp_path: Path, interpreter: Path
) -> None:
    with on_sqlite(tmp_path / "home", interpreter) as home:
        seeded = seed(home.deployment, messages=20, passages=0)
        wanted = held(home.file)
        # Also while it runs and somebody talks to it.
        shown = own_stack.json("migrate", "from-sqlite", str(home.file), "--dry-run")
        assert shown["problems"] == []
        Server(home.deployment).say(seeded.agents[0], "One more.")
    wanted = held(home.file)
    done = own_stack.json("migrate", "from-sqlite", str(home.file), "--yes", "--replace")
    assert done["proven"]
    assert served(own_stack) == wanted
