"""Two stacks live side by side and share nothing."""

from __future__ import annotations

import pwd
import subprocess

import pytest

from infra.accounts import service_account
from tests.live.machine import Stack


def test_two_stacks_share_no_process_port_file_secret_or_agent(
    stack: Stack, own_stack: Stack
) -> None:
    from infra.connect import api

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


def test_each_server_has_a_home_of_its_own(stack: Stack, own_stack: Stack) -> None:
    for one in (stack, own_stack):
        homes = {each.environ()["HOME"] for each in one.processes()}
        assert homes == {str(one.folder.home)}
        assert (one.folder.home / ".letta").is_dir()


def test_destroying_one_leaves_the_other(stack: Stack, own_stack: Stack) -> None:
    before = stack.pid("letta")
    account = service_account(own_stack.folder, "server")
    stray = subprocess.Popen(["/bin/sleep", "600"], user=account.uid, env={})  # an agent's, say
    own_stack.destroy("--delete-data")
    assert not own_stack.folder.root.exists()
    assert own_stack.processes() == []
    if not account.is_us:
        assert stray.wait(10) < 0
        with pytest.raises(KeyError):
            pwd.getpwnam(account.name)
    stray.kill()
    stray.wait()
    assert stack.pid("letta") == before
    assert stack.json("status")["server"]["healthy"] is True
