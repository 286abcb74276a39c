"""Two stacks live side by side and share nothing."""

from __future__ import annotations

import pwd
import subprocess

import pytest

from infra.accounts import service_account
from infra.targets.docker.names import PYTHON
from tests.live.docker_stack import DockerStack
from tests.live.machine import Stack

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 5432), timeout=3)"


def test_two_stacks_share_no_process_port_file_secret_or_agent(
    stack: Stack, own_stack: Stack
) -> None:
    from infra.api import api

    names = ("server-password", "encryption-key", "database-owner-password")
    for name in names:
        assert stack.run("secret", "show", name).out != own_stack.run("secret", "show", name).out
    assert not set(stack.ports.values()) & set(own_stack.ports.values())
    mine, other = ({each.pid for each in one.processes()} for one in (stack, own_stack))
    assert mine
    assert other
    assert not mine & other
    with api(stack.deployment) as client:
        agent = client.agents.create(
            name="only-here",
            model=stack.deployment.model.handle,
            embedding=stack.deployment.model.embedding,
        )
        assert own_stack.json("agent", "list") == []
        client.agents.delete(agent.id)


@pytest.mark.target("local", reason="in containers the home is a volume")
def test_each_server_has_a_home_of_its_own(stack: Stack, own_stack: Stack) -> None:
    for one in (stack, own_stack):
        homes = {each.environ()["HOME"] for each in one.processes()}
        assert homes == {str(one.folder.home)}
        assert (one.folder.home / ".letta").is_dir()


@pytest.mark.target("docker", reason="the network of a machine is one")
@pytest.mark.long
def test_no_container_reaches_one_of_another_stack(stack: Stack, own_stack: Stack) -> None:
    """Not even by its address: nothing but the engine joins the two stacks' networks."""
    from infra.targets.docker.engine.execution import execute

    assert isinstance(stack, DockerStack)
    assert isinstance(own_stack, DockerStack)
    server = stack.container("letta")["Name"].lstrip("/")
    mine, other = (each.container("postgres") for each in (stack, own_stack))
    for container, reached in ((mine, True), (other, False)):
        (network,) = container["NetworkSettings"]["Networks"].values()
        answer = execute(server, [PYTHON, "-c", CONNECT, network["IPAddress"]])
        assert (answer.code == 0) is reached, answer.output


@pytest.mark.target("local", reason="a container's processes end with it")
@pytest.mark.long
def test_what_an_agent_left_running_ends_with_its_stack(own_stack: Stack) -> None:
    account = service_account(own_stack.folder, "server")
    stray = subprocess.Popen(["/bin/sleep", "600"], user=account.uid, env={})  # an agent's, say
    own_stack.destroy("--delete-data")
    assert own_stack.remains() == []
    if not account.is_us:
        assert stray.wait(60) < 0
        with pytest.raises(KeyError):
            pwd.getpwnam(account.name)
    stray.kill()
    stray.wait()
    own_stack.up("--no-smoke")


def test_destroying_one_leaves_the_other(stack: Stack, own_stack: Stack) -> None:
    before = stack.pids()
    own_stack.destroy("--delete-data")
    assert not own_stack.folder.root.exists()
    assert own_stack.remains() == []
    assert stack.pids() == before
    assert stack.json("status")["server"]["healthy"] is True
