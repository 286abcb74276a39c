"""Case tables: what each rule says of what its probe saw."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest

from healthchecks import rules
from healthchecks.model import State, Thresholds
from healthchecks.probes.api import ApiAnswer
from healthchecks.probes.authentication import Attempt, Strangers
from healthchecks.probes.database import Reached, Revision
from healthchecks.probes.encryption import Encryption
from healthchecks.probes.identity import Identity
from healthchecks.probes.release import RunningRelease
from healthchecks.probes.streams import Streams
from infra.database.facts import DatabaseFacts, Pgvector, Tables
from infra.errors import LettaOpsError
from infra.targets.facts import DiskSpace, Listener, Listeners, Service, Services

LIMITS = Thresholds(today=dt.date(2026, 11, 21))
GB = 1000**3
DOWN = LettaOpsError("server-unreachable", "no server answers", "start it")
FACTS = DatabaseFacts("letta", "18.4", Pgvector("0.8.5", "public"), (Tables("public", "head"),))
SAME = Identity("letta", 26, 26, 3, 3, 3, sessions=2, pools=True)
SEALED = Encryption(10, {}, encrypted=2, opened=2, unopened=(), has_key=True)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (ApiAnswer("http://x", "0.16.8", 0.1, 3), State.OK),
        (ApiAnswer("http://x", "0.16.8", 9.0, 3), State.WARNING),
        (ApiAnswer("http://x", None, error=DOWN), State.CRITICAL),
        (ApiAnswer("http://x", "0.16.8", error=DOWN), State.CRITICAL),
    ],
)
def test_the_api_must_answer_in_time(seen: ApiAnswer, expected: State) -> None:
    assert rules.api_answers(seen, LIMITS).state is expected


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((401, 401, 401, 401), State.OK),
        ((403, 403, 401, 401), State.OK),
        ((200, 200, 422, 422), State.CRITICAL),
        ((401, 401, 422, 401), State.CRITICAL),
        ((500, 500, 422, 422), State.CRITICAL),
        ((404, 404, 404, 404), State.UNKNOWN),
        ((401, 401, 502, 502), State.UNKNOWN),
    ],
)
def test_every_request_of_a_stranger_must_be_refused(
    statuses: tuple[int, ...], expected: State
) -> None:
    attempts = tuple(Attempt("GET", "/v1/agents/", "no", status) for status in statuses)
    assert rules.authentication_on(Strangers(attempts), LIMITS).state is expected


@pytest.mark.parametrize(
    ("status", "is_ours", "expected"),
    [
        (400, True, State.OK),
        (400, False, State.OK),
        (503, True, State.CRITICAL),
        (503, False, State.WARNING),
        (404, True, State.OK),
    ],
)
def test_a_stack_of_ours_offers_streams(status: int, is_ours: bool, expected: State) -> None:
    verdict = rules.streams_offered(Streams(status, is_ours), LIMITS)
    assert verdict.state is expected
    assert ("doesn't tell" in verdict.summary) is (status == 404)


def test_an_open_server_is_named_with_the_requests_that_it_let_in() -> None:
    seen = Strangers((Attempt("POST", "/v1/tools/run", "a wrong", 422),))
    verdict = rules.authentication_on(seen, LIMITS)
    assert verdict.detail == "POST /v1/tools/run with a wrong token: 422"
    assert "LETTA_SERVER_SECURE" in verdict.hint


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (SAME, State.OK),
        (replace(SAME, agents_before=2, agents=3, agents_after=4), State.OK),
        (replace(SAME, agents=5), State.CRITICAL),
        (replace(SAME, known_tools=25), State.CRITICAL),
        (replace(SAME, known_tools=0, agents=0), State.CRITICAL),
        (replace(SAME, tools=0, known_tools=0), State.UNKNOWN),
        (replace(SAME, sessions=0), State.WARNING),
        (replace(SAME, sessions=0, pools=None), State.OK),
    ],
)
def test_server_and_database_must_know_the_same(seen: Identity, expected: State) -> None:
    assert rules.database_is_the_servers(seen, LIMITS).state is expected


def test_a_database_that_cannot_be_reached_is_critical_and_one_that_can_is_named() -> None:
    assert rules.database_reachable(Reached(None, DOWN), LIMITS).detail == "no server answers"
    assert rules.database_reachable(Reached(None, DOWN), LIMITS).state is State.CRITICAL
    assert "letta, PostgreSQL 18.4" in rules.database_reachable(Reached(FACTS), LIMITS).summary


def test_a_database_without_pgvector_is_critical() -> None:
    assert rules.extension_installed(Reached(FACTS), LIMITS).state is State.OK
    without = Reached(replace(FACTS, pgvector=None))
    assert rules.extension_installed(without, LIMITS).state is State.CRITICAL


@pytest.mark.parametrize(
    ("tables", "head", "expected"),
    [
        ((Tables("public", "head"),), "head", State.OK),
        ((Tables("letta", "head"),), "head", State.OK),
        ((Tables("public", "old"),), "head", State.CRITICAL),
        ((Tables("public", None),), "head", State.CRITICAL),
        ((Tables("public", "old"),), None, State.UNKNOWN),
        ((), "head", State.CRITICAL),
        ((Tables("letta", "head"), Tables("public", "head")), "head", State.CRITICAL),
    ],
)
def test_one_set_of_tables_must_be_at_the_head(
    tables: tuple[Tables, ...], head: str | None, expected: State
) -> None:
    seen = Revision(replace(FACTS, tables=tables), "0.16.8", head)
    assert rules.revision_is_head(seen, LIMITS).state is expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (SEALED, State.OK),
        (replace(SEALED, plaintext={"providers.api_key_enc": 1}), State.CRITICAL),
        (replace(SEALED, opened=1, unopened=("providers.api_key_enc",)), State.CRITICAL),
        (replace(SEALED, opened=0, has_key=False), State.WARNING),
        (replace(SEALED, encrypted=0, opened=0), State.OK),
        (replace(SEALED, encrypted=0, opened=0, has_key=False), State.WARNING),
        (replace(SEALED, columns=0, encrypted=0, opened=0), State.UNKNOWN),
    ],
)
def test_secrets_must_be_encrypted_with_the_profiles_key(seen: Encryption, expected: State) -> None:
    assert rules.secrets_encrypted(seen, LIMITS).state is expected


@pytest.mark.parametrize(
    ("supervised", "states", "expected"),
    [
        (True, ("RUNNING", "RUNNING"), State.OK),
        (True, ("RUNNING", "STARTING"), State.WARNING),
        (True, ("STARTING", "BACKOFF"), State.CRITICAL),
        (True, ("RUNNING", "ABSENT"), State.CRITICAL),
        (False, ("ABSENT", "ABSENT"), State.CRITICAL),
    ],
)
def test_every_service_must_run(supervised: bool, states: tuple[str, ...], expected: State) -> None:
    services = tuple(Service(f"s{number}", state, 0.0) for number, state in enumerate(states))
    assert rules.services_run(Services(supervised, services), LIMITS).state is expected


@pytest.mark.parametrize(
    ("addresses", "hidden", "expected"),
    [
        (("127.0.0.1", "::1", "127.0.0.53", "::ffff:127.0.0.1"), (), State.OK),
        ((), (), State.OK),
        (("127.0.0.1", "0.0.0.0"), (), State.CRITICAL),
        (("::",), (), State.CRITICAL),
        (("192.168.1.7",), (), State.CRITICAL),
        (("fe80::1%eth0",), (), State.CRITICAL),
        (("127.0.0.1",), ("postgres (7)",), State.UNKNOWN),
        (("0.0.0.0",), ("postgres (7)",), State.CRITICAL),
    ],
)
def test_nothing_may_listen_beyond_loopback(
    addresses: tuple[str, ...], hidden: tuple[str, ...], expected: State
) -> None:
    listeners = tuple(Listener("letta", 1, address, 8283) for address in addresses)
    seen = Listeners(listeners, hidden)
    assert rules.listens_on_loopback_only(seen, LIMITS).state is expected


@pytest.mark.parametrize(
    ("total", "free", "expected"),
    [
        (250 * GB, 70 * GB, State.OK),
        (4000 * GB, 60 * GB, State.OK),  # a small share of a large disk is plenty
        (20 * GB, 3 * GB, State.OK),  # a small disk is never above 5 GB
        (100 * GB, 4 * GB, State.WARNING),
        (1000 * GB, 4 * GB, State.CRITICAL),
        (20 * GB, GB // 2, State.CRITICAL),
        (0, 0, State.CRITICAL),
    ],
)
def test_the_disk_must_have_room(total: int, free: int, expected: State) -> None:
    assert rules.disk_has_room(DiskSpace(Path("/s"), total, free), LIMITS).state is expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (RunningRelease("1.0", True, None), State.OK),
        (RunningRelease("1.0", True, dt.date(2026, 11, 22)), State.OK),
        (RunningRelease("1.0", True, dt.date(2026, 11, 21)), State.WARNING),
        (RunningRelease("9.9", False, None), State.WARNING),
    ],
)
def test_a_release_without_fixes_is_a_warning(seen: RunningRelease, expected: State) -> None:
    assert rules.release_is_maintained(seen, LIMITS).state is expected
