"""Commands run from any shell: its locale, its variables, its folder and its width are not ours."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.live.machine import ROOT, Stack
from tests.live.stack import LETTA_OPS

NAME = "Zoë-日本"
C = {"LC_ALL": "C", "LANG": "C"}
ASCII = {**C, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # as where only such a locale is there
OF_ANOTHER_PROJECT = {
    "PULUMI_STACK": "other",
    "PULUMI_PROJECT": "other",
    "PULUMI_ORG": "other",
    "PULUMI_ACCESS_TOKEN": "pul-of-another-project",
    "PULUMI_HOME": "/nonexistent",
    "PULUMI_CONFIG": '{"other:key": 1}',
    "PULUMI_OPTION_PARALLEL": "1",
    "PULUMI_OPTION_TARGET": "urn:pulumi:other::other::other::other",
    "PULUMI_DEBUG_PROVIDERS": "docker:1",
    "PULUMI_PYTHON_CMD": "/bin/false",
}


def test_what_is_not_ascii_is_understood_and_shown_in_a_shell_without_utf_8(stack: Stack) -> None:
    app = ("--app", "shells")
    made = stack.run("--json", "registry", "ensure", NAME, *app, environment=C)
    assert made.code == 0, made.err
    try:
        listed = stack.run("registry", "list", *app, environment=ASCII)
        assert (listed.code, listed.err) == (0, "")
        assert "Zo\\xeb" in listed.out
        assert [link["app_agent_id"] for link in stack.json("registry", "list", *app)["links"]] == [
            NAME
        ]
    finally:
        stack.json("registry", "unlink", NAME, *app, "--reason", "a test")
        stack.json("agent", "delete", made.json["letta_agent_id"], "--yes")


def test_a_shell_with_no_variables_at_all_is_enough(stack: Stack) -> None:
    where = {key: value for key, value in stack.machine.environment.items() if "LETTA_OPS" in key}
    for words in (["status"], ["agent", "list"], ["preview"], ["logs", "--tail", "3"]):
        done = subprocess.run(
            [LETTA_OPS, "--stack", stack.name, *words],
            env=where, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_python_files_of_the_folder_it_is_run_in_are_not_its_own(
    stack: Stack, tmp_path: Path
) -> None:
    for name in ("types.py", "json.py", "typing.py", "sitecustomize.py", "infra.py"):
        (tmp_path / name).write_text("raise SystemExit('a foreign file was run')\n")
    for words in (["status"], ["preview"]):
        answer = stack.run(*words, cwd=tmp_path)
        assert answer.code == 0, answer.err


def test_another_projects_variables_change_nothing(stack: Stack) -> None:
    answer = stack.run("preview", environment=OF_ANOTHER_PROJECT)
    assert (answer.code, answer.out) == (0, "nothing to change\n")


def test_those_that_say_where_the_state_is_are_named_when_it_fails(
    stack: Stack, tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "nowhere")
    for variable, value in (
        ("PULUMI_BACKEND_URL", tmp_path.as_uri()),
        ("PULUMI_BACKEND_URL", "s3://no-such-bucket?region=nowhere"),
        ("PULUMI_CONFIG_PASSPHRASE_FILE", nowhere),
    ):
        answer = stack.run("up", environment={variable: value})
        assert answer.code == 1
        assert f"{variable} came from this shell" in answer.err
        assert "Traceback" not in answer.err


def test_a_passphrase_may_end_in_a_line_of_another_system(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes((stack.machine.state / "passphrase").read_bytes().strip() + b"\r\n")
    answer = stack.run("preview", environment={"PULUMI_CONFIG_PASSPHRASE_FILE": str(file)})
    assert (answer.code, answer.out) == (0, "nothing to change\n")
