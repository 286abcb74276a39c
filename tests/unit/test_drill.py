"""A drill's verdicts, and what is let out of its server: rules, without anything that runs."""

from __future__ import annotations

import datetime as dt
import json
import socket
from typing import Any

import psycopg
import pytest

from backups.verdicts import CheckResult
from healthchecks.drill.verdict import CHECKS, Judge, Outcome, of_error
from healthchecks.through_api import compare_history
from infra.embedded.cut_off import refusal
from infra.errors import LettaOpsError

CALLS = [{"function": {"name": "send_message", "arguments": json.dumps({"message": "Hi, Ada"})}}]
ROWS: list[Any] = [
    (
        "message-4",
        "tool",
        [{"type": "text", "text": json.dumps({"message": {"a": 1}})}],
        None,
        None,
    ),
    ("message-3", "assistant", [{"type": "text", "text": "I think"}], CALLS, None),
    ("message-2", "user", [{"type": "text", "text": json.dumps({"message": "Hi"})}], None, None),
    ("message-1", "system", [{"type": "text", "text": "You are Ada"}], None, None),
]
PAGE: list[dict[str, Any]] = [
    {"id": "message-4", "message_type": "tool_return_message", "tool_return": "{'a': 1}"},
    {"id": "message-3", "message_type": "assistant_message", "content": "Hi, Ada"},
    {"id": "message-3", "message_type": "reasoning_message", "reasoning": "I think"},
    {"id": "message-2", "message_type": "user_message", "content": "Hi"},
    {"id": "message-1", "message_type": "system_message", "content": "You are Ada"},
]


def test_a_history_as_the_api_tells_it_is_that_of_the_database() -> None:
    assert compare_history(ROWS, PAGE) is None


DIFFERENT = [
    (ROWS[1:], PAGE, "not in the database"),
    (ROWS, PAGE[:3], "not in the API"),
    (ROWS[:1], [], "empty"),
    (ROWS, [*PAGE[:3], {**PAGE[3], "content": "Hello"}, PAGE[4]], "message-2 has another text"),
    (ROWS, [*PAGE[:2], {**PAGE[2], "reasoning": "I doubt"}, *PAGE[3:]], "message-3 has another"),
]


@pytest.mark.parametrize(("rows", "page", "words"), DIFFERENT, ids=[case[2] for case in DIFFERENT])
def test_a_history_that_differs_says_how(
    rows: list[Any], page: list[dict[str, Any]], words: str
) -> None:
    assert words in str(compare_history(rows, page))


def outcome(*verdicts: str) -> Outcome:
    checks = tuple(CheckResult("database", verdict, "") for verdict in verdicts)
    return Outcome("id", "backup", dt.datetime.now(dt.UTC), 1.0, checks)


VERDICTS = [
    (("passed", "passed"), "passed"),
    (("passed", "unverified"), "unverified"),
    (("unverified", "failed", "passed"), "failed"),
    ((), "unverified"),
]


@pytest.mark.parametrize(("single", "whole"), VERDICTS)
def test_a_drill_is_as_good_as_its_worst_check(single: tuple[str, ...], whole: str) -> None:
    assert outcome(*single).verdict == whole


def test_what_is_kept_in_the_clear_has_no_program_s_last_words() -> None:
    words = LettaOpsError("restore-failed", "exit code 1\n    COPY messages: a secret", "look")
    judge = Judge(lambda _: None)
    judge.add(of_error("database", words))
    made = Outcome("id", "backup", dt.datetime.now(dt.UTC), 1.0, judge.checks)
    assert "a secret" in json.dumps(made.as_json())
    assert [check["summary"] for check in made.as_record()["checks"]] == ["exit code 1"]


ENDINGS = [
    (LettaOpsError("part-damaged", "altered", "another"), "failed"),
    (LettaOpsError("restore-failed", "no", "look"), "failed"),
    (LettaOpsError("store-unreachable", "gone", "wait"), "unverified"),
    (LettaOpsError("wrong-identity", "no", "another"), "unverified"),
    (LettaOpsError("disk-full", "full", "free"), "unverified"),
    (psycopg.errors.UndefinedTable("no table"), "failed"),
    (KeyError("id"), "unverified"),
]


@pytest.mark.parametrize(("error", "verdict"), ENDINGS, ids=lambda value: type(value).__name__)
def test_only_what_speaks_against_the_backup_fails_it(error: Exception, verdict: str) -> None:
    def step() -> CheckResult:
        raise error

    judge = Judge(lambda _: None)
    judge.examine("agents", step)
    assert [check.verdict for check in judge.checks] == [verdict]


def test_what_was_not_looked_at_is_unverified_and_says_why() -> None:
    judge = Judge(lambda _: None)
    judge.add(CheckResult("database", "passed", "as in the manifest"))
    judge.close(CHECKS, "not reached")
    assert [check.name for check in judge.checks] == list(CHECKS)
    others = [check for check in judge.checks if check.name != "database"]
    assert {(check.verdict, check.summary) for check in others} == {("unverified", "not reached")}


PASSING = [
    ("socket.connect", (None, ("127.0.0.1", 5432))),
    ("socket.getaddrinfo", ("127.0.0.1", 5432)),
    ("socket.getaddrinfo", (None, 0)),
    ("socket.bind", (None, ("127.0.0.1", 8283))),
]
REFUSED = [
    ("socket.connect", (None, ("127.0.0.1", 5433))),
    ("socket.connect", (None, ("::1", 5432, 0, 0))),
    ("socket.connect", (None, ("10.0.0.1", 5432))),
    ("socket.connect", (None, "/run/other.sock")),
    ("socket.sendto", (None, ("10.0.0.1", 53))),
    ("socket.getaddrinfo", ("api.openai.com", 443)),
    ("socket.getaddrinfo", (b"api.openai.com", 443)),
    ("socket.gethostbyname", ("api.openai.com",)),
]


@pytest.mark.parametrize(("event", "arguments"), PASSING)
def test_a_drills_server_reaches_its_database(event: str, arguments: tuple[Any, ...]) -> None:
    assert refusal(event, arguments, 5432) is None


@pytest.mark.parametrize(("event", "arguments"), REFUSED)
def test_a_drills_server_reaches_nothing_else(event: str, arguments: tuple[Any, ...]) -> None:
    assert isinstance(refusal(event, arguments, 5432), ConnectionRefusedError | socket.gaierror)
