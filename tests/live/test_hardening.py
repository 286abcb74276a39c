"""The containers of a running stack, looked at from inside and by the engine: what they can't do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import testinfra

from infra.stack.deployment import LOOPBACK, POSTGRES_PORT
from infra.targets.docker.names import (
    LABEL_DEPLOYMENT,
    LABEL_PREFIX,
    LABEL_SERVICE,
    MODEL_PORT,
    POSTGRES_USER,
    PROXY_PORT,
    PROXY_USER,
    REDIS_PORT,
    REDIS_USER,
    SERVER_PORT,
    SERVER_USER,
)
from tests.live.docker_stack import DockerStack
from tests.live.machine import wait_until

pytestmark = pytest.mark.target("docker", reason="it is about containers")

SERVICES = ("letta", "postgres", "model", "proxy", "redis")
USERS = {
    "letta": SERVER_USER,
    "postgres": POSTGRES_USER,
    "model": SERVER_USER,
    "proxy": PROXY_USER,
    "redis": REDIS_USER,
}
MEMORY = {"letta": 2048, "postgres": 1024, "model": 256, "proxy": 256, "redis": 256}  # MiB
PROCESSES = {"letta": 1024, "postgres": 512, "model": 128, "proxy": 256, "redis": 64}
PORTS = {
    "letta": SERVER_PORT,
    "postgres": POSTGRES_PORT,
    "model": MODEL_PORT,
    "proxy": PROXY_PORT,
    "redis": REDIS_PORT,
}
NETWORKS = {
    "letta": {"inner", "outer", "cache"},
    "postgres": {"inner"},
    "model": {"inner"},
    "proxy": {"inner", "outer"},
    "redis": {"cache"},
}
WRITABLE = {
    "letta": {"/home/letta", "/sandbox", "/tmp"},  # noqa: S108  # inside the container
    "postgres": {"/var/lib/postgresql/data", "/run/postgresql", "/tmp"},  # noqa: S108
    "model": {"/tmp"},  # noqa: S108
    "proxy": {"/data", "/run/proxy", "/tmp"},  # noqa: S108
    "redis": {"/tmp"},  # noqa: S108
}
ENGINES = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}  # written by the engine, root's
BUILDING = ("gcc", "cc", "c++", "g++", "clang", "ld", "as", "make", "cargo", "rustc", "pip", "pip3",
            "uv", "curl", "wget")  # fmt: skip
# As /proc/net has addresses: the last byte first.
LOOPBACK_ADDRESSES = ("7F", "00000000000000000000000001000000")
CONNECT = "import socket, sys; socket.create_connection(sys.argv[1:], timeout=3)"
PROGRAMS = {
    "letta": ("python",),
    "postgres": ("postgres",),
    "model": ("python",),
    "proxy": ("nginx", "letta-ops-", "sleep"),
    "redis": ("valkey-server",),
}
OF_THE_ENGINE = "runc"  # is there for a moment, before it becomes a health check
HEALTH_CHECKS = (OF_THE_ENGINE, "letta-ops-", "pg_isready", "psql", "python", "valkey-cli")
NO_CAPABILITY = "0000000000000000"


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def inspected(containers: DockerStack, service: str) -> dict[str, Any]:
    return containers.container(service)


@pytest.fixture
def host(inspected: dict[str, Any]) -> Any:
    """The container from inside, as the user that it runs as."""
    return testinfra.get_host(f"docker://{inspected['Id']}")


def test_every_container_runs_and_is_healthy(containers: DockerStack) -> None:
    # The engine asks for itself, some seconds after `up` has proven them.
    wait_until(
        "the engine calls every container healthy",
        lambda: all(
            each["State"]["Health"]["Status"] == "healthy" for each in containers.containers()
        ),
    )
    found = containers.containers()
    assert {each["Config"]["Labels"][LABEL_SERVICE] for each in found} == set(SERVICES)
    for each in found:
        assert each["State"]["Running"]
        assert each["RestartCount"] == 0


def test_it_runs_as_its_own_user_and_never_as_root(
    service: str, host: Any, inspected: dict[str, Any]
) -> None:
    user = USERS[service]
    assert inspected["Config"]["User"] == f"{user}:{user}"
    assert host.user().uid == user
    assert host.user().gid == user
    for status in statuses(host):
        assert status["Uid"].split() == status["Gid"].split() == [str(user)] * 4


def test_no_process_has_a_capability_or_can_get_one(host: Any, inspected: dict[str, Any]) -> None:
    for status in statuses(host):
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert status[kind] == NO_CAPABILITY, status["Name"]
        assert status["NoNewPrivs"] == "1"
    limits = inspected["HostConfig"]
    assert limits["CapDrop"] == ["ALL"]
    assert not limits["CapAdd"]
    assert not limits["Privileged"]
    assert "no-new-privileges:true" in limits["SecurityOpt"]
    assert "seccomp=unconfined" not in limits["SecurityOpt"]


def test_no_program_runs_with_the_rights_of_another(host: Any) -> None:
    assert host.check_output("find / -xdev -type f -perm /6000 2>/dev/null || true") == ""


def test_its_root_is_read_only_and_only_these_places_can_be_written(
    service: str, host: Any, inspected: dict[str, Any]
) -> None:
    assert inspected["HostConfig"]["ReadonlyRootfs"] is True
    mounts = {mount.split()[1]: mount.split() for mount in lines(host, "cat /proc/mounts")}
    assert "ro" in mounts["/"][3].split(",")
    writable = {
        path for path, (_, _, _, options, *_) in mounts.items()
        if "rw" in options.split(",")
        and not path.startswith(("/proc", "/dev", "/sys"))
        and path not in ENGINES
    }  # fmt: skip
    assert writable == WRITABLE[service]
    for folder in ("/", "/etc", "/usr", "/usr/local/bin", "/opt"):
        assert host.run("test -w %s", folder).rc == 1, folder


def test_what_is_mounted_comes_from_its_own_volumes_only(
    service: str, containers: DockerStack, inspected: dict[str, Any]
) -> None:
    """No folder of the machine, and above all not the engine's socket."""
    for mount in inspected["Mounts"]:
        assert mount["Type"] in ("volume", "tmpfs")
        if mount["Type"] == "volume":
            assert mount["Name"].startswith(f"{containers.names.prefix}-")
        if mount["Destination"] == "/secrets":
            assert mount["RW"] is False
    has_secrets = any(mount["Destination"] == "/secrets" for mount in inspected["Mounts"])
    assert has_secrets is (service in ("letta", "proxy", "redis"))


def test_nobody_can_run_what_is_put_into_a_temporary_folder(host: Any) -> None:
    tmp = host.mount_point("/tmp")  # noqa: S108  # inside the container
    assert {"noexec", "nosuid", "nodev"} <= set(tmp.options)


def test_it_is_limited(service: str, inspected: dict[str, Any], host: Any) -> None:
    limits = inspected["HostConfig"]
    assert limits["Memory"] == limits["MemorySwap"] == MEMORY[service] * 1024**2
    assert limits["PidsLimit"] == PROCESSES[service]
    assert limits["LogConfig"]["Type"] == "json-file"
    assert limits["LogConfig"]["Config"] == {"max-size": "20m", "max-file": "4"}
    assert limits["RestartPolicy"]["Name"] == "unless-stopped"
    assert limits["Init"] is True
    assert limits["PidMode"] == ""  # sees no process of the machine
    assert limits["IpcMode"] == "private"
    assert limits["UsernsMode"] != "host"


def test_it_listens_on_its_one_port(service: str, host: Any) -> None:
    assert listening(host) == {PORTS[service]}


def test_it_is_on_the_networks_that_it_needs(
    service: str, containers: DockerStack, inspected: dict[str, Any]
) -> None:
    prefix = containers.names.prefix
    expected = {f"{prefix}-{network}" for network in NETWORKS[service]}
    assert set(inspected["NetworkSettings"]["Networks"]) == expected


def test_nothing_is_published_but_the_proxy_on_loopback(
    service: str, containers: DockerStack, inspected: dict[str, Any]
) -> None:
    published = [entry for entries in inspected["NetworkSettings"]["Ports"].values()
                 for entry in entries or ()]  # fmt: skip
    port = str(containers.ports["server.port"])
    proxy = [{"HostIp": LOOPBACK, "HostPort": port}]
    assert published == (proxy if service == "proxy" else [])
    assert inspected["HostConfig"]["PublishAllPorts"] is False


def test_it_says_whose_it_is(
    service: str, containers: DockerStack, inspected: dict[str, Any]
) -> None:
    labels = inspected["Config"]["Labels"]
    assert labels[LABEL_PREFIX] == containers.names.prefix
    assert labels[LABEL_SERVICE] == service
    assert labels[LABEL_DEPLOYMENT] == containers.deployment.id
    assert labels["org.opencontainers.image.title"]
    assert labels["org.opencontainers.image.version"]


def test_it_has_nothing_to_build_or_fetch_programs_with(host: Any) -> None:
    for program in BUILDING:
        assert not host.exists(program), program


def test_the_servers_container_has_no_database_and_the_databases_no_letta(
    containers: DockerStack,
) -> None:
    server, postgres = (inside(containers, name) for name in ("letta", "postgres"))
    for program in ("postgres", "psql", "redis-server", "valkey-server", "nginx"):
        assert not server.exists(program)
    assert not postgres.file("/opt/letta").exists
    assert not postgres.exists("python3")


def test_what_runs_is_the_service_and_nothing_else(containers: DockerStack) -> None:
    for service in SERVICES:
        first, *others = containers.processes_of(service)
        assert first.name() == "docker-init"
        service_itself = first.children(recursive=True)
        assert service_itself
        for process in service_itself:
            assert process.name().startswith(PROGRAMS[service]), process
        for process in set(others) - set(service_itself):
            assert process.name().startswith(HEALTH_CHECKS), process


def test_the_secrets_are_files_that_only_the_server_can_read(containers: DockerStack) -> None:
    server, proxy = (inside(containers, name) for name in ("letta", "proxy"))
    path = server.check_output("printenv LETTA_OPS_ENVIRONMENT_FILE")
    stat = server.check_output("stat -c '%%u:%%g %%a' %s", path)
    assert stat == f"{SERVER_USER}:{SERVER_USER} 400"
    assert server.check_output("stat -c '%u:%g %a' /secrets") == "0:0 711"
    assert server.run("ls /secrets").rc != 0
    assert proxy.run("cat %s", path).rc != 0
    assert server.run("sh -c ': > %s'", path).rc != 0


def test_the_database_takes_passwords_as_scram_and_knows_the_administrator_by_its_socket(
    containers: DockerStack,
) -> None:
    with containers.administrator() as link:
        rules = link.execute("SELECT type, auth_method FROM pg_hba_file_rules").fetchall()
    assert {method for kind, method in rules if kind != "local"} == {"scram-sha-256", "reject"}
    assert {method for kind, method in rules if kind == "local"} == {"peer", "scram-sha-256"}


def test_the_inner_network_has_no_way_out(containers: DockerStack) -> None:
    """The model reaches the server by its address inside, and not by the one outside."""
    from infra.targets.docker.engine.client import engine

    with engine() as client:
        inner = client.networks.get(containers.names.inner_network).attrs
        outer = client.networks.get(containers.names.outer_network).attrs
    assert inner["Internal"] is True
    assert outer["Internal"] is False
    networks = containers.container("letta")["NetworkSettings"]["Networks"]
    model = inside(containers, "model")
    for name, reached in (("inner", True), ("outer", False)):
        address = networks[f"{containers.names.prefix}-{name}"]["IPAddress"]
        answer = model.run("/opt/letta/bin/python -c %s %s %s", CONNECT, address, str(SERVER_PORT))
        assert (answer.rc == 0) is reached, name


def test_no_image_holds_an_environment_that_looks_like_a_secret(containers: DockerStack) -> None:
    for each in containers.containers():
        for entry in each["Config"]["Env"]:
            name, _, value = entry.partition("=")
            words = ("PASSWORD", "SECRET", "TOKEN", "API_KEY", "PG_URI")
            assert not any(word in name for word in words), entry
            assert "://" not in value or "@" not in value, entry
    assert json.dumps(containers.containers()).count("ENCRYPTION_KEY") == 0


def inside(containers: DockerStack, service: str) -> Any:
    return testinfra.get_host(f"docker://{containers.container(service)['Id']}")


def lines(host: Any, command: str) -> list[str]:
    return list(host.check_output(command).splitlines())


def statuses(host: Any) -> list[dict[str, str]]:
    """What /proc says of every process of the container but those that ask and the engine's own.

    A health check begins as the engine's program, which gives up root's rights before it becomes
    what was asked for: /proc calls it `runc:[2:INIT]` till then.
    """
    text = host.check_output(
        "for each in /proc/[0-9]*/status; do cat $each 2>/dev/null && echo; done; true"
    )
    found = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        found.append({name: value.strip() for name, _, value in pairs})
    found = [each for each in found if each and not each["Name"].startswith(OF_THE_ENGINE)]
    assert found
    return found


def listening(host: Any) -> set[int]:
    """TCP ports that are open to other containers, not only to the container itself."""
    found = set()
    for line in lines(host, "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || true"):
        fields = line.split()
        if len(fields) > 3 and fields[3] == "0A":
            address, _, port = fields[1].rpartition(":")
            if not address.endswith(LOOPBACK_ADDRESSES):
                found.add(int(port, 16))
    return found


def test_the_engine_of_the_current_context_is_the_one_for_all(
    stack: DockerStack, tmp_path: Path
) -> None:
    """Pulumi's provider doesn't know contexts: without more it would look at another engine."""
    socket, default = tmp_path / "engine.sock", Path("/var/run/docker.sock")
    socket.symlink_to(default)
    contexts = tmp_path / "contexts" / "meta" / hashlib.sha256(b"other").hexdigest()
    contexts.mkdir(parents=True)
    endpoint = {"docker": {"Host": f"unix://{socket}", "SkipTLSVerify": False}}
    (contexts / "meta.json").write_text(
        json.dumps({"Name": "other", "Metadata": {}, "Endpoints": endpoint})
    )
    proxies = {"default": {"httpProxy": "http://of-this-user.invalid:3128"}}
    (tmp_path / "config.json").write_text(
        json.dumps({"currentContext": "other", "proxies": proxies})
    )
    where = {"DOCKER_CONFIG": str(tmp_path)}
    assert stack.run("--json", "status", environment=where).json["engine"] == f"unix://{socket}"
    assert f"unix://{socket}" in stack.run("doctor", environment=where).out
    assert stack.run("preview", environment=where).out == "nothing to change\n"
    socket.unlink()
    away = stack.run("--json", "preview", environment=where)
    assert away.json["error"]["code"] == "no-engine"
    assert str(socket) in away.json["error"]["message"]
