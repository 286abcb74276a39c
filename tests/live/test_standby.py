"""A restore that clients hardly notice: a server works on what was restored before the other one goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.api import api
from infra.stack.deployment import SERVICE_REDIS, SERVICE_STANDBY
from infra.targets.docker.engine.client import engine
from infra.targets.docker.engine.execution import execute
from tests.live.clients import talking
from tests.live.docker_stack import DockerStack
from tests.live.faults import (
    again,
    assert_nothing_left,
    assert_unharmed,
    end_started,
    in_folder,
    start,
    state,
)
from tests.live.kept import Kept, kept, make_agent
from tests.live.machine import Stack

pytestmark = pytest.mark.target("docker", reason="a local stack has nothing that sends clients on")
RESTORE = ("backup", "restore", "latest", "--yes")
BESIDE = "switching: the server beside serves"


@pytest.fixture(scope="module")
def place(own_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """With an agent in a backup of either scope, and one that is newer."""
    made = kept(own_stack, tmp_path_factory.mktemp("standby"))
    make_agent(made.deployment, "backed-up")
    return made


def docker(place: Kept) -> DockerStack:
    assert isinstance(place.stack, DockerStack)
    return place.stack


@pytest.mark.long
@pytest.mark.parametrize("scope", ["database", "letta"])
def test_clients_hardly_notice_a_restore(place: Kept, scope: str) -> None:
    environment = {"LETTA_OPS_BACKUP_SCOPE": scope}
    assert ask_redis(place, "SET", "of-the-data-before", "x") == "OK"
    with talking(place.stack) as clients:
        place.json("backup", "create", environment=environment)
        with api(place.deployment) as client:
            newer = client.agents.create(name="newer", model="openai-proxy/fake")
        done = place.run("--json", *RESTORE, environment=environment)
    assert done.code == 0, done.err
    assert BESIDE in done.err
    with api(place.deployment) as client:
        assert newer.id not in [agent.id for agent in client.agents.list()]
    assert docker(place).containers(SERVICE_STANDBY) == []
    assert ask_redis(place, "EXISTS", "of-the-data-before") == "0"
    # Who worked in the database while it got its name has lost that session.
    assert len(clients.failures) <= 1, clients.failures
    # A part of what the whole took; how long, `benchmarks/down_time.py` says.
    planned = place.json(*RESTORE, "--dry-run", environment=environment)
    assert 0 < planned["expected_down_seconds"] < done.json["seconds"]


def ask_redis(place: Kept, *words: str) -> str:
    name = docker(place).container(SERVICE_REDIS)["Name"].removeprefix("/")
    return execute(name, ["valkey-cli", *words]).output.strip()


@pytest.mark.long
def test_a_restore_that_is_killed_while_the_other_server_serves_is_undone(
    place: Kept, tmp_path: Path
) -> None:
    place.json("backup", "create")
    with api(place.deployment) as client:
        newer = client.agents.create(name="newer", model="openai-proxy/fake")
    before, names = state(place), in_folder(place.stack)
    command = start(place, *RESTORE[1:], log=tmp_path / "log")
    assert command.wait_for(BESIDE), command.said
    command.kill(alone=True)
    assert_unharmed(place, before, set())
    again(place, "create")
    assert_nothing_left(place, names, [command])
    end_started()
    with api(place.deployment) as client:
        assert client.agents.retrieve(newer.id).name == "newer"
        client.agents.delete(newer.id)
    place.json("preview", "--fail-on", "changes")


@pytest.mark.long
def test_a_server_that_can_not_work_on_what_was_restored_never_gets_a_client(place: Kept) -> None:
    good = place.sql("SELECT llm_config::text, id FROM agents")
    place.sql("UPDATE agents SET llm_config = '\"nonsense\"'")
    place.json("backup", "create")
    for values in good:
        place.sql("UPDATE agents SET llm_config = %s::json WHERE id = %s", *values)
    with talking(place.stack) as clients:
        error = place.json(*RESTORE, code=1)["error"]
    assert error["code"] == "server-not-proven"
    assert clients.failures == []
    assert docker(place).containers(SERVICE_STANDBY) == []
    assert not place.databases() & {"letta_restoring"}


@pytest.mark.long
def test_where_no_other_can_be_started_clients_wait_and_nothing_of_others_is_touched(
    place: Kept,
) -> None:
    stack = docker(place)
    place.json("backup", "create")
    with engine() as client:
        image = stack.container("letta")["Image"]
        name = stack.names.container(SERVICE_STANDBY)
        other = client.containers.create(image, name=name)
        try:
            done = place.run("--json", *RESTORE)
            other.reload()
        finally:
            other.remove()
    assert done.code == 0, done.err
    assert "clients have to wait, since no server could be started beside" in done.err


@pytest.mark.long
def test_without_room_for_two_the_first_is_stopped_before(place: Kept) -> None:
    place.json("backup", "create")
    with talking(place.stack) as clients:
        done = place.run("--json", *RESTORE, "--stop-first")
    assert done.code == 0, done.err
    assert BESIDE not in done.err
    assert clients.failures != []
