"""Agents of an older release: archived there, backed up there, and restored into today's server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.api import api
from infra.embedded.alembic import upgrade
from infra.embedded.throwaway import throwaway_folder
from infra.embedded.throwaway_postgres import start_postgres
from infra.embedded.throwaway_server import black_hole, install_release, start_server
from infra.stack.deployment import DATABASE_NAME, Deployment, store_settings
from infra.stack.releases import Release
from tests.live.agents import say
from tests.live.machine import LETTA_OPS, ROOT, Stack

OLD = Release(
    version="0.13.0",
    sdist_sha256="95757449422d6cbc2d338dfe9f4f005e5b853cada73ba07429d94bfe5d719d89",
    alembic_head="f6cd5a1e519d",
    tables=frozenset(),
    types=frozenset(),
)
# The file whose agent the old server is given: it asks no model.
EXAMPLE = ROOT / "docs" / "example.af"
pytestmark = [
    pytest.mark.long,
    pytest.mark.target("local", reason="the old server runs on this machine"),
]


@dataclass(frozen=True)
class House:
    """The stack, and a server of the old release with one agent, by a profile written by hand."""

    stack: Stack
    profile: Path
    server: Deployment
    agent: str

    def old(self, *words: str) -> Any:
        answer = self.stack.machine.run(LETTA_OPS, "--profile", str(self.profile), "--json", *words)
        assert answer.code == 0, answer.out + answer.err
        return answer.json


@pytest.fixture(scope="module")
def house(own_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    parent = own_stack.machine.root / "old"
    parent.mkdir(mode=0o755)
    with throwaway_folder(parent, print) as folder, black_hole() as nowhere:
        postgres = start_postgres(folder)
        release = install_release(folder, OLD, print)
        database = postgres.database
        with postgres.access.connect(postgres.access.maintenance) as link:
            link.execute(f"CREATE DATABASE {DATABASE_NAME} OWNER {database.owner.name}")
        with postgres.access.connect(DATABASE_NAME) as link:
            link.execute("CREATE EXTENSION vector")
        upgrade(folder, release, database, "head", print, "")
        server = start_server(folder, release, database, None, nowhere)
        assert server.server.password is not None
        assert database.owner.password is not None
        profile = tmp_path_factory.mktemp("old") / "profile.toml"
        profile.write_text(f"""
version = 1
id = "{own_stack.deployment.id}"
release = "0.13.0"
target = "external"
store.url = "{store_settings(own_stack.deployment).url}"
backup.scope = "database"

[server]
url = "{server.server.url}"
password = "{server.server.password.reveal()}"

[database]
host = "{database.host}"
port = {database.port}
name = "{DATABASE_NAME}"
owner = "{database.owner.name}"
owner_password = "{database.owner.password.reveal()}"
tls = "disable"
""")
        profile.chmod(0o600)
        with api(server) as client, EXAMPLE.open("rb") as file:
            made: Any = client.agents.import_file(file=file)
        yield House(own_stack, profile, server, made.agent_ids[0])


def said(stack: Stack, agent: str) -> list[tuple[str, str]]:
    found = stack.json("agent", "messages", agent)
    return [(each["role"], each["text"]) for each in found if each["role"] != "system"]


def test_an_archive_of_an_older_release_is_migrated_and_restored(
    house: House, tmp_path: Path
) -> None:
    path = tmp_path / "old.agents"
    made = house.old("agent", "archive", house.agent, "-o", str(path))
    assert made["revision"] == OLD.alembic_head
    before = house.old("agent", "messages", house.agent)
    answer = house.stack.json("agent", "restore", str(path))
    assert [agent["id"] for agent in answer["agents"]] == [house.agent]
    assert said(house.stack, house.agent) == [
        (each["role"], each["text"]) for each in before if each["role"] != "system"
    ]
    assert len(before) > 1
    old = house.old("agent", "show", house.agent)
    new = house.stack.json("agent", "show", house.agent)
    for key in ("name", "system", "tools", "tags", "blocks"):
        assert new[key] == old[key], key
    compared = house.stack.json("agent", "diff", str(path), house.agent)
    assert (compared["equal"], compared["rows"]["messages"]) == (True, len(before))
    assert not list(house.stack.folder.root.glob("drill-*"))
    with house.stack.administrator() as link:
        link.execute(
            "UPDATE messages SET created_at = created_at - interval '1 s' WHERE role = 'user'"
        )
        link.commit()
    differing = house.stack.json("agent", "diff", str(path), house.agent, code=1)
    assert {(each["table"], *each["fields"]) for each in differing["differences"]} == {
        ("messages", "created_at")
    }
    house.stack.json("agent", "delete", house.agent, "--yes")


def test_one_agent_out_of_a_backup_of_an_older_release_comes_into_todays_server(
    house: House,
) -> None:
    backup = house.old("backup", "create")["id"]
    answer = house.stack.json(
        "agent", "restore", "--backup", backup, "--agent", house.agent, "--new-ids"
    )
    (agent,) = answer["agents"]
    assert agent["archived_id"] == house.agent != agent["id"]
    assert said(house.stack, agent["id"])
    with api(house.stack.deployment) as client:
        model = house.stack.deployment.model
        client.agents.update(agent["id"], model=model.handle, embedding=model.embedding)
        assert say(client, agent["id"], "Are you still there?")


def test_an_agent_of_an_older_release_leaves_from_its_server_an_archive_and_a_backup(
    house: House, tmp_path: Path
) -> None:
    archive = tmp_path / "old.agents"
    house.old("agent", "archive", house.agent, "-o", str(archive))
    house.old("backup", "create")
    logs = []
    for number, source in enumerate(((), ("--from", str(archive)), ("--from", "backup:latest"))):
        store = tmp_path / str(number)
        made = house.old("exit", "export", "--agent", house.agent, "--to", str(store), *source)
        assert made["agents"][0]["messages"] > 0
        verified = house.old("exit", "verify", str(store), "--agent", house.agent, *source)
        assert verified["equal"] is True
        logs.append([path.read_bytes() for path in sorted(store.glob("conversations/*/*.jsonl"))])
    assert logs[0] == logs[1] == logs[2]


def test_an_archive_of_a_newer_release_is_refused(house: House, tmp_path: Path) -> None:
    path = tmp_path / "old.agents"
    house.old("agent", "archive", house.agent, "-o", str(path))
    with house.stack.administrator() as link:
        link.execute("UPDATE alembic_version SET version_num = 'f6cd5a1e519e'")
        link.commit()
    try:
        refused = house.stack.run("--json", "agent", "restore", str(path))
        assert (refused.code, refused.json["error"]["code"]) == (1, "archive-other-revision")
    finally:
        with house.stack.administrator() as link:
            link.execute("UPDATE alembic_version SET version_num = '1c28e167b74f'")
            link.commit()
