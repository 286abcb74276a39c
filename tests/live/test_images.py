"""The images on a real engine: what is in them, what is not, and how each behaves when hardened."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import http.server
import io
import json
import os
import secrets
import stat
import tarfile
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import testinfra

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.releases import RELEASES
from infra.targets.docker.engine.execution import execute
from infra.targets.docker.images import recipes
from infra.targets.docker.images.engine_build import run_build
from infra.targets.docker.images.recipes import NAMES, PACKAGES, BuildSettings
from infra.targets.docker.names import POSTGRES_USER, PROXY_USER, REDIS_USER, SERVER_USER

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

BASE = os.environ.get("LETTA_OPS_TEST_BASE", "letta-ops-base:trixie")
RELEASE = RELEASES["0.16.8"]
USERS = {
    "letta": SERVER_USER,
    "postgres": POSTGRES_USER,
    "proxy": PROXY_USER,
    "redis": REDIS_USER,
}
TEMPORARY = {
    "letta": ["/tmp"],  # noqa: S108  # inside the container
    "postgres": ["/tmp", "/run/postgresql"],  # noqa: S108
    "proxy": ["/run/proxy"],
    "redis": [],
}
PASSWORD = "correct-horse-battery"
BUILDING = {
    "apt-get-build", "as", "c++", "cargo", "cc", "clang", "cpp", "g++", "gcc", "gdb", "ld", "make",
    "npm", "pip", "pip3", "rustc", "uv", "uvx",
}  # fmt: skip
SERVERS = {"initdb", "pg_ctl", "postgres", "psql", "redis-server", "valkey-server"}

Run = Callable[..., "Container"]
WithSecret = Callable[[str, str, int], dict[str, dict[str, str]]]


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    try:
        client.images.get(BASE)
    except ImageNotFound:
        pytest.skip(f"there is no image {BASE}; next: python tools/docker_engine.py ensure")
    yield client
    client.close()


@pytest.fixture(scope="module")
def tags(engine: DockerClient) -> dict[str, str]:
    """Every image, built from the base of this machine."""
    settings = BuildSettings(base=BASE)
    return {name: recipes.build(name, RELEASE, settings, print) for name in NAMES}


@pytest.fixture
def new_volume(engine: DockerClient) -> Iterator[Callable[[], str]]:
    """Make a volume; all are gone at the end, after the containers of `run`."""
    made = []

    def make() -> str:
        made.append(engine.volumes.create(f"letta-ops-test-{uuid.uuid4().hex[:8]}"))
        return str(made[-1].name)

    yield make
    for each in made:
        each.remove(force=True)


@pytest.fixture
def volume(new_volume: Callable[[], str]) -> str:
    return new_volume()


@pytest.fixture
def run(engine: DockerClient, tags: dict[str, str], new_volume: Callable[[], str]) -> Iterator[Run]:
    """Start a hardened container of an image; gone at the end."""
    started = []

    def start(image: str, *command: str, **settings: Any) -> Container:
        container: Container = engine.containers.run(
            tags[image],
            list(command) or None,
            **{
                "detach": True,
                "init": True,
                "read_only": True,
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"],
                "network_mode": "none",
                "tmpfs": dict.fromkeys(TEMPORARY[image], f"uid={USERS[image]}"),
                **settings,
            },
        )
        started.append(container)
        return container

    yield start
    for container in started:
        container.remove(force=True, v=True)


@pytest.fixture
def with_secret(
    engine: DockerClient, tags: dict[str, str], new_volume: Callable[[], str]
) -> WithSecret:
    """Mount /secrets with one file in it that only one account can read."""

    def make(name: str, text: str, user: int) -> dict[str, dict[str, str]]:
        volume, path = new_volume(), f"/secrets/{name}"
        encoded = base64.b64encode(text.encode()).decode()
        engine.containers.run(
            tags["redis"],
            ["-c", f"echo {encoded} | base64 -d > {path}; chown {user} {path}; chmod 400 {path}"],
            entrypoint="sh", user="0:0", remove=True, network_mode="none",
            volumes={volume: {"bind": "/secrets"}},
        )  # fmt: skip
        return {volume: {"bind": "/secrets", "mode": "ro"}}

    return make


def ended(container: Container, seconds: float = 60) -> tuple[int, str]:
    code = int(container.wait(timeout=seconds)["StatusCode"])
    return code, container.logs().decode()


def health(container: Container) -> str:
    container.reload()
    return str(container.attrs["State"]["Health"]["Status"])


def wait(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.3)
    pytest.fail(f"{what}: not within {seconds:.0f} s")


def wait_for_health(container: Container, wanted: str = "healthy", seconds: float = 60) -> None:
    def has_come() -> bool:
        found = health(container)  # also reads the state anew
        if container.status not in ("running", "paused"):
            pytest.fail(f"it has ended:\n{ended(container)[1][-2000:]}")
        return found == wanted

    wait(wanted, has_come, seconds)


def inside(container: Container, *words: str) -> tuple[int, str]:
    # Not docker-py's exec_run: it loses what comes along with the head of the engine's answer.
    done = execute(str(container.id), words)
    return done.code, done.output


# What is in the images, and what is not


@pytest.mark.parametrize("name", NAMES)
def test_an_image_runs_as_its_own_account_without_any_privilege(name: str, run: Run) -> None:
    container = run(name, "60", entrypoint="sleep")
    host = testinfra.get_host(f"docker://{container.id}")
    user = host.user()
    assert (user.uid, user.gid) == (USERS[name], USERS[name])
    status = host.file("/proc/1/status").content_string
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    for folder in ("/", "/etc", "/usr/local/bin", "/opt"):
        assert host.run(f"touch {folder}/written").rc != 0
    for folder in TEMPORARY[name]:
        assert host.run(f"touch {folder}/written").rc == 0


@pytest.mark.parametrize("name", NAMES)
def test_an_image_says_what_it_is(name: str, engine: DockerClient, tags: dict[str, str]) -> None:
    image = engine.images.get(tags[name])
    version = tags[name].partition(":")[2].rpartition("-")[0]
    assert image.labels["letta-ops.image"] == name
    assert image.labels["org.opencontainers.image.version"] == version
    assert image.labels["org.opencontainers.image.title"]
    assert image.labels["org.opencontainers.image.licenses"]
    assert image.labels["org.opencontainers.image.base.name"] == BASE
    assert "org.opencontainers.image.created" not in image.labels
    configuration = image.attrs["Config"]
    assert configuration["Healthcheck"]["Test"][0] == "CMD"
    assert not configuration.get("Volumes")


@pytest.mark.parametrize("name", NAMES)
def test_an_image_says_which_packages_are_in_it_and_since_when(
    name: str, engine: DockerClient, tags: dict[str, str], run: Run
) -> None:
    labels = engine.images.get(tags[name]).labels
    query = "${db:Status-Abbrev}${binary:Package}=${Version}\n"
    said = inside(run(name, "60", entrypoint="sleep"), "dpkg-query", "-W", "-f", query)[1]
    installed = [line[3:] for line in said.splitlines() if line.startswith("ii ")]
    assert len(installed) > 50
    assert labels["letta-ops.packages"].split() == installed
    assert PACKAGES <= labels["letta-ops.packages.installed"] <= f"{dt.datetime.now(dt.UTC):%F}"
    assert f"{tags[name]}-draft" not in [tag for each in engine.images.list() for tag in each.tags]


@contextlib.contextmanager
def exported(engine: DockerClient, image: str) -> Iterator[tarfile.TarFile]:
    """The whole file system of an image."""
    container = engine.containers.create(image)
    try:
        with tempfile.TemporaryFile() as spool:
            chunks: Any = container.export()
            spool.writelines(chunks)
            spool.seek(0)
            with tarfile.open(fileobj=spool) as archive:
                yield archive
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_no_setuid_file_and_no_leftovers(
    name: str, engine: DockerClient, tags: dict[str, str]
) -> None:
    with exported(engine, tags[name]) as archive:
        members = archive.getmembers()
    assert [entry.name for entry in members if entry.mode & (stat.S_ISUID | stat.S_ISGID)] == []
    files = [entry.name for entry in members if not entry.isdir()]
    programs = {path.rpartition("/")[2] for path in files if "/bin/" in f"/{path}"}
    assert programs & BUILDING == set()
    if name == "letta":
        assert programs & SERVERS == set()
        packages = [path for path in files if path.startswith("opt/letta/lib/")]
        assert any(path.endswith(".pyc") for path in packages)
    leftovers = (
        "build/",
        "release/",
        "tmp/",
        "var/lib/apt/lists/",
        "var/cache/",
        "var/log/",
        "root/.cache",
    )
    assert [path for path in files if path.startswith(leftovers)] == []


def test_only_root_can_change_what_the_server_runs(run: Run) -> None:
    container = run("letta", "60", entrypoint="sleep")
    everything = "find /opt /usr /etc ! -readable -prune -o"
    for wrong in ("! -type l -perm /022", "! -user root"):
        assert inside(container, "sh", "-c", f"{everything} {wrong} -print") == (0, "")


# Building


class Proxy(http.server.BaseHTTPRequestHandler):
    """A company's proxy: wants a password, and alone knows where the mirror is."""

    credentials: str
    mirror: str
    asked: list[str]

    def do_GET(self) -> None:
        if self.headers.get("Proxy-Authorization") != self.credentials:
            self.send_error(407)
            return
        self.asked.append(self.path)
        url = self.path.replace(self.mirror, "deb.debian.org/debian")
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  # Debian's packages
                content = answer.read()
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[http.server.ThreadingHTTPServer]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.mark.long
def test_a_build_behind_a_proxy_leaves_no_trace_of_it(
    engine: DockerClient, tags: dict[str, str], tmp_path: Path,
    proxy: http.server.ThreadingHTTPServer,
) -> None:  # fmt: skip
    """Proxy, private authority, mirror and index: not in the files, nor the history, nor the stages."""
    marks = {what: f"mark{secrets.token_hex(8)}" for what in ("proxy", "ca", "index", "mirror")}
    Proxy.credentials = "Basic " + base64.b64encode(f"me:{marks['proxy']}".encode()).decode()
    Proxy.mirror = f"{marks['mirror']}.example/debian"
    Proxy.asked = []
    bundle = tmp_path / "company.pem"
    bundle.write_text(f"-----BEGIN CERTIFICATE-----\n{marks['ca']}\n-----END CERTIFICATE-----\n")
    base = f"letta-ops-base:test-{uuid.uuid4().hex[:8]}"  # so that nothing is there already
    engine.images.get(BASE).tag(base)
    settings = BuildSettings(
        base=base,
        ca_bundle=bundle,
        proxy=Sensitive(f"http://me:{marks['proxy']}@127.0.0.1:{proxy.server_port}"),
        index_url=Sensitive(f"https://me:{marks['index']}@index.example/simple"),
        apt_mirror=f"http://{Proxy.mirror}",
    )
    made = None
    try:
        made = recipes.build("redis", RELEASE, settings, print)
        assert any(marks["mirror"] in path for path in Proxy.asked)
        image = engine.images.get(made)
        told = json.dumps([image.attrs, image.history()])
        assert [what for what, mark in marks.items() if mark in told] == []
        with exported(engine, made) as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isfile() else None
                data = content.read() if content else b""
                found = [what for what, mark in marks.items() if mark.encode() in data]
                assert found == [], entry.name
        for stage in engine.images.list(all=True):  # passwords are nowhere on the engine
            with contextlib.suppress(Exception):  # another build's may just go
                told = json.dumps([stage.attrs, stage.history()])
                assert marks["proxy"] not in told
                assert marks["index"] not in told
    finally:
        if made:
            engine.images.remove(made, force=True)
        engine.images.remove(base)


def test_two_stacks_of_one_release_share_its_image(tags: dict[str, str]) -> None:
    told: list[str] = []
    for name in NAMES:
        settings = BuildSettings(base=BASE, proxy=Sensitive("http://nobody.invalid:1"))
        assert recipes.build(name, RELEASE, settings, told.append) == tags[name]
    assert told == []


def test_a_base_that_is_nowhere_is_named_with_the_setting(engine: DockerClient) -> None:
    settings = BuildSettings(base="letta-ops-absent:nowhere")
    with pytest.raises(LettaOpsError, match="letta-ops-absent:nowhere") as caught:
        recipes.build("redis", RELEASE, settings, print)
    assert caught.value.code == "image-missing"
    assert "image.base" in caught.value.hint


def test_a_failed_build_shows_its_last_lines_without_secrets(engine: DockerClient) -> None:
    dockerfile = 'ARG BASE\nFROM ${BASE}\nRUN echo "the proxy is $http_proxy"; exit 3\n'
    with pytest.raises(LettaOpsError) as caught:
        run_build(
            engine,
            "letta-ops/probe:failed",
            {"Dockerfile": dockerfile.encode()},
            {"BASE": BASE, "http_proxy": PASSWORD},
            [Sensitive(PASSWORD)],
            print,
        )
    assert caught.value.code == "image-build-failed"
    assert "the proxy is [redacted]" in caught.value.message
    assert PASSWORD not in caught.value.message


# Postgres

DATA = "/var/lib/postgresql/data"


def test_postgres_does_not_start_on_an_empty_volume(run: Run, volume: str) -> None:
    code, words = ended(run("postgres", volumes={volume: {"bind": DATA}}))
    assert code == 78
    assert words.count("\n") == 1
    assert "no cluster in /var/lib/postgresql/data/pgdata" in words


def cluster(run: Run, volume: str) -> dict[str, Any]:
    code, words = ended(run("postgres", "letta-ops-cluster", volumes={volume: {"bind": DATA}}))
    assert code == 0
    found: dict[str, Any] = json.loads(words)
    return found


def test_a_cluster_is_made_once_and_served(run: Run, volume: str) -> None:
    volumes = {volume: {"bind": DATA}}
    assert cluster(run, volume) == {"state": "empty", "version": None, "identifier": None}
    code, words = ended(run("postgres", "letta-ops-initdb", volumes=volumes))
    assert code == 0, words
    made = cluster(run, volume)
    assert (made["state"], made["version"]) == ("cluster", "17")
    assert made["identifier"].isdigit()
    code, words = ended(run("postgres", "letta-ops-initdb", volumes=volumes))
    assert code == 73
    assert "is not empty" in words

    container = run("postgres", volumes=volumes)
    wait_for_health(container)
    query = ("psql", "-XAtU", "postgres", "-c")
    assert inside(container, *query, "CREATE EXTENSION vector")[0] == 0
    assert inside(container, *query, "SELECT '[1,2]'::vector <-> '[1,4]'") == (0, "2\n")
    shown = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN"
    names = "('data_checksums', 'listen_addresses', 'password_encryption', 'server_encoding')"
    assert inside(container, *query, f"{shown} {names}")[1].strip() == (
        "data_checksums=on listen_addresses=* password_encryption=scram-sha-256 server_encoding=UTF8"
    )
    # Only its own account is let in without a password, and only by the socket.
    code, output = inside(
        container, "psql", "-XwU", "postgres", "-h", "127.0.0.1", "-c", "SELECT 1"
    )
    assert code != 0
    assert "rejects connection" in output
    # A statement that fails is not repeated in the log: it may hold a password.
    inside(container, *query, f"CREATE ROLE x PASSWORD '{PASSWORD}' NONSENSE")
    assert PASSWORD not in container.logs().decode()
    assert inside(container, "socat", "-V")[0] == 0
    assert cluster(run, volume) == made
    container.stop(timeout=20)
    assert "database system is shut down" in container.logs().decode()


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(0.1, marks=pytest.mark.long), 0.4, pytest.param(0.8, marks=pytest.mark.long)],
)
def test_a_cluster_whose_making_was_killed_is_none(run: Run, volume: str, seconds: float) -> None:
    volumes = {volume: {"bind": DATA}}
    making = run("postgres", "letta-ops-initdb", volumes=volumes)
    time.sleep(seconds)
    with contextlib.suppress(Exception):  # it may have ended
        making.kill()
    ended(making)
    before = cluster(run, volume)
    assert before["state"] in ("empty", "cluster")
    code, words = ended(run("postgres", "letta-ops-initdb", volumes=volumes))
    assert code == (0 if before["state"] == "empty" else 73), words
    assert cluster(run, volume)["identifier"]


def test_a_volume_with_other_files_is_foreign(run: Run, volume: str) -> None:
    volumes = {volume: {"bind": DATA}}
    ended(run("postgres", "touch", f"{DATA}/PG_VERSION", volumes=volumes))
    assert cluster(run, volume)["state"] == "foreign"
    assert ended(run("postgres", "letta-ops-initdb", volumes=volumes))[0] == 73
    assert ended(run("postgres", volumes=volumes))[0] == 78


# Proxy


def test_the_proxy_waits_for_its_settings_and_serves_them(run: Run, volume: str) -> None:
    container = run("proxy", volumes={volume: {"bind": "/data"}})
    wait("waiting", lambda: b"waiting for /data/proxy/nginx.conf\n" in container.logs())
    assert inside(container, "letta-ops-proxy-health")[0] != 0
    for answer in ("first", "second"):
        settings = (
            "pid /run/proxy/nginx.pid; error_log stderr; events {} http { access_log /dev/stdout;"
            + "".join(
                f"{kind}_temp_path /run/proxy/tmp/{kind};"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + "server { listen 127.0.0.1:8081; return 204; }"
            + f"server {{ listen 8080; return 200 {answer}; }} }}"
        )
        put(container, "/data/proxy/nginx.conf", settings, PROXY_USER)
        if answer == "second":
            reload = ("nginx", "-e", "stderr", "-c", "/data/proxy/nginx.conf", "-s", "reload")
            code, output = inside(container, *reload)
            assert code == 0, output
        wait(f"the {answer} answer", partial(answers, container, answer))
    wait_for_health(container)
    assert inside(container, "id", "-u")[1].strip() == str(PROXY_USER)


def answers(container: Container, wanted: str) -> bool:
    """Ask the proxy from inside: the container has no network."""
    script = (
        "use IO::Socket::INET; my $s = IO::Socket::INET->new('127.0.0.1:8080') or exit 1;"
        'print $s "GET / HTTP/1.0\\r\\n\\r\\n"; my @lines = <$s>; print $lines[-1];'
    )
    return inside(container, "perl", "-e", script)[1] == wanted


def put(container: Container, path: str, text: str, user: int) -> None:
    """Put a file into a volume of a running container."""
    parent = Path(path).parent.relative_to("/data")
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, content in ((str(parent), None), (path.removeprefix("/data/"), text.encode())):
            entry = tarfile.TarInfo(name)
            entry.uid = entry.gid = user
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            else:
                entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content or b""))
    assert container.put_archive("/data", sink.getvalue())


# Redis


def test_redis_demands_its_password(run: Run, with_secret: WithSecret) -> None:
    settings = f'bind 127.0.0.1\nport 6379\nsave ""\nrequirepass {PASSWORD}\n'
    container = run("redis", volumes=with_secret("redis.conf", settings, REDIS_USER))
    wait_for_health(container)
    assert "NOAUTH" in inside(container, "valkey-cli", "ping")[1]
    ask = "read -r REDISCLI_AUTH; export REDISCLI_AUTH; valkey-cli ping"
    assert execute(str(container.id), ["sh", "-c", ask], f"{PASSWORD}\n").output.strip() == "PONG"
    assert PASSWORD not in json.dumps(container.attrs)
    assert PASSWORD not in inside(container, "sh", "-c", "cat /proc/[0-9]*/cmdline")[1]


# The server


@pytest.mark.long
def test_the_server_is_healthy_with_its_database_only(
    engine: DockerClient, run: Run, new_volume: Callable[[], str], with_secret: WithSecret
) -> None:
    """Migrated by its own image, served by Python of the base, unhealthy when the database goes."""
    home, volumes = new_volume(), {new_volume(): {"bind": DATA}}
    assert ended(run("postgres", "letta-ops-initdb", volumes=volumes))[0] == 0
    network_name = f"letta-ops-test-{uuid.uuid4().hex[:8]}"
    network = engine.networks.create(network_name, internal=True)
    started = []
    try:
        database = run("postgres", volumes=volumes, network_mode=None, network=network_name,
                       name=f"{network_name}-database")  # fmt: skip
        started.append(database)
        wait_for_health(database)
        query = ("psql", "-XAtU", "postgres", "-v", "ON_ERROR_STOP=1", "-c")
        for words in (
            f"CREATE ROLE letta LOGIN PASSWORD '{PASSWORD}'",
            "CREATE DATABASE letta OWNER letta",
        ):
            assert inside(database, *query, words)[0] == 0
        assert inside(database, *query, "CREATE EXTENSION vector", "letta")[0] == 0
        environment = {
            "LETTA_PG_URI": f"postgresql://letta:{PASSWORD}@{database.name}:5432/letta",
            "LETTA_SERVER_PASSWORD": f"server-{PASSWORD}",
            "LETTA_SERVER_SECURE": "true",
            "LETTA_DISABLE_SQLALCHEMY_POOLING": "false",
            "MEMGPT_CONFIG_PATH": "/dev/null",
            "OTEL_SDK_DISABLED": "true",
        }
        migration = launch(run, with_secret, home, network_name, environment, None,
                           "alembic.config:main", "upgrade", "head")  # fmt: skip
        started.append(migration)
        code, output = ended(migration, 120)
        assert code == 0, output
        assert PASSWORD not in output
        head = inside(database, *query, "SELECT version_num FROM alembic_version", "letta")
        assert head == (0, f"{RELEASE.alembic_head}\n")

        environment["LETTA_PG_URI"] += "?ssl=disable"
        server = launch(run, with_secret, home, network_name, environment,
                        "letta.server.rest_api.app", "letta.main:app",
                        "server", "--secure", "--host", "0.0.0.0", "--port", "8283")  # fmt: skip
        started.append(server)
        wait_for_health(server, seconds=180)
        assert PASSWORD not in server.logs().decode()
        assert PASSWORD not in json.dumps(server.attrs)
        database.pause()
        wait_for_health(server, "unhealthy", 90)
        database.unpause()
        wait_for_health(server, seconds=90)
    finally:
        for container in started:
            with contextlib.suppress(Exception):  # it may have ended, or not begun
                container.kill()
            with contextlib.suppress(Exception):
                network.disconnect(container, force=True)
        network.remove()


def launch(
    run: Run, with_secret: WithSecret, home: str, network: str, environment: dict[str, str],
    import_first: str | None, *words: str,
) -> Container:  # fmt: skip
    from infra.stack.server_environment import launch_document

    hidden = ["LETTA_PG_URI", "LETTA_SERVER_PASSWORD"]
    document = launch_document(environment, hidden if import_first else (), import_first)
    mounts = with_secret("server-environment.json", document, SERVER_USER)
    return run(
        "letta", "/opt/letta/bin/python", "/opt/letta-ops/launch.py",
        "/secrets/server-environment.json", *words,
        volumes={**mounts, home: {"bind": "/home/letta"}}, network_mode=None, network=network,
        working_dir=None if import_first else "/opt/letta/source",  # where alembic's settings are
    )  # fmt: skip
