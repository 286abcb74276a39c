"""Secure by default, as seen from outside: processes, sockets, files, modes, and no secret anywhere."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import testinfra

from infra.accounts import Role, service_account
from infra.stack.deployment import LOOPBACK
from infra.targets import host as host_of
from tests.live.docker_stack import DockerStack
from tests.live.machine import Stack

host = testinfra.get_host("local://")
PROCESSES = pytest.mark.target("local", reason="test_hardening.py looks into the containers")


def test_every_port_is_open_on_loopback_only(stack: Stack) -> None:
    for port in stack.ports.values():
        with socket.create_connection((LOOPBACK, port), timeout=5):
            pass
        listening = host.socket.get_listening_sockets()
        assert [each for each in listening if each.endswith(f":{port}")] == [
            f"tcp://{LOOPBACK}:{port}"
        ]


@PROCESSES
def test_no_process_listens_anywhere_else(stack: Stack) -> None:
    for process in stack.processes():
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == LOOPBACK


ROLES: dict[str, Role] = {"letta": "server", "model": "server", "postgres": "postgres"}


@PROCESSES
def test_services_run_as_unprivileged_accounts_and_postgres_as_one_apart(stack: Stack) -> None:
    for service, role in ROLES.items():
        account = service_account(stack.folder, role)
        assert account.uid != 0
        process = host.process.get(pid=stack.pid(service))
        assert process.euid == account.uid
        assert process.egid == account.gid


def test_the_operators_secrets_are_readable_by_the_operator_alone(stack: Stack) -> None:
    folder = stack.folder
    for path in (folder.profile, folder.state / "passphrase", *folder.logs.glob("*.log")):
        assert host.file(str(path)).mode == 0o600, path
    assert folder.profile.stat().st_uid == os.geteuid()


@PROCESSES
def test_what_is_the_services_is_readable_by_them_alone(stack: Stack) -> None:
    folder = stack.folder
    for path in (folder.server_environment, folder.postgres_settings("pg_hba.conf"),
                 folder.program("letta"), folder.supervisor_settings):  # fmt: skip
        assert host.file(str(path)).mode == 0o600, path
    for path in (folder.postgres_data, folder.home, folder.sandbox, folder.sockets):
        assert host.file(str(path)).mode == 0o700, path
    account = service_account(folder, "server")
    assert folder.server_environment.stat().st_uid == account.uid


@pytest.mark.parametrize("token", [None, "wrong"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/agents/"), ("POST", "/v1/tools/run"), ("GET", "/v1/tools/")]
)
def test_a_stranger_is_refused(stack: Stack, token: str | None, method: str, path: str) -> None:
    from infra.api import http

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with http(stack.deployment) as client:
        answer = client.request(method, path, headers=headers, json={})
    assert answer.status_code == 401


def test_the_reader_may_read_everything_and_write_nothing(stack: Stack) -> None:
    import psycopg

    with host_of(stack.deployment).session() as link:
        assert link.execute("SELECT count(*) FROM agents").fetchone() is not None
        with pytest.raises(psycopg.Error):
            link.execute("CREATE TABLE intruder (id int)")
        link.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            link.execute("DELETE FROM agents")


def test_postgres_uses_scram_and_data_checksums_and_an_owner_without_privileges(
    stack: Stack,
) -> None:
    with stack.administrator() as link:
        assert link.execute("SHOW data_checksums").fetchone() == ("on",)
        rows = link.execute(
            "SELECT rolname, rolsuper, rolcreaterole, rolpassword LIKE 'SCRAM-SHA-256$%' "
            "FROM pg_authid WHERE rolname LIKE 'letta%' ORDER BY 1"
        ).fetchall()
    assert rows == [("letta", False, False, True), ("letta_reader", False, False, True)]


def test_a_wrong_database_password_is_refused(stack: Stack) -> None:
    from infra.errors import LettaOpsError
    from infra.sensitive import Sensitive
    from infra.stack.deployment import OWNER_ROLE, Role

    role = Role(OWNER_ROLE, Sensitive("wrong-password"))
    with pytest.raises(LettaOpsError) as failure, host_of(stack.deployment).session(role):
        pass
    assert failure.value.code == "database-unreachable"
    assert "wrong-password" not in str(failure.value)


@PROCESSES
@pytest.mark.skipif(os.geteuid() != 0, reason="without root, all services run as the same user")
def test_the_servers_account_reaches_neither_the_database_files_nor_another_stack(
    stack: Stack, own_stack: Stack
) -> None:
    """An agent's tools run as the server's account."""
    uid = service_account(stack.folder, "server").uid
    other = own_stack.folder
    for closed in (stack.folder.postgres_data, stack.folder.sockets, stack.folder.profile,
                   stack.folder.postgres_settings("pg_hba.conf"), other.server_environment,
                   other.home, other.profile):  # fmt: skip
        reader = "-r" if closed.is_file() else "-x"
        assert stack.machine.run("test", reader, closed, user=uid).code == 1, closed


@PROCESSES
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's work could be led elsewhere")
def test_a_link_in_the_place_of_a_folder_is_not_followed_by_root(own_stack: Stack) -> None:
    victim = own_stack.machine.root / "victim"
    victim.mkdir(mode=0o755)
    owner = victim.stat().st_uid
    home, aside = own_stack.folder.home, own_stack.folder.data / "aside"
    home.rename(aside)
    home.symlink_to(victim)
    own_stack.stop("model")
    answer = own_stack.run("--json", "up", "--no-smoke")
    assert answer.code == 1
    assert answer.json["error"]["code"] == "folder-replaced"
    assert victim.stat().st_uid == owner
    assert victim.stat().st_mode & 0o777 == 0o755
    home.unlink()
    aside.rename(home)
    own_stack.json("up")


def test_an_agents_tool_finds_no_secret_in_its_environment(stack: Stack) -> None:
    """Letta hands its own environment to local tools."""
    from infra.api import api

    source = 'def show_environment() -> str:\n    """Show it."""\n'
    source += "    import os\n    return str(dict(os.environ))\n"
    with api(stack.deployment) as client:
        tool = client.tools.create(source_code=source)
        agent = client.agents.create(
            model=stack.deployment.model.handle,
            embedding=stack.deployment.model.embedding,
            tool_ids=[tool.id],
        )
        answer = client.agents.messages.create(
            agent.id, messages=[{"role": "user", "content": "call show_environment {}"}]
        )
        client.agents.delete(agent.id)
        client.tools.delete(tool.id)
    text = str(answer.messages)
    assert "LETTA_OPS_" in text  # it is the environment
    for value in stack.deployment.secrets:
        assert value.reveal() not in text


def test_the_servers_process_has_pooling_encryption_and_its_own_home(stack: Stack) -> None:
    """What the server was started with, as the one file says that it reads it from."""
    environment = stack.server_settings()
    assert environment["LETTA_DISABLE_SQLALCHEMY_POOLING"] == "false"
    assert environment["LETTA_SERVER_SECURE"] == "true"
    assert environment["LETTA_ENCRYPTION_KEY"]
    assert environment["OTEL_SDK_DISABLED"] == "true"
    arguments = psutil.Process(stack.pid("letta")).cmdline()
    assert "--secure" in arguments
    # A container's own network is reached by the proxy; nothing of it is published.
    everywhere = stack.target == "docker"
    assert arguments[arguments.index("--host") + 1] == ("0.0.0.0" if everywhere else LOOPBACK)


def test_no_secret_is_anywhere_but_in_the_files_that_may_hold_them(stack: Stack) -> None:
    """The leak test: every log, state file, argument and output, for every generated secret."""
    said = []
    for words in (["up", "-v"], ["up", "--config", "release=0.0.0"], ["smoke"], ["check"],
                  ["status", "-v"], ["profile", "show"], ["doctor"], ["preview"]):  # fmt: skip
        answer = stack.run("-v", *[word for word in words if word != "-v"])
        said.append(answer.out + answer.err)
    stack.json("up", "--no-smoke", "--config", "release=")
    secrets = {name: value.reveal() for name, value in _secrets(stack).items()}
    assert len(secrets) == 4
    secrets["passphrase"] = (stack.folder.state / "passphrase").read_text().strip()

    for text in said:
        assert not _found(secrets, text), text
    for process in stack.processes():
        words = [*process.cmdline(), *map(str, process.environ().items())]
        assert not _found(secrets, " ".join(words)), process
    holders = {path for path in _files(stack.folder.state) if _found(secrets, _text(path))}
    of_local = {stack.folder.server_environment} if stack.target == "local" else set()
    passphrase = stack.folder.state / "passphrase"
    assert holders == {stack.folder.profile, passphrase} | of_local


@pytest.mark.target("docker", reason="the engine knows of containers only")
def test_the_engine_knows_no_secret(containers: DockerStack) -> None:
    """Not in what it tells of containers, images, volumes and networks, and not in its logs."""
    from infra.targets.docker.engine.client import engine
    from tests.live.docker_stack import everything_of

    secrets = {name: value.reveal() for name, value in _secrets(containers).items()}
    with engine() as client:
        for thing in everything_of(containers, client):
            thing.reload()
            assert not _found(secrets, json.dumps(thing.attrs)), thing.name
        for found in containers.containers():
            one = client.containers.get(found["Id"])
            assert not _found(secrets, one.logs().decode(errors="replace")), found["Name"]
            assert not _found(secrets, str(one.top(ps_args="-eo pid,args"))), found["Name"]
            image = client.images.get(found["Image"])
            assert not _found(secrets, json.dumps([image.history(), image.attrs])), found["Name"]


def test_the_state_holds_the_secrets_encrypted_only(stack: Stack) -> None:
    checkpoint = stack.folder.state / ".pulumi" / "stacks" / "letta-ops" / f"{stack.name}.json"
    text = checkpoint.read_text()
    assert re.search(r'"ciphertext": ?"v1:', text)
    assert not _found({name: value.reveal() for name, value in _secrets(stack).items()}, text)


def test_no_file_of_the_stack_is_writable_by_others(stack: Stack) -> None:
    for path in _files(stack.folder.root):
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH), path


def _secrets(stack: Stack):  # type: ignore[no-untyped-def]  # -> dict[str, Sensitive]
    return {name: value for name, value in stack.deployment.named_secrets.items() if value}


def _found(secrets: dict[str, str], text: str) -> list[str]:
    return [name for name, value in secrets.items() if value in text]


def _text(path: Path) -> str:
    return path.read_bytes().decode("latin-1")


def _files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path
