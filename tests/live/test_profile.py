"""The profile: redacted when shown, overridden by the environment, written by hand for other servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.live.machine import LETTA_OPS, Stack


def test_profile_show_redacts_and_secret_show_prints_one_on_purpose(stack: Stack) -> None:
    password = stack.run("secret", "show", "server-password").out.strip()
    assert len(password) >= 32
    for words in (["profile", "show"], ["--json", "profile", "show"]):
        shown = stack.run(*words)
        assert shown.code == 0
        assert password not in shown.out + shown.err
        assert "[redacted]" in shown.out


def test_an_unknown_secret_lists_the_names(stack: Stack) -> None:
    answer = stack.run("--json", "secret", "show", "nonsense")
    assert answer.code == 2
    error = answer.json["error"]
    assert "server-password" in error["message"] + error["hint"]


@pytest.fixture
def by_hand(stack: Stack, tmp_path: Path) -> Path:
    """A profile for a server that we did not provision: its URL, and where its password is."""
    secret = tmp_path / "password"
    secret.write_text(stack.run("secret", "show", "server-password").out)
    path = tmp_path / "mine.toml"
    path.write_text(
        f'[server]\nurl = "{stack.deployment.server.url}"\npassword = "file:{secret}"\n'
    )
    return path


def test_a_profile_by_hand_serves_every_command_that_needs_only_the_api(
    stack: Stack, by_hand: Path
) -> None:
    def run(*words: str, code: int = 0) -> None:
        answer = stack.machine.run(LETTA_OPS, "--profile", by_hand, "--json", *words)
        assert answer.code == code, answer.out + answer.err
        assert answer.json is not None

    run("status")
    run("smoke", "--model", "openai-proxy/fake", "--embedding", "openai/text-embedding-3-small")
    run("agent", "list")
    run("profile", "show")
    # Auth and release are judged; what needs the database is said to be unchecked, not passed.
    run("check", "--acknowledge", "release")


def test_what_could_not_be_checked_is_not_called_checked(stack: Stack, by_hand: Path) -> None:
    answer = stack.machine.run(LETTA_OPS, "--profile", by_hand, "check")
    assert "names no database" in answer.out


@pytest.mark.target("local", reason="elsewhere this machine doesn't reach the database")
def test_a_backup_with_the_owners_role_names_the_role_that_it_takes(
    stack: Stack, by_hand: Path, tmp_path: Path
) -> None:
    database = stack.deployment.database
    assert database is not None
    assert database.owner.password is not None
    with by_hand.open("a") as profile:
        profile.write(
            f'[store]\nurl = "{tmp_path.as_uri()}/store"\n[database]\nport = {database.port}\n'
            'host = "127.0.0.1"\nname = "letta"\ntls = "disable"\nowner = "letta"\n'
            f'owner_password = "{database.owner.password.reveal()}"\n'
        )
    by_hand.chmod(0o600)
    answer = stack.machine.run(LETTA_OPS, "--profile", by_hand, "--json", "backup", "create")
    assert answer.code == 1, answer.out + answer.err
    assert "database.reader" in answer.json["error"]["hint"]
    assert str(database.reader.name) in answer.json["error"]["hint"]


def test_the_environment_alone_is_enough_for_a_ci_job(stack: Stack) -> None:
    answer = stack.machine.run(
        LETTA_OPS, "--stack", "ci", "--json", "status",
        environment={
            "LETTA_OPS_SERVER_URL": stack.deployment.server.url,
            "LETTA_OPS_SERVER_PASSWORD": stack.run("secret", "show", "server-password").out.strip(),
        },
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert answer.json["server"]["healthy"] is True
    assert answer.json["agents"] == len(stack.json("agent", "list"))


def test_an_override_beats_the_profile(stack: Stack) -> None:
    answer = stack.run(
        "--json", "agent", "list", environment={"LETTA_OPS_SERVER_PASSWORD": "env:NOT_THERE"}
    )
    assert answer.code == 1
    assert "server.password" in answer.json["error"]["message"]
    assert "NOT_THERE" in answer.json["error"]["message"]


def test_a_wrong_password_says_so(stack: Stack) -> None:
    answer = stack.run(
        "--json", "agent", "list", environment={"LETTA_OPS_SERVER_PASSWORD": "hunter2-hunter2"}
    )
    assert answer.code == 1
    assert answer.json["error"]["code"] == "wrong-password"
    assert "hunter2" not in answer.out + answer.err


def test_a_server_that_is_down_is_named(stack: Stack, tmp_path: Path) -> None:
    environment = {"LETTA_OPS_SERVER_URL": "http://127.0.0.1:9"}
    answer = stack.run("agent", "list", environment=environment)
    assert answer.code == 1
    assert "http://127.0.0.1:9" in answer.err
    assert "next:" in answer.err
    assert "Traceback" not in answer.err
    assert stack.run("check", environment=environment).code == 2
    status = stack.run("--json", "status", environment=environment)
    assert status.json["server"]["healthy"] is False


def test_a_missing_profile_says_what_to_do(stack: Stack) -> None:
    answer = stack.machine.run(LETTA_OPS, "--stack", "nowhere", "--json", "status")
    assert answer.code == 1
    assert answer.json["error"]["code"] == "profile-missing"
    assert "`letta-ops --stack nowhere up`" in answer.json["error"]["hint"]


def test_a_malformed_profile_names_every_problem_with_its_key(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        'target = "moon"\ncolour = "red"\n'
        '[server]\nurl = "localhost:8283"\npassword = "env:NO_SUCH_VARIABLE"\n'
        '[database]\nport = "many"\n'
    )
    answer = stack.machine.run(LETTA_OPS, "--profile", path, "--json", "status")
    assert answer.code == 1
    message = answer.json["error"]["message"]
    for key in ("target:", "colour:", "server.url:", "server.password:", "database.port:",
                "database.host:"):  # fmt: skip
        assert key in message, message


def test_a_profile_with_secrets_that_others_can_read_is_refused(
    stack: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "open.toml"
    path.write_text('[server]\nurl = "http://127.0.0.1:1"\npassword = "in-the-clear"\n')
    os.chmod(path, 0o644)  # noqa: PTH101  # the mode is what is tested
    answer = stack.machine.run(LETTA_OPS, "--profile", path, "--json", "status")
    assert answer.code == 1
    assert answer.json["error"]["code"] == "profile-exposed"
    assert "in-the-clear" not in answer.out
