"""Scheduled work: when it is due, what a failure leads to, and the loop with real programs."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import pytest

from backups.schedule import (
    BACKUP,
    DRILL,
    Due,
    Job,
    Run,
    begun,
    due,
    failed,
    known,
    local_zone,
    next_time,
    passed,
    run_of,
)
from backups.schedule_files import crontab, systemd_unit
from backups.scheduler import MARK, Scheduler, end_leftovers, read_runs, scheduled
from infra.errors import LettaOpsError
from infra.files import held, is_held
from infra.sensitive import Sensitive
from infra.stack.backup_settings import BackupSettings, DrillSection
from infra.stack.deployment import Deployment, Server
from infra.stack.locations import StackFolder

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTLY = "30 2 * * *"
CREATE = "backup create --label scheduled --wait 900"


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


NOON = at("2026-05-05T12:00")
EARLIER = Run(NIGHTLY, at("2026-05-01T12:00"), attempt=1)


def ran(when: str) -> Run:
    return passed(begun(EARLIER, at(when), again=False), at(when))


DUE: list[tuple[Job, Run, bool, str, str]] = [
    (BACKUP, Run(NIGHTLY, NOON), True, "there has been none yet", "2026-05-06T02:30"),
    (DRILL, Run(NIGHTLY, NOON), False, "it is not yet time", "2026-05-06T02:30"),
    (DRILL, Run(NIGHTLY, at("2026-05-05T01:00")), True, "it is time", "2026-05-06T02:30"),
    (BACKUP, ran("2026-05-05T02:30"), False, "it is not yet time", "2026-05-06T02:30"),
    (BACKUP, ran("2026-05-04T02:30"), True, "it is time", "2026-05-06T02:30"),
    (BACKUP, ran("2026-05-01T02:30"), True, "at least one was missed", "2026-05-06T02:30"),
]


@pytest.mark.parametrize(("job", "run", "now", "reason", "following"), DUE)
def test_a_run_is_due_when_a_time_has_passed_since_the_last(
    job: Job, run: Run, now: bool, reason: str, following: str
) -> None:
    assert due(job, run, NOON, dt.UTC) == Due(now, reason, at(following))


def test_however_many_were_missed_one_run_catches_up() -> None:
    after = passed(begun(ran("2026-01-01T02:30"), NOON, again=False), NOON)
    assert not due(BACKUP, after, NOON + dt.timedelta(minutes=1), dt.UTC).now


RETRIES = [(1, 5), (2, 15), (3, 60), (4, 60), (9, 60)]


@pytest.mark.parametrize(("attempt", "minutes"), RETRIES)
def test_a_failed_run_is_tried_again_later_and_later(attempt: int, minutes: int) -> None:
    run = replace(failed(begun(EARLIER, NOON, again=False), NOON, "full"), attempt=attempt)
    retry = NOON + dt.timedelta(minutes=minutes)
    assert due(BACKUP, run, NOON, dt.UTC) == Due(False, "the last one failed", retry)
    found = due(BACKUP, run, retry, dt.UTC)
    assert (found.now, found.again) == (True, True)


def test_the_next_regular_time_comes_before_another_try_and_begins_anew() -> None:
    just_before = at("2026-05-06T02:20")
    run = replace(failed(begun(EARLIER, just_before, again=False), just_before, "x"), attempt=3)
    waiting = due(BACKUP, run, just_before, dt.UTC)
    assert waiting.next == at("2026-05-06T02:30")
    found = due(BACKUP, run, waiting.next, dt.UTC)
    assert (found.now, found.again) == (True, False)
    assert begun(run, waiting.next, again=found.again).attempt == 1


def test_another_try_begins_with_what_failed() -> None:
    """Or a `prune` that is refused would make a backup every hour."""
    run = failed(replace(begun(EARLIER, NOON, again=False), step=1), NOON, "object-locked", 1)
    assert begun(run, NOON, again=True).step == 1
    assert begun(run, NOON, again=False).step == 0


def test_a_drill_that_could_not_check_everything_is_not_tried_again() -> None:
    run = passed(begun(EARLIER, NOON, again=False), NOON, 3)
    assert run.result == "unverified"
    assert not due(DRILL, run, NOON + dt.timedelta(hours=2), dt.UTC).now


def test_another_schedule_begins_now_and_keeps_what_was() -> None:
    run = known(ran("2026-05-01T02:30"), "0 * * * *", NOON)
    assert run.result == "passed"
    assert due(BACKUP, run, NOON, dt.UTC) == Due(
        False, "it is not yet time", at("2026-05-05T13:00")
    )


def test_a_clock_that_was_put_back_does_not_stop_the_schedule() -> None:
    run = known(ran("2027-01-01T02:30"), NIGHTLY, NOON)
    assert due(BACKUP, run, at("2026-05-06T02:30"), dt.UTC).now


SUMMER = [
    # Berlin, 2026-03-29: from 2:00 straight to 3:00; 2026-10-25: 2:00 to 3:00 twice.
    (NIGHTLY, "2026-03-28T12:00", "2026-03-29T01:00"),
    (NIGHTLY, "2026-03-29T01:30", "2026-03-30T00:30"),
    (NIGHTLY, "2026-10-24T12:00", "2026-10-25T00:30"),
    (NIGHTLY, "2026-10-25T00:30", "2026-10-26T01:30"),
    ("0 * * * *", "2026-10-25T00:00", "2026-10-25T01:00"),
]


@pytest.mark.parametrize(("schedule", "after", "expected"), SUMMER)
def test_summer_time_neither_skips_nor_doubles_a_nightly_run(
    schedule: str, after: str, expected: str
) -> None:
    assert next_time(schedule, at(after), BERLIN) == at(expected)


def test_the_zone_is_that_of_tz_or_of_the_machine() -> None:
    assert str(local_zone({"TZ": "Europe/Berlin"})) == "Europe/Berlin"
    for other in ({}, {"TZ": "No/Where"}, {"TZ": "CET-1CEST"}):
        assert dt.datetime.now(local_zone(other)).utcoffset() is not None


def test_a_run_is_written_and_read_alike() -> None:
    run = failed(begun(EARLIER, NOON, again=False), NOON, "why", 2)
    assert run_of(json.loads(json.dumps(run.as_json()))) == run


def test_only_what_has_a_schedule_is_run() -> None:
    settings = BackupSettings(drill=DrillSection(schedule="0 4 * * 0"))
    deployment = Deployment("s", "external", Server("http://a"), backups=settings)
    assert scheduled(deployment) == ((DRILL, "0 4 * * 0"),)


# --- The loop, with real programs in the place of letta-ops. ---


@pytest.fixture
def folder(tmp_path: Path) -> StackFolder:
    made = StackFolder(tmp_path, "demo")
    made.root.mkdir()
    return made


def program(folder: StackFolder, source: str) -> tuple[str, ...]:
    """A program that notes its words in `calls`, then does what `source` says."""
    script = folder.root / "program.py"
    script.write_text(
        "import os, sys, time, pathlib\n"
        "words = ' '.join(sys.argv[1:])\n"
        f"with open({str(folder.root / 'calls')!r}, 'a') as file: file.write(words + '\\n')\n"
        + source
    )
    return (sys.executable, str(script))


def calls(folder: StackFolder) -> list[str]:
    return (folder.root / "calls").read_text().splitlines()


def scheduler(folder: StackFolder, source: str, now: Callable[[], dt.datetime]) -> Scheduler:
    jobs = ((BACKUP, NIGHTLY),)
    secrets = (Sensitive("a-secret"),)
    return Scheduler(folder, jobs, program(folder, source), print, secrets, dt.UTC, now)


def test_a_backup_is_made_and_then_old_ones_are_pruned(
    folder: StackFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    made = scheduler(folder, "print('done, a-secret')", lambda: NOON)
    made.turn()
    assert "2026-05-05 12:00:00 backup: create: done, [redacted]" in capsys.readouterr().out
    assert calls(folder) == [CREATE, "backup prune --yes"]
    run = read_runs(folder.schedule)["backup"]
    assert (run.result, run.code, run.attempt) == ("passed", 0, 1)
    assert made.turn() == dt.timedelta(hours=14, minutes=30).total_seconds()
    assert len(calls(folder)) == 2
    assert folder.schedule.stat().st_mode & 0o777 == 0o600


def test_a_failure_is_kept_with_its_words_and_tried_again(folder: StackFolder) -> None:
    moment = [NOON]
    made = scheduler(folder, "print('the store is a-secret'); sys.exit(2)", lambda: moment[0])
    made.turn()
    run = read_runs(folder.schedule)["backup"]
    assert (run.result, run.code, run.attempt) == ("failed", 2, 1)
    assert run.error == "`backup create`: the store is [redacted]"
    assert made.turn() == 300
    moment[0] += dt.timedelta(minutes=5)
    made.turn()
    assert read_runs(folder.schedule)["backup"].attempt == 2
    assert calls(folder) == [CREATE] * 2


def test_a_program_that_is_not_there_is_a_failure_like_others(folder: StackFolder) -> None:
    made = replace(scheduler(folder, "", lambda: NOON), program=("/no/such/program",))
    made.turn()
    run = read_runs(folder.schedule)["backup"]
    assert (run.result, run.code) == ("failed", None)
    assert "/no/such/program" in str(run.error)


def test_what_can_not_be_read_is_told_and_not_forgotten(folder: StackFolder) -> None:
    folder.schedule.write_text('{"backup": 1}')
    with pytest.raises(LettaOpsError) as failure:
        scheduler(folder, "", lambda: NOON).turn()
    assert failure.value.code == "schedule-unreadable"


def test_a_stack_has_one_scheduler(folder: StackFolder) -> None:
    assert not is_held(folder.schedule_lock)
    with held(folder.schedule_lock, "the scheduler"):
        assert is_held(folder.schedule_lock)
        with pytest.raises(LettaOpsError, match=f"pid {os.getpid()}") as failure:
            scheduler(folder, "", lambda: NOON).work()
    assert failure.value.code == "scheduler-runs"
    assert not (folder.root / "calls").exists()


def test_without_a_schedule_there_is_nothing_to_do(folder: StackFolder) -> None:
    with pytest.raises(LettaOpsError, match="has no schedule"):
        replace(scheduler(folder, "", lambda: NOON), jobs=()).work()


LOOP = """
import signal, sys
from pathlib import Path
from backups.schedule import BACKUP
from backups.scheduler import Scheduler
from infra.stack.locations import StackFolder
from ops_cli.main import _terminated
signal.signal(signal.SIGTERM, _terminated)
folder = StackFolder(Path(sys.argv[1]), "demo")
Scheduler(folder, ((BACKUP, "30 2 * * *"),), (sys.argv[2], sys.argv[3]), print).work()
"""
SLOW = """
try:  # from the first sign on that it has begun
    pathlib.Path(sys.argv[0]).with_name('began').touch()
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path(sys.argv[0]).with_name('ended').touch()
"""


def started(folder: StackFolder) -> subprocess.Popen[bytes]:
    """A scheduler of its own process, whose backup takes long."""
    words = (sys.executable, "-c", LOOP, str(folder.state), *program(folder, SLOW))
    child = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _until((folder.root / "began").exists)
    return child


def _until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sigterm_ends_the_command_at_hand_politely_and_is_kept(folder: StackFolder) -> None:
    child = started(folder)
    assert read_runs(folder.schedule)["backup"].result == "running"
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) != 0
    assert (folder.root / "ended").exists()
    run = read_runs(folder.schedule)["backup"]
    assert (run.result, run.error) == (
        "failed",
        "`backup create` was ended with the scheduler",
    )


def test_what_a_killed_scheduler_leaves_running_is_ended_by_the_next(folder: StackFolder) -> None:
    child = started(folder)
    child.kill()
    child.wait()
    assert _left(folder)
    end_leftovers(folder)
    assert not _left(folder)
    assert (folder.root / "ended").exists()


def _left(folder: StackFolder) -> list[psutil.Process]:
    found = []
    for each in psutil.process_iter():
        try:
            if each.environ().get(MARK) == str(folder.root):
                found.append(each)
        except psutil.Error:
            continue
    return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]


# --- For machines without our service. ---


def test_a_unit_is_one_that_systemd_accepts(tmp_path: Path) -> None:
    environment = {"LETTA_OPS_STATE": '/srv/50% "$HOME"'}
    program = (sys.executable, "-P", "-m", "ops_cli", "--stack", "demo")
    path = tmp_path / "letta-ops-demo.service"
    path.write_text(systemd_unit("demo", program, "root", environment))
    text = path.read_text()
    assert 'Environment="LETTA_OPS_STATE=/srv/50%% \\"$HOME\\""' in text
    assert text.count('"backup" "schedule" "--run"') == 1
    try:
        verdict = subprocess.run(
            ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no systemd on this machine")
    assert path.name not in verdict.stderr


def test_the_lines_for_cron_run_what_the_service_would(tmp_path: Path) -> None:
    """The line is handed to a shell, as cron does it, with `echo` for the program."""
    say = tmp_path / "say it"
    say.write_text('#!/bin/sh\necho "$A: $@"\n')
    say.chmod(0o755)
    jobs = ((BACKUP, "30  2 * * *"), (DRILL, "0 4 * * 0"))
    text = crontab(jobs, (str(say), "--stack", "demo"), {"A": "x y%d"})
    backup, drill = (line for line in text.splitlines() if not line.startswith("#"))
    assert backup.startswith(f"{NIGHTLY} ")
    assert drill.startswith("0 4 * * 0 ")
    line = backup.removeprefix(f"{NIGHTLY} ").replace(r"\%", "%")
    assert "%" not in line.replace("y%d", "")
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"x y%d: --stack demo {CREATE}",
        "x y%d: --stack demo backup prune --yes",
    ]
