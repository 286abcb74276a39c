"""What goes wrong is said once, clearly, with the next step; nothing half-made is left."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.docker_stack import START_SECONDS
from tests.live.machine import LETTA_OPS, Answer, Machine, Stack


def error(answer: Answer) -> dict[str, str]:
    """The error document of a command that failed as it should: exit 1, one document, no traceback."""
    assert answer.code == 1, answer.out + answer.err
    assert "Traceback" not in answer.out + answer.err
    document: dict[str, str] = answer.json["error"]
    assert document["hint"]
    return document


@pytest.fixture
def fresh(machine: Machine) -> Iterator[Stack]:
    made = machine.stack("broken")
    yield made
    made.run("destroy", "--delete-data", "--yes")
    assert made.remains() == []


def test_a_taken_port_is_named_with_its_owner_before_anything_is_made(fresh: Stack) -> None:
    for key, port in fresh.ports.items():
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            document = error(fresh.run("--json", "up", *fresh.settings()))
        assert document["code"] == "configuration"
        assert f"{key}: {port} is taken by" in document["message"]
        assert f"pid {os.getpid()}" in document["message"]
    assert not fresh.has_data
    assert not fresh.folder.profile.exists()


def test_every_problem_of_a_configuration_is_named_at_once(fresh: Stack) -> None:
    words = ["--config", "server.prot=1", "--config", "target=moon", "--config", "model=parrot",
             "--config", "model_port=80", "--config", "release=9.9.9",
             "--config", "providers.anthropic.api_key=sk-plain-text"]  # fmt: skip
    document = error(fresh.run("--json", "preview", *words))
    for key in ("server.prot: unknown key, did you mean server.port?", "target:", "model:",
                "model_port:", "release: '9.9.9' is unknown",
                "providers.anthropic.api_key: is in plain text"):  # fmt: skip
        assert key in document["message"], document["message"]
    assert "sk-plain-text" not in str(document)


def test_a_wrong_passphrase_is_recognised(stack: Stack) -> None:
    answer = stack.run(
        "--json", "up", "--no-smoke", environment={"PULUMI_CONFIG_PASSPHRASE": "wrong"}
    )
    document = error(answer)
    assert document["code"] == "wrong-passphrase"
    assert "PULUMI_CONFIG_PASSPHRASE came from this shell" in document["hint"]


def test_a_state_folder_that_cannot_be_written_is_named(machine: Machine, tmp_path: Path) -> None:
    """A file stands where the folder should be: not even root can write into it."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    answer = machine.run(
        LETTA_OPS, "--json", "up",
        environment={"LETTA_OPS_STATE": str(blocked / "state")},
    )  # fmt: skip
    assert error(answer)["code"] == "folder-not-writable"


@pytest.mark.target("local", reason="the engine's disk, where containers have data, can't be small")
@pytest.mark.skipif(os.geteuid() != 0, reason="making a small disk (mount) needs root")
def test_a_full_disk_is_named_and_nothing_is_lost(machine: Machine, tmp_path: Path) -> None:
    small = machine.root / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small], check=True)
    try:
        made = Machine(machine.root, {"LETTA_OPS_STATE": str(small)}).stack("tight")
        document = error(made.run("--json", "up", *made.settings()))
        assert document["code"] == "disk-full"
        assert str(small) in document["message"]
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.long
def test_a_server_that_does_not_become_healthy_shows_its_log(stack: Stack) -> None:
    """A setting that Letta refuses: the error has the log's last lines; put right, it goes on."""
    words = ["--config", "server.environment.LETTA_PG_POOL_SIZE=many"]
    refused = error(stack.run("--json", "up", *words))
    assert "LETTA_PG_POOL_SIZE" in refused["message"]  # reserved: said before anything is touched
    words = ["--config", "server.environment.LETTA_LLM_REQUEST_TIMEOUT_SECONDS=many"]
    if stack.target == "docker":
        words += ["--config", "server.start_seconds=60"]
    document = error(stack.run("--json", "up", "--no-smoke", *words))
    assert document["code"] == "service-not-healthy"
    assert "llm_request_timeout_seconds" in document["message"]
    if stack.target == "docker":
        assert stack.run("smoke").code == 0  # the old one goes on serving
    back = ["--config", "server.environment.LETTA_LLM_REQUEST_TIMEOUT_SECONDS="]
    if stack.target == "docker":
        back += ["--config", f"server.start_seconds={START_SECONDS}"]
    assert stack.json("up", *back)["smoke"]["passed"] is True


@pytest.mark.long
def test_a_lost_profile_is_not_replaced_by_new_secrets(own_stack: Stack) -> None:
    """Pulumi's state gone and the profile gone, the data there: refused, and put right by a copy."""
    profile = own_stack.folder.profile
    copy = profile.read_text()
    own_stack.destroy()
    profile.unlink()
    document = error(own_stack.run("--json", "up", "--no-smoke"))
    assert document["code"] == "profile-lost"
    profile.write_text(copy)
    profile.chmod(0o600)
    own_stack.json("up")


def test_a_changed_encryption_key_is_refused_and_the_right_one_comes_back(own_stack: Stack) -> None:
    from infra.stack.profile import remember, remembered

    right = remembered(own_stack.folder.profile, "server.encryption_key")
    remember(own_stack.folder.profile, {"server.encryption_key": "another-key-by-mistake"})
    assert error(own_stack.run("--json", "up"))["code"] == "fixed-value-changed"
    remember(own_stack.folder.profile, {"server.encryption_key": None})
    own_stack.json("up", "--no-smoke")
    assert remembered(own_stack.folder.profile, "server.encryption_key") == right


@pytest.mark.long
def test_lost_data_does_not_look_like_a_fresh_stack(own_stack: Stack) -> None:
    with own_stack.data_elsewhere():
        document = error(own_stack.run("--json", "up", "--no-smoke"))
        assert document["code"] == "data-missing"
        assert not own_stack.has_data
    own_stack.json("up")


def test_destroy_without_a_terminal_and_without_yes_refuses(stack: Stack) -> None:
    for words in (["destroy"], ["destroy", "--delete-data"]):
        assert "--yes" in error(stack.run("--json", *words))["hint"]
    assert stack.json("status")["server"]["healthy"] is True


def test_a_name_that_cannot_be_a_stack_is_refused(machine: Machine) -> None:
    for name in ("../evil", "Upper", "passphrase"):
        answer = machine.run(LETTA_OPS, "--stack", name, "--json", "up")
        assert answer.code == 2
        assert "cannot be the name of a stack" in answer.json["error"]["message"]
