"""The contract of the port: one body for every target, on a real stack of it."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.api import answers, authorized_http
from infra.errors import LettaOpsError
from infra.log_lines import Wanted
from infra.pulumi_cli.project import configured
from infra.servers import start_server, stop_server
from infra.stack.deployment import SERVICE_MODEL, SERVICE_SERVER
from infra.targets import chosen, host, settings
from infra.targets.facts import Fact
from infra.targets.target import Host
from tests.live.machine import Stack, wait_until

ECHO = "import os, sys; print(sys.stdin.readline().strip(), *os.environ)"
# As a script of ours: a word, the home's path, more words.
SAY = "import json, sys; print(json.dumps([*sys.argv[1:], sys.stdin.buffer.read(3).decode()]))"
FAIL = "import sys; print('why', file=sys.stderr); sys.exit(3)"


@pytest.fixture
def place(stack: Stack) -> Host:
    return host(stack.deployment)


def test_the_reader_may_read_and_the_administrator_anything(place: Host) -> None:
    with place.session() as link:
        assert link.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
    with place.administrator() as access:
        assert access.is_superuser
        with access.connect(access.maintenance) as link:
            link.execute("CREATE DATABASE of_the_contract")
            link.execute("DROP DATABASE of_the_contract")


def test_a_service_stops_starts_and_may_be_told_so_twice(stack: Stack, place: Host) -> None:
    before = stack.pid(SERVICE_MODEL)
    for _ in range(2):
        place.stop(SERVICE_MODEL)
    assert stack.pid(SERVICE_MODEL) == 0
    assert stack.pid(SERVICE_SERVER) != 0
    for _ in range(2):
        place.start(SERVICE_MODEL)
    wait_until("the model runs again", lambda: stack.pid(SERVICE_MODEL) not in (0, before))
    wait_until("the stack is well", lambda: stack.run("smoke").code == 0)


def test_a_server_that_is_just_being_stopped_is_started_when_it_has_stopped(stack: Stack) -> None:
    """As after a restore that was killed: its stop is still at work when the guard starts it."""
    deployment = stack.deployment
    before = stack.pid(SERVICE_SERVER)
    with ThreadPoolExecutor(1) as background:
        stopping = background.submit(stop_server, deployment)
        wait_until("it is being stopped", lambda: not answers(deployment))
        start_server(deployment)
        stopping.result()
    assert stack.pid(SERVICE_SERVER) not in (0, before)
    assert answers(deployment)


def test_a_script_runs_as_the_server_does(place: Host) -> None:
    done = place.ask_server(ECHO, "a question", 60.0)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:2] == ["a", "question"]
    assert "LETTA_OPS_ENVIRONMENT_FILE" in words
    assert "LETTA_SERVER_PASSWORD" not in words


def test_a_script_runs_in_the_servers_home(place: Host) -> None:
    home = place.home("contract", SAY, "of-the-contract")
    assert home is not None
    said = home.run("word", "other", chunks=[b"a", b"bc"])
    word, path, other, read = json.loads(said)
    assert (word, other, read) == ("word", "other", "abc")
    assert path.startswith("/")
    assert home.place
    failing = place.home("contract", FAIL, "of-the-contract")
    assert failing is not None
    with pytest.raises(LettaOpsError, match="why") as caught:
        failing.run("word")
    assert caught.value.code == "of-the-contract"


def test_the_programs_of_postgres_are_its_own_where_they_can_be_run(place: Host) -> None:
    beside = place.server_programs()
    if beside is None:  # then ours are the server's
        with place.session() as link:
            assert link.info.server_version // 10_000 == 18
        return
    said = beside.run("pg_dump", "--version")
    with place.session() as link:
        assert f" {link.info.server_version // 10_000}." in said.stdout
    dumped = b"".join(beside.stream("pg_dump", "--schema-only", "--schema=letta_ops", "letta"))
    assert b"CREATE SCHEMA letta_ops" in dumped


def test_its_logs_are_those_of_its_services(place: Host) -> None:
    lines = list(place.logs(Wanted(tail=5)))
    assert {SERVICE_SERVER, SERVICE_MODEL, "postgres"} <= {line.service for line in lines}
    with pytest.raises(LettaOpsError) as caught:
        list(place.logs(Wanted(service="nobody")))
    assert caught.value.code == "unknown-service"


def test_it_says_how_it_is(stack: Stack, place: Host) -> None:
    running = place.running()
    assert all(state.startswith("RUNNING") for state in running.services.values()), running
    assert running.uptime is not None
    assert running.uptime > 0
    disk = place.disk()
    assert disk.total > disk.free > 0
    if Fact.SERVICES in place.facts:
        services = place.services()
        assert services.supervised
        assert {service.name for service in services.services} >= set(stack.services)
        assert all(listener.loopback for listener in place.listeners().listeners)
    if Fact.CONTAINERS in place.facts:
        containers = place.containers(memory=True)
        assert containers.missing == ()
        assert all(each.used for each in containers.containers)
    assert all(re.match(r"[^=]+=", text) for text in place.packages().values())


def test_it_is_ours_and_its_machine_is_able_to_run_it(stack: Stack, place: Host) -> None:
    assert (place.is_ours, place.can_back_up, place.provides_database) == (True, True, True)
    configuration = configured(stack.folder, stack.machine.environment)
    target = chosen(stack.name, configuration)
    for requirement in target.requirements(stack.folder, configuration, chosen=True):
        assert requirement.passed, requirement
    assert settings(stack.name, configuration).server_url == stack.deployment.server.url
    assert target.explain(stack.folder, configuration, "words that nobody knows") is None


def test_what_it_needs_to_be_found_again_is_in_its_profile(stack: Stack) -> None:
    kept = stack.deployment
    assert json.loads(stack.run("--json", "profile", "show").out)["target"] == kept.target
    assert host(kept).is_ours


def test_its_server_describes_its_api_when_it_is_asked(stack: Stack) -> None:
    """`launch.py` spares the start what this takes."""
    with authorized_http(stack.deployment) as client:
        document = client.get("/openapi.json", timeout=60).json()
    assert len(document["paths"]) > 150
    assert not [path for path in document["paths"] if path.startswith("/openai")]
    assert "LettaMessageUnion" in document["components"]["schemas"]
