"""The schedule of a stack: it makes backups by itself, one at a time, whatever happens to it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.live.machine import Stack, wait_until

ONCE_A_YEAR = "0 0 1 1 *"


@pytest.fixture(scope="module")
def scheduled(own_stack: Stack) -> Iterator[Stack]:
    """A stack whose schedule is far away: what it does meanwhile has another reason."""
    own_stack.up("--no-smoke", "--config", f"backup.schedule={ONCE_A_YEAR}")
    yield own_stack
    own_stack.up("--no-smoke", "--config", "backup.schedule=")
    assert own_stack.json("backup", "schedule")["service"] == "none"
    assert "scheduler" not in services(own_stack)
    if own_stack.target == "docker":
        assert not marked(own_stack), "only the scheduler needed a supervisord"


def services(stack: Stack) -> set[str]:
    from infra.embedded import supervisor

    return set(supervisor.states(stack.folder))


def marked(stack: Stack) -> list[psutil.Process]:
    from infra.embedded import supervisor

    return supervisor.processes(stack.folder)


def scheduler_pid(stack: Stack) -> int:
    from infra.embedded import supervisor

    return supervisor.states(stack.folder)["scheduler"].pid


def made_by_schedule(stack: Stack) -> list[str]:
    found = stack.json("backup", "list")
    return [backup["id"] for backup in found if backup["label"] == "scheduled"]


def last(stack: Stack) -> dict[str, Any]:
    answer = stack.json("backup", "schedule")
    assert answer["service"] == "running"
    return dict(answer["backup"])


def test_a_new_stack_gets_its_first_backup_at_once(scheduled: Stack) -> None:
    wait_until("it has run", lambda: last(scheduled)["result"] in ("passed", "failed"))
    found = last(scheduled)
    assert found["result"] == "passed", found["error"]
    assert found["schedule"] == ONCE_A_YEAR
    assert len(made_by_schedule(scheduled)) == 1
    assert found["next"][5:16] == "01-01T00:00"
    assert "create: backup" in scheduled.run("logs", "scheduler").out
    assert scheduled.json("preview")["gate"]["passed"]
    assert scheduled.run("preview").out.strip().endswith("nothing to change")


def test_a_killed_scheduler_comes_back_and_catches_up_once(scheduled: Stack) -> None:
    """As after a year in which the machine was off: as many times were missed as one likes."""
    wait_until("the first backup is done", lambda: last(scheduled)["result"] == "passed")
    before = made_by_schedule(scheduled)
    path = scheduled.folder.schedule
    document = json.loads(path.read_text())
    for name in ("since", "started", "ended"):
        document["backup"][name] = "2020-02-02T02:02:02+00:00"
    path.write_text(json.dumps(document))
    killed = scheduler_pid(scheduled)
    psutil.Process(killed).kill()
    wait_until("a backup is made", lambda: len(made_by_schedule(scheduled)) > len(before))
    wait_until("it is done", lambda: last(scheduled)["result"] == "passed")
    assert scheduler_pid(scheduled) not in (0, killed)
    assert "at least one was missed" in scheduled.run("logs", "scheduler").out
    assert len(made_by_schedule(scheduled)) == len(before) + 1


def test_check_sees_a_scheduler_that_does_not_run(scheduled: Stack) -> None:
    """As after a reboot, when containers are there again before anybody has run `up`."""
    from infra.embedded.supervisor import rpc

    def backup() -> tuple[str, str]:
        findings = scheduled.run("--json", "check").json["findings"]
        (found,) = [each for each in findings if each["name"] == "backup"]
        return found["state"], found["summary"]

    with rpc(scheduled.folder) as supervisor:
        supervisor.stopProcess("scheduler")
        state, words = backup()
        assert state == "WARNING"
        assert "the scheduler does not run" in words
        supervisor.startProcess("scheduler")
    wait_until("it runs", lambda: scheduled.json("backup", "schedule")["service"] == "running")
    assert backup()[0] == "OK"


def test_a_stack_has_one_scheduler(scheduled: Stack) -> None:
    answer = scheduled.json("backup", "schedule", "--run", code=1)
    assert answer["error"]["code"] == "scheduler-runs"
    assert str(scheduler_pid(scheduled)) in answer["error"]["message"]


def test_the_line_for_cron_makes_a_backup(scheduled: Stack) -> None:
    printed = scheduled.run("backup", "schedule", "--print", "cron").out
    answer = scheduled.json("backup", "schedule", "--print", "cron")
    assert answer == {"form": "cron", "text": printed}
    (line,) = (line for line in printed.splitlines() if not line.startswith("#"))
    assert line.startswith(ONCE_A_YEAR)
    before = made_by_schedule(scheduled)
    shell = line.removeprefix(ONCE_A_YEAR).replace(r"\%", "%")
    # What cron gives: no more than this.
    environment = {"HOME": scheduled.machine.environment.get("HOME", "/"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", "-c", shell], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(made_by_schedule(scheduled)) == len(before) + 1


def test_the_unit_for_systemd_starts_what_the_stack_itself_starts(scheduled: Stack) -> None:
    unit = scheduled.run("backup", "schedule", "--print", "systemd").out
    (start,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    running = psutil.Process(scheduler_pid(scheduled)).cmdline()
    assert start == "ExecStart=" + " ".join(f'"{word}"' for word in running)
    assert f'"LETTA_OPS_STATE={scheduled.folder.state}"' in unit
