"""Log lines: moments, merging, rotated files, the engine's pieces; and `letta-ops logs` itself."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from infra.embedded.logs import BLOCK, LogFile, lines
from infra.errors import LettaOpsError
from infra.log_lines import LONGEST, Entries, LogLine, Wanted, level_of, merged, moment, stamp
from infra.sensitive import Sensitive
from infra.stack.deployment import Deployment, Server
from infra.stack.locations import StackFolder
from infra.targets import host
from infra.targets.docker.logs import _Reader, messages
from ops_cli import main

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
SECRET = Sensitive("swordfish-server")


@pytest.fixture
def folder(tmp_path: Path) -> StackFolder:
    made = StackFolder(tmp_path, "prod")
    made.logs.mkdir(parents=True)
    return made


def texts(folder: StackFolder, **wanted: object) -> list[str]:
    return [line.text for line in lines(folder, Wanted(**wanted), (SECRET,))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", NOW - dt.timedelta(seconds=30)),
        ("10m", NOW - dt.timedelta(minutes=10)),
        ("2h", NOW - dt.timedelta(hours=2)),
        (" 1d ", NOW - dt.timedelta(days=1)),
        ("2026-11-21T10:00Z", NOW - dt.timedelta(hours=2)),
        ("2026-11-21T10:00+02:00", NOW - dt.timedelta(hours=4)),
        ("2026-11-21T10:00", dt.datetime(2026, 11, 21, 10).astimezone()),
    ],
)
def test_a_moment_is_ago_or_a_date(text: str, expected: dt.datetime) -> None:
    assert moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "10", "m", "yesterday", "10 minutes", "-5m"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Invalid isoformat"):
        moment(text, NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21 10:00:00.413 UTC [87] LOG:  ready", NOW.replace(hour=10, microsecond=413000)),
        ("2026-11-21T10:00:00Z x", NOW.replace(hour=10)),
        ("2026-11-21 10:00:00.413 GMT [87] LOG:  ready", NOW.replace(hour=10, microsecond=413000)),
        (
            "7:M 21 Nov 2026 10:00:00.005 * Ready",
            dt.datetime(2026, 11, 21, 10, 0, 0, 5000).astimezone(),
        ),
        ("2026/11/21 10:00:00 [error] 7#7: x", dt.datetime(2026, 11, 21, 10).astimezone()),
        ("2026-11-21 10:00:00,005 INFO x", dt.datetime(2026, 11, 21, 10, 0, 0, 5000).astimezone()),
        ("INFO: no time", None),
        ("2026-99-21 10:00:00 x", None),
        ("0001-01-01 00:00:00 x", None),
        ("7:M 31 Feb 2026 10:00:00.005 * x", None),
    ],
)
def test_the_time_of_a_line_is_read_where_it_has_one(
    text: str, expected: dt.datetime | None
) -> None:
    assert stamp(text) == expected


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("Letta.letta.server.app - WARNING - slow", "warning"),
        ('INFO:     127.0.0.1:1 - "GET / HTTP/1.1" 200 OK', "info"),
        ("2026-11-21 10:00:00.413 GMT [87] LOG:  ready", "info"),
        ("2026-11-21 10:00:00.413 UTC [87] letta@letta FATAL:  no", "critical"),
        ("2026-11-21 10:00:00,005 CRIT x", "critical"),
        ("7:M 21 Nov 2026 10:00:00.005 # Warning", "warning"),
        ("2026/11/21 10:00:00 [emerg] 7#7: x", "critical"),
        ("/lib/x.py:6: UserWarning: old", "warning"),
        ("2026-11-21 10:00:00.413 GMT [87] LOG:  statement: SELECT 1 -- FATAL:  x", "info"),
        ("the model listens", None),
        ("  ERROR: indented", None),
    ],
)
def test_how_bad_it_is_is_read_where_a_line_tells_it(text: str, level: str | None) -> None:
    assert level_of(text) == level


TRACE = """\
2026-11-21T10:00:00.000Z Letta.app - ERROR - failed
2026-11-21T10:00:00.000Z Traceback (most recent call last):
2026-11-21T10:00:00.000Z   File "x.py", line 1
2026-11-21T10:00:00.000Z KeyError: 'x'

2026-11-21T10:00:00.000Z During handling of the above exception, another exception occurred:

2026-11-21T10:00:00.000Z Traceback (most recent call last):
2026-11-21T10:00:00.000Z   File "y.py", line 2
2026-11-21T10:00:00.000Z ValueError: two
2026-11-21T10:00:00.000Z lines
Letta.app - ERROR - a group
  + Exception Group Traceback (most recent call last):
  | ExceptionGroup: one
  +-+---------------- 1 ----------------
    | KeyError
    +------------------------------------

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "y.py", line 2
ValueError
INFO:     next
Traceback (most recent call last):
  File "z.py", line 3
OSError
2026-11-21 10:00:01.000 UTC [7] ERROR:  no table at character 15
2026-11-21 10:00:01.000 UTC [7] STATEMENT:  SELECT
\tFROM nothing
2026-11-21 10:00:02.000 UTC [7] LOG:  ready
said
said again
"""


def test_a_stack_trace_is_one_entry_with_what_it_belongs_to() -> None:
    found = list(Entries().of(line(0, text) for text in TRACE.splitlines()))
    heads = [(each.level, each.text.split("\n")[0], each.text.count("\n")) for each in found]
    assert heads == [
        ("error", "Letta.app - ERROR - failed", 10),
        ("error", "Letta.app - ERROR - a group", 11),
        ("info", "INFO:     next", 0),
        ("error", "Traceback (most recent call last):", 2),
        ("error", "2026-11-21 10:00:01.000 UTC [7] ERROR:  no table at character 15", 2),
        ("info", "2026-11-21 10:00:02.000 UTC [7] LOG:  ready", 0),
        ("info", "said", 0),
        ("info", "said again", 0),
    ]


def test_what_comes_later_is_no_part_of_a_trace_and_a_long_one_keeps_its_level() -> None:
    trace = [
        "Traceback (most recent call last):",
        *(f"  File {number}" for number in range(LONGEST)),
    ]
    said = [*(line(0, text) for text in (*trace, "KeyError")), line(1, "x"), line(9, "said")]
    found = list(Entries().of(said))
    assert [(each.level, each.text.count("\n") + 1) for each in found] == [
        ("error", LONGEST), ("error", 3), ("info", 1),
    ]  # fmt: skip


def test_a_trace_that_is_followed_in_pieces_is_one_entry(folder: StackFolder) -> None:
    path = folder.log("letta")
    path.write_text("2026-11-21 10:00:00 UTC old\n")
    file = LogFile("letta", path, ())
    assert [each.text[-3:] for each in file.history(Wanted(follow=True))] == ["old"]
    trace = ["a - ERROR - b\nTraceback (most recent call last):\n", "  File x\n", "KeyError: 1\n"]
    for text in trace:
        with path.open("a") as sink:
            sink.write(text)
        assert list(file.fresh()) == []
    (entry,) = file.fresh()  # nothing more came
    assert entry.text == "".join(trace).rstrip()
    assert entry.level == "error"


def test_a_line_that_was_cut_by_a_rotation_is_whole_and_redacted(folder: StackFolder) -> None:
    folder.log("letta").with_name("letta.log.1").write_text("2026-11-21 10:00:00 UTC a swordfish")
    folder.log("letta").write_text("-server b\n")
    for wanted in ({"tail": 5}, {"since": NOW - dt.timedelta(days=9)}):
        assert texts(folder, **wanted) == ["2026-11-21 10:00:00 UTC a [redacted] b"]


class Engine:
    """What a container is to a reader of its logs."""

    id, name, labels = "1", "x-letta", {"letta-ops.service": "letta"}

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def logs(self, *, tail: int | None = None, **_: object) -> Iterator[bytes]:
        for text in self._said if tail is None else self._said[-tail:]:
            yield f"2026-11-21T10:00:00.000Z {text}\n".encode()


def test_the_engine_is_asked_for_as_many_lines_as_the_entries_have() -> None:
    trace = ["a - ERROR - b", "Traceback (most recent call last):", *["  File x"] * 90, "KeyError"]
    reader = _Reader(cast("Any", None), "x", Wanted(tail=2), ())
    found = list(reader.history(cast("Any", Engine(["b - INFO - first", *trace, *trace]))))
    assert [(each.level, each.text.count("\n")) for each in found] == [("error", 92)] * 2


def test_the_end_of_a_long_log_is_read_from_its_end(folder: StackFolder) -> None:
    path = folder.log("letta")
    rows = (f"2026-11-21 10:00:00 UTC {number:08}\n  and more\n" for number in range(BLOCK // 16))
    path.write_text("".join(rows))
    last = BLOCK // 16 - 1
    assert [text[-19:-11] for text in texts(folder, tail=2)] == [f"{last - 1:08}", f"{last:08}"]
    several = texts(folder, tail=BLOCK // 32)
    assert len(several) == BLOCK // 32
    assert several[0].endswith(f"{last + 1 - BLOCK // 32:08}\n  and more")


def line(seconds: int | None, text: str) -> LogLine:
    time = None if seconds is None else NOW + dt.timedelta(seconds=seconds)
    return LogLine("s", "s", time, text)


def test_sources_are_merged_by_time_each_in_its_own_order() -> None:
    one = [line(None, "a"), line(1, "c"), line(1, "d"), line(9, "f")]
    two = [line(0, "b"), line(5, "e")]
    assert [each.text for each in merged([one, two])] == list("abcdef")


def test_files_are_merged_redacted_and_lines_without_a_time_stay_with_their_forerunner(
    folder: StackFolder,
) -> None:
    folder.log("letta").write_text(
        "2026-11-21 10:00:02 UTC failed\n  trace\n2026-11-21 10:00:05 UTC swordfish-server\n"
    )
    folder.log("postgres").write_text("2026-11-21 10:00:03 UTC ready\n")
    folder.log("supervisord").write_text("2026-11-21 10:00:00 UTC not shown\n")
    folder.log("migration-x").write_text("2026-11-21 10:00:00 UTC not shown\n")
    assert [text.removeprefix("2026-11-21 10:00:") for text in texts(folder)] == [
        "02 UTC failed\n  trace",
        "03 UTC ready",
        "05 UTC [redacted]",
    ]
    assert len(texts(folder, service="supervisord")) == 1


def test_tail_and_since_reach_back_into_rotated_files(folder: StackFolder) -> None:
    path = folder.log("letta")
    for number, name in ((1, "letta.log.2"), (2, "letta.log.1"), (3, "letta.log")):
        rows = [f"2026-11-21 10:0{number}:0{second} UTC {number}{second}" for second in range(3)]
        path.with_name(name).write_text("\n".join(rows) + "\n")
    ends = [text[-2:] for text in texts(folder)]
    assert ends == ["10", "11", "12", "20", "21", "22", "30", "31", "32"]
    assert [text[-2:] for text in texts(folder, tail=4)] == ["22", "30", "31", "32"]
    assert texts(folder, tail=0) == []
    since = NOW.replace(hour=10, minute=2, second=1)
    assert [text[-2:] for text in texts(folder, since=since)] == ["21", "22", "30", "31", "32"]


def test_following_hears_each_line_once_also_over_a_rotation(folder: StackFolder) -> None:
    path = folder.log("letta")
    path.write_text("old\nhalf")
    found: list[str] = []
    enough = threading.Event()

    def listen() -> None:
        for each in lines(folder, Wanted("letta", tail=1, follow=True), ()):
            found.append(each.text)
            if each.text == "end":
                enough.set()
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    wait_until(lambda: found == ["old"])
    with path.open("a") as sink:
        sink.write(" and half\n")
    wait_until(lambda: found[-1] == "half and half")
    with path.open("a") as sink:
        sink.write("last before\n")
        path.rename(path.with_name("letta.log.1"))
        path.write_text("first after\n")
        sink.write("late\n")
    wait_until(lambda: found[-1] == "first after")
    path.write_text("cut\n")  # shorter than before
    wait_until(lambda: found[-1] == "cut")
    with path.open("a") as sink:
        sink.write("end\n")
    assert enough.wait(60)
    assert found == ["old", "half and half", "last before", "late", "first after", "cut", "end"]


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_service_that_has_no_log_is_refused_with_the_names_of_those_that_have(
    folder: StackFolder,
) -> None:
    folder.log("letta").write_text("x\n")
    with pytest.raises(LettaOpsError, match="no service 'redis'") as caught:
        texts(folder, service="redis")
    assert caught.value.hint == "name one of: letta"
    with pytest.raises(LettaOpsError):
        texts(folder, service="../prod/logs/letta")


def test_the_logs_of_a_server_that_is_not_ours_are_out_of_reach() -> None:
    with pytest.raises(LettaOpsError) as caught:
        host(Deployment("prod", "external", Server("http://x"))).logs(Wanted())
    assert caught.value.code == "no-logs"


def test_the_engines_pieces_are_put_together_and_lose_their_timestamps() -> None:
    chunks = [b"T1 whole\n", b"T2 be", b"T3 gin", b"T4 ning\r\n", b"T5 \n", b"T6 rest"]
    assert list(messages(chunks)) == [
        ("T1", "whole"),
        ("T2", "beginning"),
        ("T5", ""),
        ("T6", "rest"),
    ]


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackFolder:
    monkeypatch.setenv("LETTA_OPS_STATE", str(tmp_path))
    made = StackFolder(tmp_path, "prod")
    made.logs.mkdir(parents=True)
    made.profile.write_text(
        'target = "local"\n[server]\nurl = "http://127.0.0.1:1"\npassword = "swordfish-server"\n'
    )
    made.profile.chmod(0o600)
    made.log("letta").write_text("\x1b[32m2026-11-21 10:00:00 UTC\x1b[0m swordfish-server\x07\n")
    made.log("postgres").write_text("2026-11-21 10:00:01 UTC [7] ERROR:  no\n  such table\n")
    return made


def test_time_source_and_level_stand_in_front(
    stack: StackFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--stack", "prod", "logs"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{local(0)}  letta       INFO      [redacted]\\x07",
        f"{local(1)}  postgres    ERROR     [7] ERROR:  no",
        "      such table",
    ]


def local(second: int) -> str:
    moment = dt.datetime(2026, 11, 21, 10, 0, second, tzinfo=dt.UTC)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S.000")


def test_in_json_times_are_in_utc() -> None:
    east = dt.timezone(dt.timedelta(hours=2))
    said = LogLine("s", "s", dt.datetime(2026, 11, 21, 12, tzinfo=east), "x").as_json()
    assert said["time"] == "2026-11-21T10:00:00+00:00"


def test_as_json_each_is_an_object_in_a_line(
    stack: StackFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--stack", "prod", "logs", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["service"] == "letta"
    assert second == {
        "service": "postgres",
        "source": "postgres",
        "time": "2026-11-21T10:00:01+00:00",
        "level": "error",
        "text": "2026-11-21 10:00:01 UTC [7] ERROR:  no\n  such table",
    }


@pytest.mark.parametrize("words", [["--grep", "such t.ble"], ["--level", "warning"]])
def test_only_what_is_asked_for_is_shown(
    words: list[str], stack: StackFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--stack", "prod", "logs", "--json", *words]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["service"] == "postgres"


@pytest.mark.parametrize(
    "words",
    [
        ["--since", "yesterday"],
        ["--tail", "-1"],
        ["--level", "loud"],
        ["--grep", "("],
        ["--grep", "a{99999999999999}"],
    ],
)
def test_what_makes_no_sense_is_wrong_usage(
    words: list[str], stack: StackFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--stack", "prod", "logs", *words]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_interruption_ends_following_quietly(
    stack: StackFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("infra.embedded.logs.time.sleep", interrupted)
    assert main.run(["--stack", "prod", "logs", "postgres", "-f"]) == 130
    seen = capsys.readouterr()
    assert seen.out == f"{local(1)}  postgres    ERROR     [7] ERROR:  no\n      such table\n"
    assert seen.err == ""
