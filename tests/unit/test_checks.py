"""Running checks: needs, crashes, time limits and acknowledgements; and what the probes send."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from healthchecks.checks import CHECKS
from healthchecks.model import Check, Finding, Need, State, Thresholds, Verdict
from healthchecks.probes.authentication import try_as_stranger
from healthchecks.probes.here import find_listeners
from healthchecks.run import run
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.ciphertext import decrypted, encrypted, looks_encrypted
from infra.stack.deployment import Deployment, Server
from infra.stack.locations import StackFolder
from infra.targets.facts import Measurement

PASSWORD = "a-long-server-password"
DEPLOYMENT = Deployment("prod", "external", Server("http://127.0.0.1:9", Sensitive(PASSWORD)))
# Written by a Letta 0.16.8 whose LETTA_ENCRYPTION_KEY was "enckey123456".
SEALED = "KoOLuJ9HqnV23hs7KWaipzNv2t2zFuHSOha4cprEczDBK1euNyEEjL4MQUQ="


@dataclass(frozen=True)
class Seen(Measurement):
    state: State


def judge(seen: Seen, _: Thresholds) -> Verdict:
    return Verdict(seen.state, "judged")


def check(name: str, state: State, *needs: Need) -> Check[Seen]:
    return Check(name, lambda _: Seen(state), judge, needs)


def crash(_: Deployment) -> Seen:
    raise RuntimeError(f"broken, and it says {PASSWORD}")


def refuse(_: Deployment) -> Seen:
    raise LettaOpsError("server-unreachable", "no server answers", "start it")


def forbid(_: Deployment) -> Seen:
    raise PermissionError(13, "Permission denied", "/var/lib/letta-ops/prod/services")


def hang(_: Deployment) -> Seen:
    time.sleep(60)
    return Seen(State.OK)


def only(one: Check[Seen], acknowledged: frozenset[str] = frozenset()) -> Finding:
    (finding,) = run(DEPLOYMENT, checks=[one], acknowledged=acknowledged).findings
    return finding


def test_the_worst_finding_comes_first_and_the_others_keep_their_order() -> None:
    checks = [
        check("fine", State.OK),
        check("odd", State.WARNING),
        check("dead", State.CRITICAL),
        check("dark", State.UNKNOWN),
        check("good", State.OK),
    ]
    report = run(DEPLOYMENT, checks=checks)
    assert [f.name for f in report.findings] == ["dead", "dark", "odd", "fine", "good"]
    assert report.exit_code == 2


def test_a_crash_is_unknown_and_tells_no_secret() -> None:
    finding = only(Check("bad", crash, judge))
    assert finding.state is State.UNKNOWN
    assert "RuntimeError" in finding.detail
    assert PASSWORD not in finding.detail


def test_a_probe_that_cannot_see_is_unknown_with_its_reason() -> None:
    finding = only(Check("bad", refuse, judge))
    assert (finding.state, finding.detail) == (State.UNKNOWN, "no server answers")
    assert finding.hint == "start it"


def test_a_user_who_may_not_look_is_told_so_and_not_that_the_stack_is_down() -> None:
    finding = only(Check("bad", forbid, judge))
    assert (finding.state, finding.summary) == (State.UNKNOWN, "this user may not look")
    assert finding.detail == "Permission denied: /var/lib/letta-ops/prod/services"


def test_a_probe_that_hangs_is_unknown_and_does_not_keep_the_others() -> None:
    started = time.monotonic()
    report = run(DEPLOYMENT, checks=[Check("slow", hang, judge), check("a", State.OK)], limit=0.2)
    assert time.monotonic() - started < 60
    assert [(f.name, f.state) for f in report.findings] == [
        ("slow", State.UNKNOWN),
        ("a", State.OK),
    ]


@pytest.mark.parametrize("need", list(Need))
def test_a_check_whose_need_is_not_met_is_said_not_to_be_checked_and_does_not_fail(
    need: Need,
) -> None:
    finding = only(check("a", State.CRITICAL, need))
    assert (finding.state, finding.checked) == (State.OK, False)
    assert finding.summary == f"not checked: {need.value}"


def test_checks_that_share_a_probe_are_judged_by_one_look_and_a_crash_is_told_for_each() -> None:
    looks = []

    def look(_: Deployment) -> Seen:
        looks.append(1)
        if len(looks) > 1:
            raise RuntimeError("broken")
        return Seen(State.OK)

    def stumble(_: Seen, __: Thresholds) -> Verdict:
        raise RuntimeError("a bug of the rule")

    checks = [Check("a", look, judge), Check("b", look, stumble), Check("c", look, judge)]
    found = {each.name: each.state for each in run(DEPLOYMENT, checks=checks).findings}
    assert found == {"a": State.OK, "b": State.UNKNOWN, "c": State.OK}
    assert len(looks) == 1
    found = {each.name: each.state for each in run(DEPLOYMENT, checks=checks).findings}
    assert found == dict.fromkeys("abc", State.UNKNOWN)


def test_an_acknowledged_warning_is_ok_and_says_so() -> None:
    finding = only(check("a", State.WARNING), acknowledged=frozenset({"a"}))
    assert (finding.state, finding.summary) == (State.OK, "acknowledged: judged")


@pytest.mark.parametrize("state", [State.CRITICAL, State.UNKNOWN, State.OK])
def test_nothing_but_a_warning_can_be_acknowledged(state: State) -> None:
    finding = only(check("a", state), acknowledged=frozenset({"a"}))
    assert (finding.state, finding.summary) == (state, "judged")


def test_acknowledging_what_is_no_check_is_refused_with_the_names() -> None:
    with pytest.raises(LettaOpsError, match="no check is named diks") as caught:
        run(DEPLOYMENT, acknowledged=frozenset({"diks"}))
    assert "disk" in caught.value.hint


def test_the_names_of_the_checks_are_unique() -> None:
    assert len({each.name for each in CHECKS}) == len(CHECKS)


def test_a_server_that_is_down_is_one_critical_finding_and_nothing_raises() -> None:
    limits = Thresholds(today=dt.date(2026, 11, 21))
    report = run(DEPLOYMENT, thresholds=limits)
    assert (report.findings[0].name, report.findings[0].state) == ("api", State.CRITICAL)
    assert {f.name for f in report.findings if f.state is State.CRITICAL} == {"api"}
    assert len(report.findings) == len(CHECKS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SEALED, True),
        ("a plain secret", False),
        ("sk-" + "a" * 61, False),
        ("c2hvcnQ=", False),
        ("é" * 60, False),
    ],
)
def test_ciphertexts_are_told_from_plain_values(value: str, expected: bool) -> None:
    assert looks_encrypted(value) is expected


def test_what_letta_encrypted_is_opened_by_its_key_and_by_no_other() -> None:
    assert decrypted(Sensitive("enckey123456"), SEALED) is not None
    assert decrypted(Sensitive("enckey123457"), SEALED) is None


def test_what_is_encrypted_here_is_opened_by_its_key_alone() -> None:
    key, text = Sensitive("a key"), Sensitive("hüsh 🤫")
    value = encrypted(key, text)
    assert looks_encrypted(value)
    assert value != encrypted(key, text)
    opened = decrypted(key, value)
    assert opened is not None
    assert opened.reveal() == text.reveal()
    assert decrypted(Sensitive("another"), value) is None


def test_a_stack_that_does_not_run_has_no_listeners_to_judge(tmp_path: Path) -> None:
    folder = StackFolder(tmp_path, "prod")
    folder.root.mkdir()
    stopped = Deployment("prod", "local", Server("http://127.0.0.1:9"), folder=folder)
    with pytest.raises(LettaOpsError, match="doesn't run"):
        find_listeners(stopped)


def test_what_several_probes_import_is_there_before_their_threads_are() -> None:
    """Of two threads that import a package and a module of it, Python may find that they deadlock."""
    code = """
import sys
from healthchecks.model import Check, State, Verdict
from healthchecks.run import run
from infra.stack.deployment import Database, Deployment, Role, Server
role = Role("reader")
placement = {"containers.prefix": "x", "database.container": "x-postgres"}
database = Database("127.0.0.1", 9, "letta", role, role)
deployment = Deployment("x", "docker", Server("http://x"), database=database, placement=placement)
seen = lambda _: [name for name in ("docker.errors", "psycopg") if name in sys.modules]
judge = lambda found, _: Verdict(State.OK, " ".join(found))
print(run(deployment, checks=[Check("imports", seen, judge)]).findings[0].summary)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "docker.errors psycopg\n"


@contextmanager
def server(status: int) -> Iterator[tuple[str, list[tuple[str, str, str | None, bytes]]]]:
    """A server that answers everything with `status`, and remembers what it was sent."""
    seen: list[tuple[str, str, str | None, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append((self.command, self.path, self.headers.get("Authorization"), body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815  # the name that http.server looks for

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}", seen
        finally:
            listener.shutdown()


def test_a_stranger_sends_neither_the_password_nor_anything_that_could_run() -> None:
    with server(401) as (url, seen):
        strangers = try_as_stranger(
            Deployment("prod", "external", Server(url, Sensitive(PASSWORD)))
        )
    assert [attempt.status for attempt in strangers.attempts] == [401] * 4
    assert [(method, path.partition("?")[0]) for method, path, _, _ in seen] == [
        ("GET", "/v1/agents/"),
        ("GET", "/v1/agents/"),
        ("POST", "/v1/tools/run"),
        ("POST", "/v1/tools/run"),
    ]
    tokens = [token for _, _, token, _ in seen]
    assert tokens[0] is None
    assert tokens[2] is None
    assert all(PASSWORD not in (token or "") for token in tokens)
    assert [json.loads(body) for method, _, _, body in seen if method == "POST"] == [{}, {}]
