"""What a Pulumi program and its dynamic providers may rely on, with whatever CLI we find.

Where the official plugins can be had these tests run on them, otherwise on our stand-ins: so both
keep the same contract. Ending with a killed CLI is the one thing that only the stand-ins promise.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.pulumi_cli.cli_cache import PulumiCli
from tests.contract.project import Project, new_project, wait_until

PROGRAM = """
import os
import sys
import pulumi
from beside import NAME
from pulumi.dynamic import CreateResult, Resource, ResourceProvider

config = pulumi.Config()
print("first on sys.path:", sys.path[0], "- working directory:", os.getcwd())

class Provider(ResourceProvider):
    def create(self, inputs):
        import subprocess, time, pathlib
        if inputs["slow"]:
            child = subprocess.Popen(["sleep", "600"])
            pathlib.Path(inputs["slow"]).write_text(str(child.pid))
            child.wait()
        return CreateResult("identity", inputs)

class Thing(Resource):
    def __init__(self, name, **inputs):
        super().__init__(Provider(), name, inputs)

match config.get("failure"):
    case "run-error":
        raise pulumi.RunError("the port is taken")
    case "late":
        pulumi.Output.from_input(1).apply(lambda _: (_ for _ in ()).throw(pulumi.RunError("late")))
    case "bug":
        NAME.nothing
    case "exit":
        sys.exit(7)

Thing(NAME, slow=config.get("slow") or "", token=config.require_secret("token"))
pulumi.export("python", sys.executable)
"""


def start_slow_up(project: Project) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """An `up` that hangs in `create`; returns it and every process below it."""
    note = project.root / "pid"
    project.set("slow", str(note))
    with (project.root / "up.log").open("wb") as log:
        up = subprocess.Popen(
            project.argv("up", "--yes", "--skip-preview"),
            cwd=project.root,
            env=project.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait_until(lambda: note.exists() and note.read_text() != "", "the slow create")
    return up, psutil.Process(up.pid).children(recursive=True)


def made(folder: Path, cli: PulumiCli) -> Project:
    program = {"__main__.py": PROGRAM, "beside.py": 'NAME = "thing"\n'}
    project = new_project(folder, cli, program, folder / "home")
    project.ok("config", "set", "--secret", "token", "not-for-the-state")
    return project


@pytest.fixture
def project(tmp_path: Path, cli: PulumiCli) -> Project:
    return made(tmp_path, cli)


@pytest.fixture(scope="module")
def standing_project(tmp_path_factory: pytest.TempPathFactory, cli: PulumiCli) -> Project:
    """A project that is up already; for tests that change nothing."""
    project = made(tmp_path_factory.mktemp("standing"), cli)
    project.ok("up", "--yes", "--skip-preview")
    return project


def test_a_program_is_created_left_alone_and_destroyed(project: Project, tmp_path: Path) -> None:
    first = project.ok("up", "--yes", "--skip-preview")
    folder = project.root / "program"
    assert f"first on sys.path: {folder} - working directory: {folder}" in first
    assert "+ 2 created" in first
    assert sys.executable in first
    assert "warning" not in first
    assert "2 unchanged" in project.ok("preview", "--expect-no-changes")
    assert "2 unchanged" in project.ok("up", "--yes")
    states = [path for path in (tmp_path / "the state").rglob("*") if path.is_file()]
    assert states
    assert not any(b"not-for-the-state" in path.read_bytes() for path in states)
    assert "- 2 deleted" in project.ok("destroy", "--yes", "--skip-preview")


@pytest.mark.parametrize(
    ("failure", "shown", "traceback"),
    [
        ("run-error", "error: the port is taken", False),
        ("late", "error: late", False),
        ("bug", "AttributeError: 'str' object has no attribute 'nothing'", True),
        ("exit", "program exited with non-zero exit code: 7", False),
    ],
)
def test_a_failing_program_shows_its_reason_and_nothing_of_the_host(
    standing_project: Project, failure: str, shown: str, traceback: bool
) -> None:
    standing_project.set("failure", failure)
    done = standing_project.run("up", "--yes", "--skip-preview")
    assert done.returncode != 0
    assert shown in done.stdout
    assert ("Traceback" in done.stdout) is traceback
    for internal in ("runpy", "language_host.py", "pulumi-language-python", "asyncio"):
        assert internal not in done.stdout
    assert "deleted" not in done.stdout, "a program that failed has not asked for deletions"


def test_an_interrupted_up_ends_its_plugins_and_can_be_repeated(project: Project) -> None:
    """One Ctrl-C lets the engine wait for what runs, a second one ends it (Pulumi's own rule)."""
    up, below = start_slow_up(project)
    up.send_signal(signal.SIGINT)
    time.sleep(1)
    up.send_signal(signal.SIGINT)
    assert up.wait(30) != 0
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive
    log = (project.root / "up.log").read_text()
    assert "Traceback" not in log
    project.set("slow", "")
    assert "created" in project.ok("up", "--yes", "--skip-preview")


def test_nothing_outlives_a_killed_cli(project: Project) -> None:
    """Neither the language host, nor the provider, nor the program that the provider is running."""
    if project.cli.plugins == "official":
        pytest.skip("the official launcher leaves the provider behind")
    up, below = start_slow_up(project)
    names = " ".join(" ".join(process.cmdline()) for process in below)
    assert all(part in names for part in ("language_host.py", "dynamic_provider.py", "sleep 600"))
    up.kill()
    up.wait()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive
    project.set("slow", "")
    project.ok("cancel", "--yes")
    assert "created" in project.ok("up", "--yes", "--skip-preview")


def test_without_python_the_stand_in_says_what_to_do(tmp_path: Path, cli: PulumiCli) -> None:
    if cli.plugins == "official":
        pytest.skip("the official host has its own words")
    host = (cli.plugin_folder or cli.executable.parent) / "pulumi-language-python"
    environment = {"PATH": os.defpath}
    done = subprocess.run(
        [host, "127.0.0.1:1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "next: make the virtual environment (make setup), or set LETTA_OPS_PYTHON" in done.stderr
