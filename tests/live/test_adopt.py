"""Adopting: the database of a server that nobody here has made becomes a stack, with ids and secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backups.contents import read_tables
from backups.side_database import SideDatabase, copy_database
from infra.stack.deployment import Database, postgres_uri
from infra.targets import host
from tests.live.machine import Machine, Stack
from tests.live.seeding import Seeded, Server, seed

# Also the name of the owner: a schema of it would be the first in his search path.
NAME = "letta"
# As the official image has it: all in a schema with the database's name, and the search path on that.
LAYOUT = """
DROP SCHEMA IF EXISTS letta_ops CASCADE;
CREATE SCHEMA letta AUTHORIZATION letta;
DO $$ DECLARE found record; BEGIN
  FOR found IN SELECT format('%s %I.%I', CASE relkind WHEN 'r' THEN 'TABLE' ELSE 'SEQUENCE' END, 'public',
    relname) AS name FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')
    AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype IN ('e', 'a', 'i'))
  LOOP EXECUTE 'ALTER ' || found.name || ' SET SCHEMA letta'; END LOOP;
  FOR found IN SELECT format('%I.%I', 'public', typname) AS name FROM pg_type
    WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
  LOOP EXECUTE 'ALTER TYPE ' || found.name || ' SET SCHEMA letta'; END LOOP;
END $$;
CREATE TABLE public.of_somebody_else (x int);
ALTER DATABASE official SET search_path TO letta, public;
"""
pytestmark = [
    pytest.mark.target("local", reason="what comes in is a backup by then, on every target"),
    pytest.mark.long,
]


@dataclass(frozen=True)
class Source:
    """A database of 0.13.0, its URL and its encryption key in files, and what was made in it."""

    stack: Stack
    database: Database
    url: Path
    key: Path
    seeded: Seeded

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(**self.database.connection(self.database.owner)) as link:  # type: ignore[arg-type]
            yield link

    def content(self) -> dict[str, Any]:
        with (
            host(self.stack.deployment).administrator() as access,
            access.connect("official") as link,
        ):
            return read_tables(link)


@pytest.fixture(scope="module")
def source(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    stack = machine.stack("adopted")
    stack.up("--no-smoke", "--config", "release=0.13.0")
    deployment = stack.deployment
    seeded = seed(deployment, messages=3, passages=3)
    assert deployment.database is not None
    assert deployment.server.encryption_key is not None
    with host(deployment).administrator() as access:
        copy_database(access, SideDatabase("official", "letta", like=deployment.database.name))
        with access.connect("official") as link:
            link.execute(LAYOUT)
    folder = tmp_path_factory.mktemp("adopt")
    url, key = folder / "url", folder / "key"
    database = replace(deployment.database, name="official")
    url.write_text(postgres_uri(database, database.owner).reveal())
    key.write_text(deployment.server.encryption_key.reveal())
    yield Source(stack, database, url, key, seeded)
    stack.run("destroy", "--delete-data", "--yes")


def test_a_database_of_the_official_layout_is_adopted(own_stack: Stack, source: Source) -> None:
    words: tuple[str, ...] = ("migrate", "adopt", "--database", f"file:{source.url}")
    before = source.content()
    refused = own_stack.json(*words, "--dry-run", code=1)
    assert refused["error"]["code"] == "wrong-encryption-key"
    words = (*words, "--encryption-key", f"file:{source.key}")
    seen = own_stack.json(*words, "--dry-run")
    assert (seen["release"], seen["schema"], seen["counts"]["agents"]) == ("0.13.0", NAME, 3)
    with source.connected():
        busy = own_stack.json(*words, "--yes", code=1)
    assert busy["error"]["code"] == "source-in-use"
    assert own_stack.json("agent", "list") == []

    done = own_stack.json(*words, "--yes", "--replace")
    assert done["proven"]
    assert done["compared_rows"] > 100
    assert source.content() == before
    server = Server(own_stack.deployment)
    for number, agent in enumerate(source.seeded.agents):
        shown = server.call("GET", f"/v1/agents/{agent}?include=agent.secrets")
        assert [each["value"] for each in shown["secrets"]] == [f"secret-{number}"]
        assert own_stack.json("agent", "show", agent)["counts"]["passages"] == 3
        assert server.say(agent, "Are you still there?")["messages"]
    with own_stack.administrator() as link:
        homes = link.execute(
            "SELECT DISTINCT relnamespace::regnamespace::text FROM pg_class"
            " WHERE relname = ANY(%s)",
            [["agents", "conversations"]],
        )
        assert homes.fetchall() == [("public",)]  # where the server here looks, and nowhere else
        assert link.execute("SELECT to_regclass('of_somebody_else')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://letta:wrong@127.0.0.1:{port}/official", "database-unreachable"),
        ("postgresql://letta:x@127.0.0.1:1/official", "database-unreachable"),
        ("host=127.0.0.1 user=letta password=wrong dbname=letta", "database-url"),
        ("postgresql://letta:wr/ong@127.0.0.1/letta", "database-url"),
        ("postgresql:///letta?host=/var/run/postgresql", "database-url"),
        ("postgresql://letta:wrong@127.0.0.1/letta?port=6543", "database-url"),
    ],
)
def test_what_cannot_be_adopted_is_told(
    own_stack: Stack, source: Source, tmp_path: Path, url: str, code: str
) -> None:
    file = tmp_path / "url"
    file.write_text(url.format(port=source.database.port))
    answer = own_stack.run("--json", "migrate", "adopt", "--database", f"file:{file}", "--dry-run")
    assert answer.code == 1
    assert answer.json["error"]["code"] == code
    assert "wrong" not in answer.out + answer.err
    itself = own_stack.deployment.database
    assert itself is not None
    file.write_text(postgres_uri(itself, itself.owner).reveal())
    answer = own_stack.run("--json", "migrate", "adopt", "--database", f"file:{file}", "--dry-run")
    assert answer.json["error"]["code"] == "source-is-stack"


def test_a_data_folder_is_adopted_and_not_written_to(own_stack: Stack, source: Source) -> None:
    """The last one here: it stops the source."""
    stack, data = source.stack, source.stack.folder.root
    words = ("migrate", "adopt", "--data", str(data), "--encryption-key", f"file:{source.key}")
    running = own_stack.json(*words, "--dry-run", code=1)
    assert running["error"]["code"] == "source-in-use"
    with host(stack.deployment).administrator() as access, access.connect("postgres") as link:
        link.execute("DROP DATABASE official WITH (FORCE)")
    assert stack.run("destroy", "--yes").code == 0
    before = written(data)
    done = own_stack.json(*words, "--replace", "--yes")
    assert done["source"] == str(data / "data" / "postgres")
    assert done["proven"]
    assert written(data) == before
    listed = {each["id"] for each in own_stack.json("agent", "list")}
    assert listed == set(source.seeded.agents)


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes of the files of a folder when somebody writes to it."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }
