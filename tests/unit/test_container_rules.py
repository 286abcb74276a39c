"""Case tables: what is said of containers, of a certificate, and of the way to the models."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from healthchecks import container_rules as rules
from healthchecks import provider_rules
from healthchecks.model import State, Thresholds
from healthchecks.probes.certificate import Certificate
from healthchecks.probes.model import Answer, Providers
from infra.targets.facts import Confinement, ContainerFacts, Containers, Published

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
LIMITS = Thresholds(today=NOW.date())
MIB = 1024**2
CONFINED = Confinement(
    "10001:10001",
    read_only=True,
    no_new_privileges=True,
    drops_all=True,
    privileged=False,
    host_network=False,
)
SERVER = ContainerFacts(
    "x-letta-a-1", "letta", "running", "healthy", 0, uptime=1e6, restarts=0, killed_whole=False,
    killed=0, used=500 * MIB, limit=2048 * MIB, image="letta:1", image_days=3.0, base=None,
    published=(), confinement=CONFINED,
)  # fmt: skip
PROXY = replace(
    SERVER,
    name="x-proxy",
    service="proxy",
    image="proxy:2",
    published=(Published("127.0.0.1", 80),),
)


def stack(
    *containers: ContainerFacts, missing: tuple[str, ...] = (), tls: bool = False
) -> Containers:
    return Containers(containers, missing, tls)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (stack(SERVER, PROXY), State.OK),
        (stack(replace(SERVER, health=None)), State.OK),
        (stack(replace(SERVER, health="starting"), PROXY), State.WARNING),
        (stack(replace(SERVER, health="unhealthy"), PROXY), State.CRITICAL),
        (stack(replace(SERVER, status="exited", exit_code=1, health="unhealthy")), State.CRITICAL),
        (stack(replace(SERVER, status="restarting", health="starting")), State.CRITICAL),
        (stack(replace(SERVER, status="paused")), State.CRITICAL),
        (stack(PROXY, missing=("letta",)), State.CRITICAL),
        (stack(replace(SERVER, health="starting"), missing=("proxy",)), State.CRITICAL),
        (stack(missing=("letta", "proxy")), State.CRITICAL),
    ],
)
def test_every_container_must_be_there_and_well(seen: Containers, expected: State) -> None:
    assert rules.containers_run(seen, LIMITS).state is expected


def test_the_log_that_is_named_is_of_the_container_that_failed() -> None:
    starting = replace(PROXY, health="starting")
    failed = replace(SERVER, status="exited", exit_code=137)
    verdict = rules.containers_run(stack(starting, failed), LIMITS)
    assert verdict.hint == "see why: `letta-ops logs letta`"
    assert "x-letta-a-1 EXITED (137)" in verdict.detail


@pytest.mark.parametrize(
    ("container", "expected", "words"),
    [
        (SERVER, State.OK, "no restarts"),
        (replace(SERVER, restarts=2), State.OK, "no restarts of late (2 before)"),
        (replace(SERVER, restarts=2, uptime=60), State.WARNING, "restarted of late"),
        (replace(SERVER, status="restarting", restarts=9), State.CRITICAL, "restarted of late"),
        (replace(SERVER, killed=1), State.WARNING, "killed for want of memory: x-letta-a-1"),
        (
            replace(SERVER, killed_whole=True, restarts=1),
            State.WARNING,
            "killed for want of memory",
        ),
        (replace(SERVER, killed_whole=True, status="exited"), State.CRITICAL, "want of memory"),
    ],
)
def test_restarts_and_kills_are_told(
    container: ContainerFacts, expected: State, words: str
) -> None:
    verdict = rules.nothing_restarts(stack(container), LIMITS)
    assert verdict.state is expected
    assert words in verdict.summary


@pytest.mark.parametrize(
    ("service", "setting"), [("letta", "server.memory"), ("postgres", "database.memory")]
)
def test_a_kill_for_want_of_memory_says_which_setting_gives_more(
    service: str, setting: str
) -> None:
    killed = replace(SERVER, service=service, killed_whole=True)
    hint = rules.nothing_restarts(stack(killed), LIMITS).hint
    assert f"--config {setting}=MIB" in hint
    assert "now 2048" in hint


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        (SERVER, State.OK),
        (replace(SERVER, used=1900 * MIB), State.WARNING),
        (replace(SERVER, limit=None, used=None), State.WARNING),
        (replace(SERVER, status="exited", used=None), State.UNKNOWN),
    ],
)
def test_memory_is_compared_with_its_limit(container: ContainerFacts, expected: State) -> None:
    assert rules.memory_suffices(stack(container), LIMITS).state is expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (stack(SERVER, PROXY), State.OK),
        (stack(replace(PROXY, published=())), State.OK),
        (stack(replace(PROXY, published=(Published("::1", 80),))), State.OK),
        (stack(replace(PROXY, published=(Published("0.0.0.0", 80),))), State.CRITICAL),
        (stack(replace(PROXY, published=(Published("", 80),))), State.CRITICAL),
        (stack(replace(PROXY, published=(Published("0.0.0.0", 443),)), tls=True), State.OK),
        (stack(replace(SERVER, published=(Published("127.0.0.1", 1),)), tls=True), State.CRITICAL),
        (stack(replace(PROXY, confinement=replace(CONFINED, host_network=True))), State.CRITICAL),
    ],
)
def test_nothing_but_the_proxy_may_be_published(seen: Containers, expected: State) -> None:
    assert rules.only_the_proxy_is_published(seen, LIMITS).state is expected


@pytest.mark.parametrize(
    ("confinement", "expected", "words"),
    [
        (CONFINED, State.OK, ""),
        (replace(CONFINED, user=""), State.CRITICAL, "runs as root"),
        (replace(CONFINED, user="0:10001"), State.CRITICAL, "runs as root"),
        (replace(CONFINED, user="root"), State.CRITICAL, "runs as root"),
        (replace(CONFINED, privileged=True), State.CRITICAL, "privileged"),
        (replace(CONFINED, drops_all=False), State.WARNING, "keeps capabilities"),
        (replace(CONFINED, read_only=False), State.WARNING, "root file system"),
        (replace(CONFINED, no_new_privileges=False), State.WARNING, "may gain privileges"),
    ],
)
def test_a_container_that_may_more_than_it_needs_is_named(
    confinement: Confinement, expected: State, words: str
) -> None:
    seen = stack(PROXY, replace(SERVER, confinement=confinement))
    verdict = rules.containers_are_confined(seen, LIMITS)
    assert verdict.state is expected
    assert words in verdict.detail


@pytest.mark.parametrize(
    ("days", "expected"), [(3.0, State.OK), (91.0, State.WARNING), (None, State.WARNING)]
)
def test_an_old_image_is_a_warning_and_so_is_one_that_is_gone(
    days: float | None, expected: State
) -> None:
    seen = stack(PROXY, replace(SERVER, image_days=days))
    verdict = rules.images_are_recent(seen, LIMITS)
    assert verdict.state is expected
    assert (f"image.packages={LIMITS.today}" in verdict.hint) is (days == 91.0)


def certificate(life: dt.timedelta, left: dt.timedelta) -> Certificate:
    return Certificate("letta.example", "an authority", NOW + left - life, NOW + left, NOW)


@pytest.mark.parametrize(
    ("life", "left", "expected"),
    [
        (dt.timedelta(days=365), dt.timedelta(days=100), State.OK),
        (dt.timedelta(days=365), dt.timedelta(days=20), State.WARNING),
        (dt.timedelta(days=365), dt.timedelta(days=2), State.CRITICAL),
        (dt.timedelta(days=365), dt.timedelta(seconds=-1), State.CRITICAL),
        (dt.timedelta(days=90), dt.timedelta(days=31), State.OK),
        (dt.timedelta(days=90), dt.timedelta(days=20), State.WARNING),
        (dt.timedelta(hours=12), dt.timedelta(hours=5), State.OK),
        (dt.timedelta(hours=12), dt.timedelta(hours=2), State.WARNING),
        (dt.timedelta(hours=12), dt.timedelta(hours=1), State.CRITICAL),
    ],
)
def test_a_certificate_must_last(life: dt.timedelta, left: dt.timedelta, expected: State) -> None:
    assert rules.certificate_lasts(certificate(life, left), LIMITS).state is expected


def test_a_certificate_that_is_not_valid_yet_points_at_the_clock() -> None:
    seen = certificate(dt.timedelta(days=1), dt.timedelta(days=2))
    verdict = rules.certificate_lasts(seen, LIMITS)
    assert verdict.state is State.CRITICAL
    assert "clock" in verdict.hint


GOOD = Answer("openai", "http://m/v1", None, "", 3)


@pytest.mark.parametrize(
    ("seen", "expected", "words"),
    [
        (Providers((GOOD,)), State.OK, "openai: 3 models"),
        (Providers((replace(GOOD, models=None),)), State.OK, "openai answers"),
        (Providers((replace(GOOD, models=0),)), State.WARNING, "no models at: openai"),
        (Providers(()), State.WARNING, "no model provider is configured"),
        (Providers((GOOD, replace(GOOD, failed="dns"))), State.CRITICAL, "openai (dns)"),
    ],
)
def test_every_provider_must_list_models(seen: Providers, expected: State, words: str) -> None:
    verdict = provider_rules.models_reachable(seen, LIMITS)
    assert verdict.state is expected
    assert words in verdict.summary


@pytest.mark.parametrize("step", provider_rules.STEP_HINTS)
def test_each_step_that_can_fail_has_a_next_step(step: str) -> None:
    failed = replace(GOOD, failed=step, detail="because")
    verdict = provider_rules.models_reachable(Providers((failed,), "no database"), LIMITS)
    assert verdict.hint.startswith(provider_rules.STEP_HINTS[step])
    assert verdict.detail.splitlines() == [
        f"openai at http://m/v1: {step}: because",
        "those that users added were not looked at: no database",
    ]
