"""`up` gets over every interruption, and never runs twice at once."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from infra.pulumi_cli.backend import has_pending
from tests.live.machine import LETTA_OPS, Machine, Stack, kill_tree, wait_until

# Resources, in the order in which they are made.
STEPS = {
    "local": ("server-password", "cluster", "postgres", "migration", "letta"),
    "docker": ("volume-database", "cluster", "postgres", "migration", "letta", "route"),
}


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


@pytest.mark.long
def test_up_killed_at_every_step_is_finished_in_the_end(machine: Machine, tmp_path: Path) -> None:
    """`kill -9` of the command and of pulumi, which then leaves its lock; each run goes on there."""
    made = machine.stack("killed")
    for step in STEPS[made.target]:
        log = tmp_path / f"{step}.log"
        child = machine.start(
            LETTA_OPS, "--stack", made.name, "up", "--no-smoke", *made.settings(), log=log
        )
        _wait_for_step(log, child, step)
        time.sleep(random.random())  # noqa: S311  # any moment within the step will do
        kill_tree(child)
    assert made.up()["smoke"]["passed"] is True
    assert not has_pending(made.folder), "what the killed runs were making is made"
    made.destroy("--delete-data")
    assert made.remains() == []
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


def _wait_for_step(log: Path, child: subprocess.Popen[bytes], step: str) -> None:
    """Wait until a resource is being made, or the command has ended: it may be there already."""
    wait_until(step, lambda: _at_work(log, step) or child.poll() is not None, 120)


def _at_work(log: Path, step: str) -> bool:
    """Whether the resource is being made or changed; a server's name ends with a digest."""
    return re.search(rf"\] {step}[-\w]*: (creating|updating)", log.read_text()) is not None


@pytest.mark.long
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
    wait_until("the migration runs", lambda: _at_work(log, "migration"), 120)
    time.sleep(random.random() * 2)  # noqa: S311  # any moment will do
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=120) == 130
    assert b"interrupted" in log.read_bytes()
    assert b"Traceback" not in log.read_bytes()
    assert made.up()["smoke"]["passed"] is True
    made.destroy("--delete-data")
    assert made.remains() == []


@pytest.mark.long
def test_a_run_that_outlived_its_command_is_waited_for(own_stack: Stack, tmp_path: Path) -> None:
    """`kill -9` of letta-ops alone leaves pulumi at work: the next run waits until it is done."""
    before = own_stack.pid("letta")
    setting = "server.environment.LETTA_LLM_REQUEST_TIMEOUT_SECONDS"
    child = own_stack.machine.start(
        LETTA_OPS, "--stack", own_stack.name, "up", "--no-smoke",
        "--config", f"{setting}=61", log=tmp_path / "up.log",
    )  # fmt: skip
    log = tmp_path / "up.log"
    wait_until("the server restarts", lambda: _at_work(log, "letta"), 60)
    (pulumi,) = [each for each in psutil.Process(child.pid).children() if "pulumi" in each.name()]
    child.kill()
    child.wait()
    answer = own_stack.run("up", "--no-smoke")
    assert answer.code == 0, answer.err
    assert f"pid {pulumi.pid}" in answer.err
    assert own_stack.pid("letta") not in (0, before)
    assert own_stack.server_settings()[setting.rpartition(".")[2]] == "61"


def test_what_a_kill_leaves_of_pulumis_state_is_mended(own_stack: Stack) -> None:
    """Pulumi writes its state in three files: killed in between, it can't read it any more."""
    folder = own_stack.folder.backend / "stacks" / "letta-ops"
    checkpoint = folder / f"{own_stack.name}.json"
    attributes = folder / f"{own_stack.name}.json.attrs"
    assert json.loads(attributes.read_text())
    attributes.write_bytes(b"")
    assert "nothing to change" in own_stack.run("up", "--no-smoke").out
    checkpoint.write_bytes(b"")  # as a power cut may do
    answer = own_stack.run("up", "--no-smoke")
    assert answer.code == 0, answer.err
    assert "the one a step before is used" in answer.err
    assert (folder / f"{checkpoint.name}.broken").is_file()
    assert own_stack.up()["smoke"]["passed"] is True
