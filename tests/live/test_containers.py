"""Tunnel and logs with real containers. Where no engine answers they are skipped, and say so."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from healthchecks.probes.here import inspect, inspect_memory, measure_disk
from healthchecks.status import observe
from infra.errors import LettaOpsError
from infra.log_lines import LogLine, Wanted
from infra.sensitive import Sensitive
from infra.stack.deployment import (
    SERVICE_POSTGRES,
    SERVICE_SERVER,
    Database,
    Deployment,
    Role,
    Server,
)
from infra.stack.releases import RELEASES
from infra.targets import host
from infra.targets.docker import logs
from infra.targets.docker.engine.client import engine, own_containers
from infra.targets.docker.engine.oneshot import Job, run_once
from infra.targets.docker.engine.tunnel import VIA_SOCKET, tunnel
from infra.targets.docker.images.recipes import BuildSettings, build
from infra.targets.docker.names import Names
from infra.targets.docker.postgres import administrator, inside

PASSWORD = Sensitive("a-password-with-'quotes")
# Where nothing can be pulled: the name of a Debian image that the engine has.
BASE_VARIABLE = "LETTA_OPS_TEST_BASE"
START = "letta-ops-initdb && exec letta-ops-postgres postgres"


@pytest.fixture(scope="module")
def image() -> str:
    base = os.environ.get(BASE_VARIABLE)
    settings = BuildSettings(base=base) if base else BuildSettings()
    try:
        return build("postgres", RELEASES["0.16.8"], settings, print)
    except LettaOpsError as error:
        if error.code not in ("no-engine", "engine-permission", "image-missing"):
            raise
        pytest.skip(f"{error.message} ({BASE_VARIABLE} names a base image)")


@pytest.fixture(scope="module")
def names() -> Names:
    return Names(f"letta-test-{secrets.token_hex(4)}")


@pytest.fixture(scope="module")
def start(image: str, names: Names) -> Iterator[Callable[..., Any]]:
    """Start containers of a stack of the test's own; all of them are removed in the end."""
    with engine() as client:

        def started(service: str, script: str, name: str | None = None) -> Any:
            return client.containers.run(
                image, entrypoint=["sh", "-c", script], command=[],
                name=name or names.container(service), labels=dict(names.labels(service)),
                network_mode="none", mem_limit="512m", cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"], healthcheck={"test": ["NONE"]},
                stop_signal="SIGKILL", detach=True,
            )  # fmt: skip

        yield started
        for each in own_containers(client, names.prefix):
            each.remove(force=True, v=True)


@pytest.fixture(scope="module")
def postgres(start: Callable[..., Any]) -> str:
    container = start(SERVICE_POSTGRES, START)
    deadline = time.monotonic() + 60
    while True:
        try:
            with administrator({"container": container.name}, "postgres") as link:
                link.execute(f"CREATE ROLE reader LOGIN PASSWORD {quoted(PASSWORD)}")
                return str(container.name)
        except LettaOpsError:
            assert time.monotonic() < deadline, container.logs().decode()
            time.sleep(0.3)


def quoted(secret: Sensitive) -> Any:
    return "'" + secret.reveal().replace("'", "''") + "'"


def deployment(
    container: str, password: Sensitive = PASSWORD, names: Names | None = None
) -> Deployment:
    role = Role("reader", password)
    found = Database("nowhere.invalid", 1, "postgres", role, role)
    server = Server("http://127.0.0.1:9")
    prefix = names.prefix if names else "letta-test"
    placement = {"containers.prefix": prefix, "database.container": container}
    return Deployment("prod", "docker", server, database=found, placement=placement)


def programs(container: str) -> list[str]:
    with engine() as client:
        listing = client.containers.get(container).top(ps_args="-o pid,args")
        return [row[-1] for row in listing["Processes"]]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def settled(container: str) -> bool:
    """Whether neither a relay nor what it was for is left in the container."""
    deadline = time.monotonic() + 5
    while any(word in each for each in programs(container) for word in ("socat", "COPY")):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_a_role_with_a_password_and_the_administrator_without_one_get_in(postgres: str) -> None:
    with host(deployment(postgres)).session() as link:
        assert link.execute("SELECT current_user").fetchone() == ("reader",)
    with administrator({"container": postgres}, "template1") as link:
        row = link.execute("SELECT current_user, current_database()").fetchone()
        assert row == ("postgres", "template1")


def test_nothing_is_left_of_a_tunnel(postgres: str) -> None:
    with administrator({"container": postgres}, "postgres"):
        pass
    before = (open_files(), threading.active_count())
    folders = []
    for _ in range(3):
        with tunnel(postgres, VIA_SOCKET) as folder:
            folders.append(folder)
            assert folder.stat().st_mode & 0o777 == 0o700
        with administrator({"container": postgres}, "postgres") as link:
            link.execute("SELECT 1")
    assert settled(postgres)
    assert not any(folder.exists() for folder in folders)
    assert (open_files(), threading.active_count()) == before


def test_large_transfers_arrive_whole_in_both_directions(postgres: str) -> None:
    query = "SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 50000) AS i"
    row = "y" * 991 + "\n"
    with administrator({"container": postgres}, "postgres") as link:
        digest = hashlib.sha256()
        with link.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT") as copy:
            for block in copy:
                digest.update(block)
        expected = hashlib.sha256()
        for i in range(1, 50001):
            word = hashlib.md5(str(i).encode(), usedforsecurity=False).hexdigest()
            expected.update(f"{i}\t{word * 20}\n".encode())
        assert digest.digest() == expected.digest()
        link.execute("CREATE TEMPORARY TABLE sink (line text)")
        with link.cursor() as cursor, cursor.copy("COPY sink FROM STDIN") as copy:
            for _ in range(300):
                copy.write(row * 100)
        counted = link.execute("SELECT count(*), sum(length(line)) FROM sink").fetchone()
        assert counted == (30000, 991 * 30000)


def test_many_connections_go_through_one_tunnel(postgres: str) -> None:
    import psycopg

    with tunnel(postgres, VIA_SOCKET) as folder:
        links = [
            psycopg.connect(host=str(folder), dbname="postgres", user="postgres") for _ in range(8)
        ]
        found = {link.execute("SELECT pg_backend_pid()").fetchone() for link in links}
        for link in links:
            link.close()
    assert len(found) == 8
    assert settled(postgres)


def test_a_client_that_stops_in_the_middle_leaves_nothing_running(postgres: str) -> None:
    endless = "SELECT 'x' FROM pg_class a, pg_class b, pg_class c, pg_class d"
    with tunnel(postgres, VIA_SOCKET) as folder:
        import psycopg

        link = psycopg.connect(host=str(folder), dbname="postgres", user="postgres")
        link.pgconn.exec_(f"COPY ({endless}) TO STDOUT".encode())
        link.pgconn.get_copy_data(0)
        link.pgconn.finish()
        assert settled(postgres)


@pytest.mark.parametrize(
    ("name", "password", "words"),
    [
        ("letta-test-nowhere", PASSWORD, "its container letta-test-nowhere doesn't exist"),
        (None, Sensitive("wrong"), 'password authentication failed for user "reader"'),
    ],
)
def test_a_database_that_cannot_be_reached_is_said_to_be_so(
    postgres: str, name: str | None, password: Sensitive, words: str
) -> None:
    with (
        pytest.raises(LettaOpsError) as caught,
        host(deployment(name or postgres, password)).session(),
    ):
        pass
    assert caught.value.code == "database-unreachable"
    assert words in caught.value.message
    assert "/.s.PGSQL" not in caught.value.message


def test_a_container_in_which_nothing_listens_and_one_that_ended_are_told_apart(
    start: Callable[..., Any], names: Names
) -> None:
    container = start("idle", "sleep 600")
    settings: dict[str, str | int] = {"dbname": "postgres", "user": "reader"}
    with pytest.raises(LettaOpsError, match="Connection refused"), inside(container.name, settings):
        pass
    container.kill()
    with pytest.raises(LettaOpsError, match="it is exited"), inside(container.name, settings):
        pass


SPEAK = "for i in 1 2 3; do echo {word} $i; sleep 0.2; done; sleep 600"


@pytest.fixture(scope="module")
def speakers(start: Callable[..., Any], names: Names) -> str:
    secret = PASSWORD.reveal().replace("'", "'\\''")
    start("talker", SPEAK.format(word="'" + secret + "'"))
    start("other", SPEAK.format(word="other"), f"{names.prefix}-other-a1-1")
    start("long", "head -c 40000 /dev/zero | tr '\\0' z; echo; echo end; sleep 600")
    time.sleep(2)
    return names.prefix


def heard(prefix: str, **wanted: Any) -> list[LogLine]:
    return list(logs.lines(prefix, Wanted(**wanted), (PASSWORD,)))


def test_the_logs_of_all_containers_are_merged_by_time_and_redacted(speakers: str) -> None:
    found = [line for line in heard(speakers) if line.service in ("talker", "other")]
    assert [line.time for line in found] == sorted(line.time for line in found if line.time)
    assert {line.source for line in found} == {"talker", "other-a1-1"}
    assert [line.text for line in found if line.service == "talker"] == [
        "[redacted] 1",
        "[redacted] 2",
        "[redacted] 3",
    ]


def test_a_line_that_the_engine_has_cut_into_pieces_is_whole_again(speakers: str) -> None:
    assert [line.text for line in heard(speakers, service="long")] == ["z" * 40000, "end"]


def test_only_the_last_lines_and_only_since_a_moment(speakers: str) -> None:
    all_lines = heard(speakers, service="other")
    assert heard(speakers, service="other", tail=1) == all_lines[-1:]
    assert all_lines[1].time is not None
    moment = all_lines[1].time - dt.timedelta(milliseconds=50)
    assert heard(speakers, service="other", since=moment) == all_lines[1:]


def test_a_service_that_is_not_there_is_refused_with_the_names_of_those_that_are(
    speakers: str,
) -> None:
    with pytest.raises(LettaOpsError) as caught:
        heard(speakers, service="redis")
    assert caught.value.code == "unknown-service"
    assert "other" in caught.value.hint


def test_following_hears_each_line_once_over_restarts_and_of_newcomers(
    start: Callable[..., Any], names: Names, speakers: str
) -> None:
    first = start("followed", "echo one; sleep 1; echo two; sleep 600", f"{names.prefix}-f-1")
    found: list[tuple[str, str]] = []
    lines = logs.lines(names.prefix, Wanted("followed", follow=True), ())
    for line in lines:
        found.append((line.source, line.text))
        if len(found) == 2:
            first.restart(timeout=0)
        if len(found) == 4:
            start("followed", "echo three; sleep 600", f"{names.prefix}-f-2")
        if len(found) == 5:
            break
    lines.close()  # type: ignore[attr-defined]  # it is a generator
    assert found == [
        ("f-1", "one"),
        ("f-1", "two"),
        ("f-1", "one"),
        ("f-1", "two"),
        ("f-2", "three"),
    ]


def test_the_sockets_path_is_short_enough_however_long_the_temporary_folder_is(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with administrator({"container": postgres}, "postgres") as link:
        assert link.execute("SELECT 1").fetchone() == (1,)
    assert not list(deep.iterdir())


def test_the_engine_tells_what_a_container_may_and_what_it_uses(
    postgres: str, names: Names
) -> None:
    seen = inspect_memory(deployment(postgres, names=names))
    (facts,) = (each for each in seen.containers if each.service == SERVICE_POSTGRES)
    assert (facts.name, facts.state, facts.restarts, facts.killed) == (postgres, "RUNNING", 0, 0)
    assert facts.limit == 512 * 1024**2
    assert facts.used is not None
    assert 1024**2 < facts.used < facts.limit
    assert facts.confinement.user == "10002:10002"
    assert facts.confinement.drops_all
    assert facts.confinement.no_new_privileges
    assert not facts.confinement.read_only
    assert facts.published == ()
    assert seen.missing == ("letta", "redis", "proxy")
    assert {each.service for each in seen.containers} == {SERVICE_POSTGRES}


def test_a_part_that_was_killed_for_want_of_memory_is_counted(
    start: Callable[..., Any], names: Names, postgres: str
) -> None:
    hungry = "head -c 900m /dev/zero | tail >/dev/null; sleep 600"
    container = start(SERVICE_SERVER, hungry, names.server("abc", 1))
    try:
        deadline = time.monotonic() + 30
        seen = deployment(postgres, names=names)
        while True:
            found = {each.service: each for each in inspect_memory(seen).containers}
            if found[SERVICE_SERVER].killed:
                break
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert found[SERVICE_SERVER].runs
        assert not found[SERVICE_SERVER].killed_whole
        status = observe(seen)
        assert status.services == {"letta-abc-1": "RUNNING", "postgres": "RUNNING"}
        assert status.uptime_seconds is not None
    finally:
        container.remove(force=True)
    assert "letta" in inspect(seen).missing


def test_the_disk_is_measured_where_the_data_is(postgres: str, names: Names) -> None:
    seen = measure_disk(deployment(postgres, names=names))
    assert 0 < seen.free < seen.total
    assert seen.container == postgres


def test_proxies_of_the_user_who_runs_a_command_stay_out_of_our_containers(
    image: str, names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxies = {"default": {"httpProxy": "http://user:secret@of-this-user.invalid:3128"}}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    done = run_once(Job(names.container("env"), image, ["env"], names.labels("env")))
    assert done.code == 0
    assert any(line.startswith("PATH=") for line in done.lines)
    assert not [line for line in done.lines if "of-this-user" in line]
