"""`up` does what it must and no more, and gets over every interruption."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.live.machine import LETTA_OPS, PULUMI, Machine, Stack, free_ports, kill_tree, wait_until


def test_a_second_up_changes_nothing_and_says_so(stack: Stack) -> None:
    before = {service: stack.pid(service) for service in ("letta", "postgres", "model")}
    answer = stack.run("up", "--no-smoke")
    assert answer.code == 0, answer.err
    assert "nothing to change" in answer.out + answer.err
    assert {service: stack.pid(service) for service in before} == before


def test_a_preview_after_up_shows_no_difference(stack: Stack) -> None:
    changes = stack.json("preview")["changes"]
    assert set(changes) == {"same"}


def test_a_preview_keeps_no_setting(stack: Stack) -> None:
    (port,) = free_ports(1)
    shown = stack.json("preview", "--config", f"server.port={port}")
    assert {change["name"] for change in shown["resources"]} == {"letta", "profile"}
    assert set(stack.json("preview")["changes"]) == {"same"}


def test_a_literal_pulumi_up_sees_the_same_stack(stack: Stack) -> None:
    """The checkout's own program and the wrapper in .venv: no change, as after `letta-ops up`."""
    settings = stack.folder.project / f"Pulumi.{stack.name}.yaml"
    answer = stack.machine.run(
        PULUMI, "up", "--stack", stack.name, "--yes", "--non-interactive", "--config-file", settings
    )
    assert answer.code == 0, answer.out + answer.err
    assert "unchanged" in answer.out
    assert "created" not in answer.out
    assert "updated" not in answer.out


def test_a_stopped_service_is_a_difference_and_up_starts_it(own_stack: Stack) -> None:
    from infra.embedded import supervisor

    with supervisor.rpc(own_stack.folder) as keeper:
        keeper.stopProcess("model")
    changed = {change["name"] for change in own_stack.json("preview")["resources"]}
    assert changed == {"model"}
    own_stack.json("up", "--no-smoke")
    assert supervisor.states(own_stack.folder)["model"].running


def test_another_server_port_restarts_the_server_only(own_stack: Stack) -> None:
    (port,) = free_ports(1)
    before = {service: own_stack.pid(service) for service in ("letta", "postgres", "model")}
    changed = own_stack.json("up", "--no-smoke", "--config", f"server.port={port}")["changes"]
    assert {action for action in changed if changed[action]} == {"update", "same"}
    assert changed["update"] == 2  # the server and the profile
    assert own_stack.pid("letta") != before["letta"]
    assert own_stack.pid("postgres") == before["postgres"]
    assert own_stack.pid("model") == before["model"]
    assert own_stack.json("status")["server"]["healthy"] is True
    assert own_stack.deployment.server.port == port


def test_another_model_port_reaches_agents_that_were_made_before(own_stack: Stack) -> None:
    """Letta keeps the URL it saw first, in its database and in each agent."""
    from infra.connect import api

    def answers() -> bool:
        with api(own_stack.deployment) as client:
            said = client.agents.messages.create(
                agent.id, messages=[{"role": "user", "content": "Are you there?"}]
            )
            return "Are you there?" in str(said.messages)

    with api(own_stack.deployment) as client:
        agent = client.agents.create(
            name="old-timer",
            model=own_stack.deployment.model.handle,
            embedding=own_stack.deployment.model.embedding,
        )
    assert answers()
    (port,) = free_ports(1)
    own_stack.json("up", "--config", f"model_port={port}")
    assert answers()
    with api(own_stack.deployment) as client:
        client.agents.delete(agent.id)


def test_another_password_restarts_the_server_only(own_stack: Stack) -> None:
    """The profile is where a person changes a password; `up` brings it to the server."""
    from infra.profiles import remember

    before = own_stack.pid("postgres")
    remember(own_stack.folder.profile, {"server.password": "a-password-chosen-by-hand"})
    assert own_stack.json("check", code=2)["findings"][0]["state"] == "CRITICAL"
    own_stack.json("up", "--no-smoke")
    assert own_stack.pid("postgres") == before
    shown = own_stack.run("secret", "show", "server-password")
    assert shown.out.strip() == "a-password-chosen-by-hand"
    assert own_stack.json("agent", "list") == []


def test_a_new_database_password_reaches_database_and_server(own_stack: Stack) -> None:
    from infra.profiles import remember

    remember(own_stack.folder.profile, {"database.owner_password": "another-owner-password"})
    own_stack.json("up")  # with the smoke test: the server works on the database
    assert own_stack.json("status")["database"]["name"] == "letta"


def test_a_provider_is_added_and_the_stacks_model_leaves(own_stack: Stack, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-test-provider-key-0123456789\n")
    before = own_stack.pid("postgres")
    (url_port,) = free_ports(1)
    words = ["--config", f"providers.openai.api_key=file:{key}",
             "--config", f"providers.openai.base_url=http://127.0.0.1:{url_port}/v1"]  # fmt: skip
    changed = own_stack.json("up", "--no-smoke", *words)
    assert changed["changes"]["delete"] >= 1
    assert own_stack.pid("postgres") == before
    assert own_stack.deployment.model.handle is None
    back = ["--config", "providers.openai.api_key=", "--config", "providers.openai.base_url="]
    own_stack.json("up", *back)
    assert own_stack.deployment.model.handle is not None


def test_two_at_once_are_told_apart(own_stack: Stack, tmp_path: Path) -> None:
    """The second says who is at work, exits with 1 and changes nothing."""
    first = own_stack.machine.start(
        LETTA_OPS, "--stack", own_stack.name, "up", "--no-smoke", log=tmp_path / "first.log"
    )
    lock = own_stack.folder.lock
    wait_until("the first holds the lock", lambda: f"pid {first.pid}" in lock.read_text(), 30)
    second = own_stack.run("--json", "up", "--no-smoke")
    assert second.code == 1
    assert second.json["error"]["code"] == "locked"
    assert f"pid {first.pid}" in second.json["error"]["message"]
    assert first.wait(timeout=300) == 0


def test_destroy_leaves_the_data_and_the_next_up_finds_the_same_agents(own_stack: Stack) -> None:
    from infra.connect import api

    with api(own_stack.deployment) as client:
        agent = client.agents.create(
            name="kept",
            model=own_stack.deployment.model.handle,
            embedding=own_stack.deployment.model.embedding,
        )
    key = own_stack.run("secret", "show", "encryption-key").out
    own_stack.destroy()
    assert own_stack.processes() == []
    assert (own_stack.folder.postgres_data / "PG_VERSION").exists()
    own_stack.json("up", "--no-smoke")
    assert [each["id"] for each in own_stack.json("agent", "list")] == [agent.id]
    assert own_stack.run("secret", "show", "encryption-key").out == key


def test_up_killed_at_every_step_is_finished_in_the_end(machine: Machine, tmp_path: Path) -> None:
    """`kill -9` of the command and of pulumi, which then leaves its lock; each run goes on there."""
    made = machine.stack("killed")
    for step in ("server-password", "cluster", "postgres", "migration", "letta"):
        log = tmp_path / f"{step}.log"
        child = machine.start(
            LETTA_OPS, "--stack", made.name, "up", "--no-smoke", *made.settings(), log=log
        )
        _wait_for_line(log, child, f"{step}: creating")
        time.sleep(random.random())  # noqa: S311  # any moment within the step will do
        kill_tree(child)
    assert made.up()["smoke"]["passed"] is True
    made.destroy("--delete-data")
    assert made.processes() == []
    assert not made.folder.root.exists()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_up_killed_at_random_moments_is_finished_by_the_next(
    machine: Machine, tmp_path: Path
) -> None:
    made = machine.stack("random")
    for number in range(10):
        log = tmp_path / f"{number}.log"
        child = machine.start(
            LETTA_OPS, "--stack", made.name, "up", "--no-smoke", *made.settings(), log=log
        )
        time.sleep(random.uniform(0.5, 40))  # noqa: S311  # the moment is what is tried
        kill_tree(child)
        assert made.up()["smoke"]["passed"] is True
        made.destroy(*(["--delete-data"] if number % 2 else []))
    made.run("destroy", "--delete-data", "--yes")


def _wait_for_line(log: Path, child: subprocess.Popen[bytes], line: str) -> None:
    """Wait until `line` is in the log, or the command has ended: a step may be done already."""
    wait_until(line, lambda: line.encode() in log.read_bytes() or child.poll() is not None, 120)


def test_ctrl_c_is_answered_and_the_next_up_succeeds(machine: Machine, tmp_path: Path) -> None:
    made = machine.stack("interrupted")
    log = tmp_path / "up.log"
    words: list[str | Path] = [
        LETTA_OPS,
        "--stack",
        made.name,
        "up",
        "--no-smoke",
        *made.settings(),
    ]
    child = machine.start(*words, log=log)
    wait_until("the migration runs", lambda: b"migration: creating" in log.read_bytes(), 120)
    time.sleep(random.random() * 2)  # noqa: S311  # any moment will do
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=120) == 130
    assert b"interrupted" in log.read_bytes()
    assert b"Traceback" not in log.read_bytes()
    assert made.up()["smoke"]["passed"] is True
    made.destroy("--delete-data")
    assert made.processes() == []


def test_a_run_that_outlived_its_command_is_waited_for(own_stack: Stack, tmp_path: Path) -> None:
    """`kill -9` of letta-ops alone leaves pulumi at work: the next run waits until it is done."""
    (port,) = free_ports(1)
    child = own_stack.machine.start(
        LETTA_OPS, "--stack", own_stack.name, "up", "--no-smoke",
        "--config", f"server.port={port}", log=tmp_path / "up.log",
    )  # fmt: skip
    log = tmp_path / "up.log"
    wait_until("the server restarts", lambda: b"letta: updating" in log.read_bytes(), 60)
    (pulumi,) = [each for each in psutil.Process(child.pid).children() if "pulumi" in each.name()]
    child.kill()
    child.wait()
    answer = own_stack.run("up", "--no-smoke")
    assert answer.code == 0, answer.err
    assert f"pid {pulumi.pid}" in answer.err
    assert own_stack.deployment.server.port == port
