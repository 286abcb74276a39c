"""`profile`, `secret`, `status`, `check` and `doctor`: what they print, and their exit codes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from healthchecks.model import Finding, Report, State
from infra.pulumi_cli.project import configured
from infra.stack.locations import StackFolder
from infra.targets.docker.target import container_engine
from infra.targets.local.target import Local
from ops_cli import machine, main
from ops_cli.invocation import Invocation

SECRETS = {
    "server-password": "swordfish-server",
    "encryption-key": "swordfish-key",
    "database-owner-password": "swordfish-owner",
    "database-reader-password": "swordfish-reader",
}
PROFILE = f"""
[server]
url = "http://127.0.0.1:1"
password = "{SECRETS["server-password"]}"
encryption_key = "{SECRETS["encryption-key"]}"
[database]
host = "127.0.0.1"
port = 1
owner_password = "{SECRETS["database-owner-password"]}"
reader_password = "{SECRETS["database-reader-password"]}"
"""


@pytest.fixture(autouse=True)
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("LETTA_OPS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LETTA_OPS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("LETTA_OPS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "profile.toml"
    path.write_text(PROFILE)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_profile_is_shown_without_its_secrets(
    extra: list[str], profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--profile", str(profile), "profile", "show", *extra]) == 0
    shown = capsys.readouterr().out
    assert "http://127.0.0.1:1" in shown
    assert shown.count("[redacted]") == 4
    assert "swordfish" not in shown


@pytest.mark.parametrize("name", SECRETS)
def test_one_secret_is_printed_on_purpose(
    name: str, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--profile", str(profile), "secret", "show", name]) == 0
    assert capsys.readouterr().out == f"{SECRETS[name]}\n"
    assert main.run(["--profile", str(profile), "secret", "show", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": name, "value": SECRETS[name]}


def test_an_unknown_secret_lists_those_that_there_are(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--profile", str(profile), "secret", "show", "password"]) == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in SECRETS)


def test_a_secret_that_the_profile_lacks_names_the_key_to_add(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile.write_text('[server]\nurl = "http://127.0.0.1:1"\n')
    assert main.run(["--profile", str(profile), "secret", "show", "encryption-key"]) == 1
    assert "server.encryption_key" in capsys.readouterr().err


def test_status_of_a_server_that_is_down_is_told_whole_and_fails(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--profile", str(profile), "status"]) == 1
    captured = capsys.readouterr()
    assert "server healthy" in captured.out
    assert "http://127.0.0.1:1" in captured.err
    assert main.run(["--profile", str(profile), "status", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["server"]["healthy"] is False
    assert answer["error"]["code"] == "not-healthy"


def test_what_a_profile_by_hand_is_of_is_never_taken_for_a_stack_of_ours(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile.write_text('[server]\nurl = "http://127.0.0.1:1"\npassword = "x"\n')
    for words in (
        ["status"], ["check"], ["agent", "list"], ["smoke"], ["backup", "list"], ["backup", "create"],
        ["agent", "archive", "x"], ["agent", "show", "x"], ["logs"], ["migrate", "status"],
        ["registry", "list"], ["backup", "restore", "latest", "--yes"], ["agent", "delete", "x", "--yes"],
    ):  # fmt: skip
        main.run(["--profile", str(profile), *words])
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert "`letta-ops up" not in said, words
        assert "stack 'local'" not in said, words
        assert not re.search(r"^stack +local$", said, re.MULTILINE), words
        for line in re.findall(r"`(letta-ops [^`]*)`", said):
            assert line.startswith(f"letta-ops --profile {profile} "), (words, line)


@pytest.mark.parametrize("stack", ["prod", None])
def test_a_hint_is_for_the_stack_that_was_named(stack: str | None) -> None:
    invocation = Invocation(stack or "local")
    named = "--stack prod " if stack else ""
    hint = "run `letta-ops up`, or `letta-ops --stack other up`; letta-ops does the rest"
    assert invocation.in_full(hint) == hint.replace("`letta-ops up", f"`letta-ops {named}up")


def test_a_hint_for_a_profile_keeps_its_path_as_it_is_and_no_up_takes_one() -> None:
    invocation = Invocation("local", Path("a\\profile.toml"))
    assert invocation.in_full(
        "run `letta-ops check`, `letta-ops up --migrate` or `letta-ops update`"
    ) == (
        "run `letta-ops --profile 'a\\profile.toml' check`, `letta-ops up --migrate` or"
        " `letta-ops --profile 'a\\profile.toml' update`"
    )


def test_a_profile_that_is_not_there_is_no_reason_to_provision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--profile", str(tmp_path / "none.toml"), "status"]) == 1
    assert "up" not in capsys.readouterr().err.partition("next:")[2].split()


@pytest.mark.parametrize("url", ["http://h:1/v1", "http://h:1/v1/"])
def test_a_url_of_the_api_is_told_to_be_one_of_the_server(
    url: str, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile.write_text(f'[server]\nurl = "{url}"\n')
    assert main.run(["--profile", str(profile), "status"]) == 1
    assert "without /v1: http://h:1" in capsys.readouterr().err


@pytest.mark.parametrize("state", State)
def test_the_exit_code_of_check_is_that_of_the_worst_finding(
    state: State, profile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding("disk", state, "so it is", "a detail", "do this")
    report = Report("local", (finding,), 0.1)
    monkeypatch.setattr("healthchecks.run.run", lambda deployment, acknowledged: report)
    assert main.run(["--profile", str(profile), "check"]) == state.value
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(state.name)
    assert "disk: so it is" in first
    assert bool(rest) == (state is not State.OK)


def test_a_check_that_cannot_be_made_is_unknown_not_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.run(["check", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "profile-missing"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--bogus"],
        ["check", "--stack"],
        ["--bogus", "check"],
        ["check", "--stack", "../evil"],
        ["--stack", "blue", "check", "too", "many"],
    ],
)
def test_wrong_usage_of_check_is_unknown_and_of_others_is_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """2 would be read as CRITICAL."""
    assert main.run([*arguments, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"
    others = ["status" if word == "check" else word for word in arguments]
    assert main.run([*others, "--json"]) == 2


def test_an_internal_error_of_check_is_unknown(
    profile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 would be read as WARNING."""

    def broken(*_: object, **__: object) -> Report:
        raise RuntimeError("a bug")

    monkeypatch.setattr("healthchecks.run.run", broken)
    assert main.run(["--profile", str(profile), "check", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "internal"


def test_a_check_that_nobody_knows_cannot_be_acknowledged(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--profile", str(profile), "check", "--acknowledge", "bogus", "--json"]
    assert main.run(arguments) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unknown-check"


@pytest.mark.parametrize(
    ("version", "fits"),
    [((3, 10, 9), False), ((3, 11, 0), True), ((3, 13, 9), True), ((3, 14, 0), False)],
)
def test_python_3_11_to_3_13_fits(version: tuple[int, ...], fits: bool) -> None:
    assert machine.python_version(version).passed is fits


def test_a_folder_that_is_not_there_yet_is_judged_by_its_parent_and_not_made(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a" / "b"
    assert machine.folder("state folder", path, "X").passed
    assert not (tmp_path / "a").exists()


def test_a_folder_on_a_full_disk_or_that_is_a_file_does_not_pass(tmp_path: Path) -> None:
    assert not machine.folder("state folder", tmp_path, "X", needed=1e30).passed
    (tmp_path / "file").touch()
    trait = machine.folder("state folder", tmp_path / "file" / "x", "THE_VARIABLE")
    assert not trait.passed
    assert "THE_VARIABLE" in trait.hint


def test_the_ports_that_are_examined_are_those_of_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    folder = StackFolder(tmp_path, "blue")
    monkeypatch.setenv("LETTA_OPS_STACKS", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "Pulumi.blue.yaml").write_text(
            f"config:\n  letta-ops:server:\n    port: {port}\n  letta-ops:model: none\n"
        )
        (trait,) = Local().requirements(folder, configured(folder), chosen=True)
    assert not trait.passed
    assert f"server.port: {port} is taken" in trait.detail


def test_doctor_with_a_profile_asks_only_for_what_using_it_needs(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--profile", str(profile), "doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["able"] is True
    assert [check["name"] for check in answer["checks"]] == ["python", "profile"]


def test_doctor_fails_with_the_next_steps_when_something_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("nonsense = 1\n")
    assert main.run(["--profile", str(bad), "doctor", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["able"] is False
    assert answer["error"]["code"] == "not-able"
    assert not machine.examine(Invocation(profile=bad))[1].passed


@pytest.mark.parametrize("needed", [True, False])
def test_an_absent_engine_is_a_failure_only_for_a_stack_that_needs_one(
    needed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    trait = container_engine(needed)
    assert trait.passed is not needed
    assert f"no Docker engine answers at unix://{tmp_path}/nobody.sock" in trait.detail
