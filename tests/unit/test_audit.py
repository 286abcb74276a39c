"""The audit trail where no database is: the log, what it holds, and what a command says of itself."""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from infra.audit.log import LOG, Event, logged, pending
from infra.audit.trail import append
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.deployment import Deployment, Server
from infra.stack.locations import StackFolder
from infra.stack.profile import remember
from ops_cli import main
from ops_cli.auditing import audited
from ops_cli.invocation import Invocation
from tests.unit.letta_server import PASSWORD, FakeLetta, serving

NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackFolder:
    for name in [name for name in os.environ if name.startswith("LETTA_OPS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LETTA_OPS_STATE", str(tmp_path))
    made = StackFolder(tmp_path, "local")
    made.root.mkdir()
    return made


def event(number: int = 0, **changes: Any) -> Event:
    at = NOON + dt.timedelta(minutes=number)
    values: dict[str, Any] = {"command": "up", "target": "local", "result": "done", "seconds": 1.0}
    return Event(**{**values, "at": at, **changes})


def deployment(folder: StackFolder, **changes: Any) -> Deployment:
    server = Server("http://127.0.0.1:8283", Sensitive("hush-hush-hush"))
    return Deployment("local", "local", server, folder=folder, **changes)


def test_what_was_logged_is_read_newest_first_and_only_by_us(folder: StackFolder) -> None:
    events = [event(number) for number in range(5)]
    for each in events:
        assert append(deployment(folder), each) is None, "it has no database to miss"
    assert logged(folder, 3) == [events[4], events[3], events[2]]
    assert stat.S_IMODE(folder.log(LOG).stat().st_mode) == 0o600


def test_no_secret_gets_into_a_record_however_deep(folder: StackFolder) -> None:
    detail = {"message": "it said hush-hush-hush", "list": [{"hush-hush-hush": ["hush-hush-hush"]}]}
    append(deployment(folder), event(detail=detail, target="hush-hush-hush"))
    assert "hush-hush-hush" not in folder.log(LOG).read_text()
    (record,) = logged(folder, 1)
    assert record.detail["message"] == "it said [redacted]"


def test_a_line_that_was_cut_off_hides_no_other(folder: StackFolder) -> None:
    append(deployment(folder), event(1))
    with folder.log(LOG).open("a") as log:
        log.write('{"command": "up", "tar\n')
    append(deployment(folder), event(2))
    assert [each.at.minute for each in logged(folder, 9)] == [2, 1]


def test_what_the_database_has_not_got_waits_for_it(folder: StackFolder) -> None:
    from infra.audit.log import append_to_log

    for number, told in enumerate((False, True, False, False)):
        append_to_log(folder, event(number), in_database=told)
    assert [each.at.minute for each in pending(folder)] == [2, 3]


def test_a_stack_that_was_deleted_does_not_come_back_as_a_log(folder: StackFolder) -> None:
    folder.root.rmdir()
    append(deployment(folder), event())
    assert not folder.root.exists()


def test_a_log_that_is_a_link_is_not_followed(folder: StackFolder, tmp_path: Path) -> None:
    folder.logs.mkdir()
    folder.log(LOG).symlink_to(tmp_path / "elsewhere")
    missing = append(deployment(folder), event())
    assert missing is not None
    assert "operations.log" in missing
    assert not (tmp_path / "elsewhere").exists()


ENDS = [
    (None, "done", None),
    (LettaOpsError("ports", "8283 is taken", "choose another"), "failed", "ports"),
    (ZeroDivisionError("hush"), "failed", "internal"),
    (KeyboardInterrupt(), "interrupted", None),
    (main.Terminated(), "interrupted", None),
    (typer.Exit(0), "done", None),
    (typer.Exit(3), "failed", None),
]


@pytest.mark.parametrize(("error", "result", "code"), ENDS, ids=[repr(end[0]) for end in ENDS])
def test_however_a_command_ends_it_is_recorded_and_ends_so(
    error: BaseException | None, result: str, code: str | None, folder: StackFolder
) -> None:
    if error is None:
        _work(None)
    else:
        with pytest.raises(type(error)) as caught:
            _work(error)
        assert caught.value is error
    (record,) = logged(folder, 9)
    assert (record.command, record.target, record.result) == ("backup create", "prod", result)
    assert record.detail["backup"] == "20261121T120000Z-ab12"
    assert record.detail.get("error") == code
    assert "hush" not in folder.log(LOG).read_text()


def _work(error: BaseException | None) -> None:
    with audited(Invocation(), "backup create", "prod") as operation:
        operation.detail["backup"] = "20261121T120000Z-ab12"
        if error is not None:
            raise error


@pytest.fixture
def letta(
    folder: StackFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeLetta]:
    monkeypatch.setenv("LETTA_OPS_CACHE", str(tmp_path / "cache"))  # no release to be asked
    with serving() as server:
        values = {"server.url": server.url, "server.password": PASSWORD}
        remember(folder.profile, values)
        yield server


def test_an_import_is_recorded_and_a_dry_run_is_not(
    letta: FakeLetta, folder: StackFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("groups", "blocks", "files", "sources", "tools", "mcp_servers")
    agents = [{"id": "agent-0", "name": "Ada", "messages": []}]
    file = tmp_path / "ada.af"
    file.write_text(json.dumps({"agents": agents, **{name: [] for name in names}}))
    words = ["agent", "import", str(file), "--allow-unknown-model"]
    assert main.run([*words, "--dry-run"]) == 0
    assert logged(folder, 9) == []
    assert main.run(words) == 0
    capsys.readouterr()
    assert main.run(["audit", "list", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["command"] == "agent import"
    assert record["target"] == str(file)
    assert record["result"] == "done"
    assert record["detail"]["agents"] == list(letta.agents)
    assert main.run(["audit", "list"]) == 0
    assert "agent import" in capsys.readouterr().out


def test_a_trail_without_a_change_says_so(
    letta: FakeLetta, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["audit", "list"]) == 0
    assert capsys.readouterr().out == "no changes yet\n"
    assert main.run(["audit", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_database_that_is_down_is_told_and_the_log_answers_instead(
    letta: FakeLetta, folder: StackFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(folder.profile, {"database.host": "127.0.0.1", "database.port": 1})
    with audited(Invocation(), "prune"):
        pass
    assert "the database has no record of this command" in capsys.readouterr().err
    assert main.run(["audit", "list", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["command"] == "prune"
    assert "from the log of this machine alone" in captured.err
