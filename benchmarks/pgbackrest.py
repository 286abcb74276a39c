"""A PostgreSQL 17 in a container with pgBackRest beside it, set up as its guide says."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.backup_scene import Scene
from benchmarks.cost import Cost, processor_of
from benchmarks.seed import change_in
from infra.database.connection import connection
from infra.targets.docker.engine.client import engine, find_image
from infra.targets.docker.images.engine_build import run_build
from infra.targets.docker.images.recipes import DEFAULT_BASE, FOLDER, BuildSettings
from tests.live.docker_stack import BASE_VARIABLE
from tests.live.machine import free_ports, wait_until

if TYPE_CHECKING:
    import psycopg
    from docker.models.containers import Container

TAG = "letta-ops-bench/pgbackrest:17"
PACKAGES = "postgresql-17 postgresql-17-pgvector pgbackrest"
DOCKERFILE = f"""ARG BASE
FROM ${{BASE}}
COPY build/ /build/
RUN /build/install {PACKAGES} && install -d -o postgres /repository /cluster
USER postgres
ENV PATH=/usr/lib/postgresql/17/bin:/usr/bin:/bin PGDATA=/cluster/data PGHOST=/tmp
"""
# Encrypted and compressed as ours is; in bundles, and by blocks: the least that it can store.
SETTINGS = {
    "STANZA": "bench",
    "PG1_PATH": "/cluster/data",
    "PG1_SOCKET_PATH": "/tmp",  # noqa: S108  # of its container
    "REPO1_PATH": "/repository",
    "REPO1_CIPHER_TYPE": "aes-256-cbc",
    "REPO1_BUNDLE": "y",
    "REPO1_BLOCK": "y",
    "REPO1_RETENTION_FULL": "9",
    "COMPRESS_TYPE": "zst",
    "COMPRESS_LEVEL": "3",
    "PROCESS_MAX": "2",
    "START_FAST": "y",
    "LOG_LEVEL_FILE": "off",
    "LOG_LEVEL_CONSOLE": "warn",
}
START = (
    "initdb --auth-local=trust --auth-host=scram-sha-256 --pwfile=<(printenv PASSWORD) >/dev/null;"
    " echo 'host all all all scram-sha-256' >> /cluster/data/pg_hba.conf;"
    " exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp -c shared_buffers=256MB"
    " -c max_wal_size=2GB -c archive_mode=on -c archive_command='pgbackrest archive-push %p'"
)


@dataclass
class Beside:
    """The other database, with the same content. `backup` is full at first, then incremental."""

    container: Container
    port: int
    password: str
    kind: str = "full"

    @contextmanager
    def connect(self, name: str) -> Iterator[psycopg.Connection[Any]]:
        with connection(
            {
                "host": "127.0.0.1",
                "port": self.port,
                "user": "postgres",
                "password": self.password,
                "dbname": name,
            }
        ) as link:
            yield link

    def run(self, script: str) -> str:
        words = ["docker", "exec", str(self.container.name), "bash", "-ec", script]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def backup(self) -> Cost:
        server = int(self.container.attrs["State"]["Pid"])
        before, started = processor_of(server), time.perf_counter()
        said = self.run(f"pgbackrest backup --type={self.kind}; times")
        seconds = time.perf_counter() - started
        self.kind = "incr"
        used = sum(_seconds(word) for word in said.split()[-4:])  # of the shell, and its children
        return Cost(seconds, used, processor_of(server) - before, 0)

    def stored(self) -> int:
        return int(self.run("du -sb /repository").split()[0])

    def change(self, share: float, number: int) -> None:
        with self.connect("letta") as link:
            change_in(link, share, number)


@contextmanager
def beside(here: Scene) -> Iterator[Beside]:
    """Make it, with what the database of `here` holds; removed in the end."""
    (port,) = free_ports(1)
    password, cipher = secrets.token_hex(16), secrets.token_hex(16)
    variables = {f"PGBACKREST_{name}": value for name, value in SETTINGS.items()}
    with engine(600) as client:
        _build(client)
        container = client.containers.run(
            TAG,
            ["bash", "-ec", START],
            environment={**variables, "PASSWORD": password, "PGBACKREST_REPO1_CIPHER_PASS": cipher},
            ports={"5432/tcp": ("127.0.0.1", port)},
            name=f"{here.stack.machine.mark}-pgbackrest",
            shm_size="256m",
            detach=True,
        )
        made = Beside(container, port, password)
        try:
            wait_until("the other database answers", lambda: _answers(container))
            container.reload()
            _fill(here, container)
            made.run("pgbackrest stanza-create; psql -qc checkpoint")
            yield made
        finally:
            container.remove(force=True, v=True)


def _answers(container: Container) -> bool:
    # While initdb works, its server has another socket.
    return container.exec_run(["pg_isready", "-q", "-h", "127.0.0.1"])[0] == 0


def _fill(here: Scene, container: Container) -> None:
    """Through the programs of both: plain SQL, since the newer pg_dump may be ours only."""
    name = str(container.name)
    subprocess.run(["docker", "exec", name, "createdb", "letta"], check=True)
    dump = subprocess.Popen(
        [here.dump, "--no-owner", "--no-privileges", "--no-password"],
        env={**os.environ, **here.environment},
        stdout=subprocess.PIPE,
    )
    load = ["docker", "exec", "-i", name, "psql", "-q", "-o", "/dev/null", "-d", "letta"]
    subprocess.run(load, stdin=dump.stdout, check=True, stderr=subprocess.DEVNULL)
    assert dump.wait() == 0
    subprocess.run(["docker", "exec", name, "vacuumdb", "-qz", "letta"], check=True)


def _build(client: Any) -> None:
    if find_image(client, TAG) is not None:
        return
    settings = BuildSettings(base=os.environ.get(BASE_VARIABLE) or DEFAULT_BASE)
    bundle = settings.network.ca_bundle
    files = {
        "Dockerfile": DOCKERFILE.encode(),
        "build/install": (FOLDER / "build" / "install").read_bytes(),
        "build/ca.pem": bundle.read_bytes() if bundle else b"",
        "build/apt-mirror": b"",
    }
    proxies = {name: value for name in PROXIES if (value := os.environ.get(name))}
    run_build(client, TAG, files, {"BASE": settings.base, **proxies}, (), print)


PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def _seconds(word: str) -> float:
    """Of bash's `times`: 0m1.234s."""
    minutes, _, seconds = word.rstrip("s").partition("m")
    return int(minutes) * 60 + float(seconds)
