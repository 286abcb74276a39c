"""The entry point: exit codes, errors in text and JSON, and what is imported when."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.sensitive import Sensitive
from ops_cli import main
from ops_cli.invocation import Invocation

HEAVY = ("rich", "letta_client", "httpx", "psycopg", "pulumi", "boto3", "supervisor", "yaml")
PASSWORD = "swordfish-swordfish"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LETTA_OPS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LETTA_OPS_STATE", str(tmp_path / "state"))


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.toml"
    path.write_text(
        f'[server]\nurl = "http://127.0.0.1:1"\npassword = "{PASSWORD}"\n[model]\nhandle = "a/b"\n'
    )
    path.chmod(0o600)
    return path


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a Python of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )


def error_in(text: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(text)["error"]
    assert set(found) == {"code", "message", "hint"}
    return found


def test_the_version_is_told_without_importing_typer() -> None:
    code = (
        "import sys\nfrom ops_cli.main import run\nrun(['--version'])\n"
        "print('typer' in sys.modules)"
    )
    version, imported = python(code).stdout.split()
    assert version[0].isdigit()
    assert imported == "False"


@pytest.mark.parametrize("arguments", [["--help"], ["agent", "--help"], ["up", "--help"], []])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom ops_cli.main import run\n"
        "code = run(sys.argv[1:])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], code)"
    )
    assert python(code, *arguments).stdout.splitlines()[-1] == "[] 0"


def test_help_names_every_noun_and_imports_none_of_them() -> None:
    code = (
        "import sys\nfrom ops_cli.main import run\nrun(['--help'])\n"
        "print([name for name in sys.modules if name.startswith('ops_cli.commands')])"
    )
    *shown, imported = python(code).stdout.splitlines()
    text = "\n".join(shown)
    for noun in ("up", "preview", "destroy", "status", "check", "smoke", "doctor", "agent"):
        assert f"\n  {noun} " in text
    assert imported == "[]"


def test_every_noun_in_the_help_has_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    from ops_cli.nouns import NOUNS

    for noun in NOUNS:
        assert main.run([noun.name, "--help"]) == 0
        assert f"Usage: letta-ops {noun.name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["agent"],
        ["agent", "bogus"],
        ["agent", "import"],
        ["agent", "list", "--bogus"],
        ["--stack", "../x", "status"],
        ["status", "--stack"],
        ["secret", "show", "bogus"],
        ["up", "--config", "no-equals-sign"],
    ],
)
def test_wrong_usage_exits_2_in_text_and_in_json(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "\n  next: see `letta-ops" in captured.err
    assert main.run([*arguments[:1], "--json", *arguments[1:]]) == 2
    assert error_in(capsys.readouterr().out)["code"] == "usage"


def test_a_mistyped_noun_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["chek"])
    assert "Did you mean 'check'?" in capsys.readouterr().err


def test_an_expected_error_exits_1_with_message_and_next_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.run(["profile", "show"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: there is no profile for stack 'local'")
    assert "Traceback" not in captured.err


def test_an_expected_error_is_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["profile", "show", "--json"]) == 1
    captured = capsys.readouterr()
    assert error_in(captured.out)["code"] == "profile-missing"
    assert captured.err == ""


def test_the_stack_comes_from_the_environment_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LETTA_OPS_STACK", "blue")
    main.run(["profile", "show"])
    assert "'blue'" in capsys.readouterr().err
    main.run(["profile", "show", "--stack", "green"])
    assert "'green'" in capsys.readouterr().err


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every command that reads the profile fail with `error`, once."""
    original = Invocation.deployment
    failed: list[bool] = []

    def deployment(self: Invocation) -> object:
        if not failed:
            failed.append(True)
            raise error
        return original(self)

    monkeypatch.setattr(Invocation, "deployment", deployment)


def test_a_bug_is_one_line_that_tells_no_details(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: Path
) -> None:
    fail_with(ValueError(f"bad {PASSWORD}"), monkeypatch)
    assert main.run(["--profile", str(profile), "profile", "show"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: internal error, ValueError\n")
    assert "-v" in captured.err
    assert "Traceback" not in captured.err
    assert PASSWORD not in captured.err


def test_a_bug_with_verbose_shows_the_traceback_without_the_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: Path
) -> None:
    fail_with(ValueError(f"bad {PASSWORD}"), monkeypatch)
    assert main.run(["--profile", str(profile), "profile", "show", "-v", "--json"]) == 1
    captured = capsys.readouterr()
    assert "Traceback" in captured.err
    assert error_in(captured.out)["code"] == "internal"
    assert PASSWORD not in captured.out + captured.err
    assert "[redacted]" in captured.err


def test_a_problem_of_the_system_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(PermissionError(13, "Permission denied", "/somewhere"), monkeypatch)
    assert main.run(["profile", "show"]) == 1
    assert capsys.readouterr().err.startswith("error: Permission denied: /somewhere\n")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (main.Terminated(), 143)])
def test_an_interruption_says_that_nothing_is_lost(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error.add_note("one thing may be left")
    fail_with(error, monkeypatch)
    assert main.run(["profile", "show"]) == code
    shown = capsys.readouterr().err
    assert "nothing is lost: run the same command again" in shown
    assert "one thing may be left" in shown


WAITING = """
import signal, sys, time
from ops_cli import main
from ops_cli.invocation import Invocation
def wait(self):
    try:
        print('waiting', file=sys.stderr, flush=True)
        while True:  # a signal that comes just before one long sleep would wait for its end
            time.sleep(0.1)
    finally:
        for _ in range(3):
            print('cleaning up', file=sys.stderr, flush=True)
        open(sys.argv[-1], 'w').close()
Invocation.deployment = wait
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever runs the tests may ignore it
main.run = lambda _, run=main.run: run(['profile', 'show'])
main.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_real_process_with_its_code_and_a_clear_line(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", WAITING, str(tmp_path / "cleaned")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert f"ended by {number.name}" in process.stderr.read()
    assert (tmp_path / "cleaned").exists()
    process.stderr.close()


def test_a_terminal_that_goes_away_ends_a_command_which_still_cleans_up(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", WAITING, str(tmp_path / "cleaned")]
    process = subprocess.Popen(words, preexec_fn=lambda: os.login_tty(theirs))  # noqa: PLW1509
    os.close(theirs)
    assert b"waiting" in os.read(ours, 100)
    os.close(ours)
    assert process.wait(timeout=60) == 129
    assert (tmp_path / "cleaned").exists()


def test_nohup_lets_a_command_outlive_its_terminal() -> None:
    code = (
        "import signal\nfrom ops_cli import main\n"
        "main.run = lambda _: print(repr(signal.getsignal(signal.SIGHUP)))\nmain.main()"
    )
    done = subprocess.run(
        ["nohup", sys.executable, "-c", code],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "SIG_IGN" in done.stdout


def test_a_reader_that_goes_away_is_no_error(profile: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from ops_cli.main import main; main()",
         "--profile", str(profile), "profile", "show"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""
    process.stderr.close()


def test_commands_to_paste_name_the_stack_and_the_profile() -> None:
    assert Invocation().command("status") == "letta-ops status"
    spoken = Invocation("blue", Path("a b.toml")).command("status")
    assert spoken == "letta-ops --stack blue --profile 'a b.toml' status"


def test_secrets_are_not_in_the_text_of_an_invocation(profile: Path) -> None:
    deployment = Invocation(profile=profile).deployment()
    assert Sensitive(PASSWORD) in deployment.secrets
    assert PASSWORD not in repr(deployment)


@pytest.mark.parametrize("target", ["local", "docker"])
def test_a_running_stack_is_spoken_to_without_pulumi_and_the_clients_of_letta_and_s3(
    target: str,
) -> None:
    code = (
        f"import sys, infra.targets.{target}.host\n"
        "print([name for name in ('pulumi', 'letta_client', 'boto3') if name in sys.modules])"
    )
    assert python(code).stdout.strip() == "[]"
