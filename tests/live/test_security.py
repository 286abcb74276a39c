"""Secure by default, as seen from outside: processes, sockets, files, modes, and no secret anywhere."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import testinfra

from infra.accounts import Role, service_account
from infra.deployment import LOOPBACK
from tests.live.machine import Stack

host = testinfra.get_host("local://")


def test_every_service_listens_on_loopback_only(stack: Stack) -> None:
    for port in stack.ports.values():
        assert host.socket(f"tcp://{LOOPBACK}:{port}").is_listening
    for process in stack.processes():
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == LOOPBACK


ROLES: dict[str, Role] = {"letta": "server", "model": "server", "postgres": "postgres"}


def test_services_run_as_unprivileged_accounts_and_postgres_as_one_apart(stack: Stack) -> None:
    for service, role in ROLES.items():
        account = service_account(stack.folder, role)
        assert account.uid != 0
        process = host.process.get(pid=stack.pid(service))
        assert process.euid == account.uid
        assert process.egid == account.gid


def test_what_is_private_is_readable_by_its_owner_alone(stack: Stack) -> None:
    folder = stack.folder
    private = [folder.profile, folder.server_environment, folder.state / "passphrase",
               folder.postgres_settings("pg_hba.conf"), folder.program("letta"),
               folder.supervisor_settings, *folder.logs.glob("*.log")]  # fmt: skip
    for path in private:
        assert host.file(str(path)).mode == 0o600, path
    for path in (folder.postgres_data, folder.home, folder.sandbox, folder.sockets):
        assert host.file(str(path)).mode == 0o700, path


def test_the_profile_belongs_to_the_operator_and_not_to_the_services(stack: Stack) -> None:
    assert stack.folder.profile.stat().st_uid == os.geteuid()
    assert (
        stack.folder.server_environment.stat().st_uid == service_account(stack.folder, "server").uid
    )


@pytest.mark.parametrize("token", [None, "wrong"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/agents/"), ("POST", "/v1/tools/run"), ("GET", "/v1/tools/")]
)
def test_a_stranger_is_refused(stack: Stack, token: str | None, method: str, path: str) -> None:
    from infra.connect import http

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with http(stack.deployment) as client:
        answer = client.request(method, path, headers=headers, json={})
    assert answer.status_code == 401


def test_the_reader_may_read_everything_and_write_nothing(stack: Stack) -> None:
    import psycopg

    from infra.connect import database

    with database(stack.deployment) as link:
        assert link.execute("SELECT count(*) FROM agents").fetchone() is not None
        with pytest.raises(psycopg.Error):
            link.execute("CREATE TABLE intruder (id int)")
        link.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            link.execute("DELETE FROM agents")


def test_postgres_uses_scram_and_data_checksums_and_an_owner_without_privileges(
    stack: Stack,
) -> None:
    from infra.administration import administrator

    with administrator(stack.folder, {"port": stack.ports["database.port"]}) as link:
        assert link.execute("SHOW data_checksums").fetchone() == ("on",)
        rows = link.execute(
            "SELECT rolname, rolsuper, rolcreaterole, rolpassword LIKE 'SCRAM-SHA-256$%' "
            "FROM pg_authid WHERE rolname LIKE 'letta%' ORDER BY 1"
        ).fetchall()
    assert rows == [("letta", False, False, True), ("letta_reader", False, False, True)]


def test_a_wrong_database_password_is_refused(stack: Stack) -> None:
    from infra.connect import connection
    from infra.errors import LettaOpsError

    settings: dict[str, str | int] = {
        "host": LOOPBACK,
        "port": stack.ports["database.port"],
        "dbname": "letta",
        "user": "letta",
        "password": "wrong-password",
    }
    with pytest.raises(LettaOpsError) as failure, connection(settings):
        pass
    assert failure.value.code == "database-unreachable"
    assert "wrong-password" not in str(failure.value)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's work could be led elsewhere")
def test_a_link_in_the_place_of_a_folder_is_not_followed_by_root(own_stack: Stack) -> None:
    victim = own_stack.machine.root / "victim"
    victim.mkdir(mode=0o755)
    owner = victim.stat().st_uid
    home, aside = own_stack.folder.home, own_stack.folder.data / "aside"
    home.rename(aside)
    home.symlink_to(victim)
    from infra.embedded import supervisor

    with supervisor.rpc(own_stack.folder) as keeper:
        keeper.stopProcess("model")
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
    from infra.connect import api

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
    assert "LETTA_OPS_STACK_FOLDER" in text  # it is the environment
    for value in stack.deployment.secrets:
        assert value.reveal() not in text


def test_the_servers_process_has_pooling_encryption_and_its_own_home(stack: Stack) -> None:
    """What the server was started with, as the one file says that it reads it from."""
    import json

    environment = json.loads(stack.folder.server_environment.read_text())["environment"]
    assert environment["LETTA_DISABLE_SQLALCHEMY_POOLING"] == "false"
    assert environment["LETTA_SERVER_SECURE"] == "true"
    assert environment["LETTA_ENCRYPTION_KEY"]
    assert environment["OTEL_SDK_DISABLED"] == "true"
    arguments = psutil.Process(stack.pid("letta")).cmdline()
    assert "--secure" in arguments
    assert arguments[arguments.index("--host") + 1] == LOOPBACK


def test_no_secret_is_anywhere_but_in_the_two_files_that_may_hold_them(
    stack: Stack, tmp_path: Path
) -> None:
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
        assert not _found(secrets, " ".join(process.cmdline()))
    holders = {path for path in _files(stack.folder.state) if _found(secrets, _text(path))}
    assert holders == {
        stack.folder.profile,
        stack.folder.server_environment,
        stack.folder.state / "passphrase",
    }


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
