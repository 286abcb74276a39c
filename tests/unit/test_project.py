"""The Pulumi project of a stack: its configuration has one home, its lock can be told dead or alive."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from infra.errors import LettaOpsError
from infra.pulumi_cli.backend import locks
from infra.pulumi_cli.project import configuration_file, configured, write_project
from infra.stack.locations import StackFolder
from infra.targets import settings as judge


@pytest.fixture
def folder(tmp_path: Path) -> StackFolder:
    return StackFolder(tmp_path / "state", "demo")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"LETTA_OPS_STACKS": str(tmp_path / "stacks")}


def config(path: Path) -> dict[str, object]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return dict(document["config"])


def test_what_is_set_is_kept_and_an_empty_value_removes_it(
    folder: StackFolder, environment: dict[str, str]
) -> None:
    home = configuration_file(folder, environment)
    write_project(folder, {"server.port": "9000"}, judge, keep=True, environment=environment)
    assert config(home) == {"letta-ops:server.port": "9000"}
    assert configured(folder, environment) == {"server.port": "9000"}
    write_project(folder, {"server.port": ""}, judge, keep=True, environment=environment)
    assert config(home) == {}


def test_a_preview_uses_settings_without_keeping_them(
    folder: StackFolder, environment: dict[str, str]
) -> None:
    project = write_project(
        folder, {"release": "0.16.8"}, judge, keep=False, environment=environment
    )
    assert config(project / "Pulumi.demo.yaml") == {"letta-ops:release": "0.16.8"}
    assert not configuration_file(folder, environment).exists()


def test_a_nested_key_is_replaced_and_not_doubled(
    folder: StackFolder, environment: dict[str, str]
) -> None:
    home = configuration_file(folder, environment)
    home.parent.mkdir(parents=True)
    home.write_text("config:\n  letta-ops:server:\n    port: 2001\n    environment: {A: b}\n")
    write_project(folder, {"server.port": "2002"}, judge, keep=True, environment=environment)
    assert config(home) == {
        "letta-ops:server": {"environment": {"A": "b"}},
        "letta-ops:server.port": "2002",
    }


def test_the_salt_of_this_machine_survives_one_that_a_literal_run_left(
    folder: StackFolder, environment: dict[str, str]
) -> None:
    """Pulumi writes its salt into the configuration; another clone has another passphrase."""
    project = write_project(folder, {}, judge, keep=True, environment=environment)
    settings = project / "Pulumi.demo.yaml"
    settings.write_text("encryptionsalt: mine\n")
    home = configuration_file(folder, environment)
    home.parent.mkdir(parents=True)
    home.write_text("encryptionsalt: of-another\nconfig: {}\n")
    write_project(folder, {}, judge, keep=True, environment=environment)
    assert yaml.safe_load(settings.read_text())["encryptionsalt"] == "mine"


def test_what_is_encrypted_brings_the_salt_that_it_needs(
    folder: StackFolder, environment: dict[str, str]
) -> None:
    home = configuration_file(folder, environment)
    home.parent.mkdir(parents=True)
    home.write_text(
        "encryptionsalt: shared\nconfig:\n  letta-ops:providers.openai.api_key: {secure: v1:x}\n"
    )
    project = write_project(folder, {}, judge, keep=True, environment=environment)
    assert yaml.safe_load((project / "Pulumi.demo.yaml").read_text())["encryptionsalt"] == "shared"


def test_what_is_refused_is_not_written(folder: StackFolder, environment: dict[str, str]) -> None:
    """An API key in plain text above all: the file goes into version control."""
    with pytest.raises(LettaOpsError):
        write_project(
            folder,
            {"providers.openai.api_key": "sk-x"},
            judge,
            keep=True,
            environment=environment,
        )
    assert not configuration_file(folder, environment).exists()


def lock(folder: StackFolder, pid: int, hostname: str = "", timestamp: str = "") -> Path:
    path = folder.backend / "locks" / "organization" / "letta-ops" / "demo" / "one.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC).isoformat()
    holder = {"pid": pid, "hostname": hostname or socket.gethostname()}
    path.write_text(json.dumps({**holder, "timestamp": timestamp or now}))
    return path


def held(folder: StackFolder) -> list[bool]:
    return [found.is_held for found in locks(folder)]


@pytest.fixture
def living(tmp_path: Path) -> Iterator[int]:
    """The pid of a process that is called pulumi."""
    program = tmp_path / "pulumi"
    shutil.copyfile("/bin/sleep", program)
    program.chmod(0o755)
    child = subprocess.Popen([program, "60"])
    yield child.pid
    child.kill()
    child.wait()


def test_the_lock_of_a_living_pulumi_is_held(folder: StackFolder, living: int) -> None:
    lock(folder, living)
    assert held(folder) == [True]


def test_the_lock_of_a_dead_run_is_held_by_nobody(folder: StackFolder) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    lock(folder, child.pid)
    assert held(folder) == [False]


def test_a_pid_that_another_program_got_holds_nothing(folder: StackFolder) -> None:
    lock(folder, os.getpid())
    assert held(folder) == [False]


def test_a_pid_that_another_pulumi_got_holds_nothing(folder: StackFolder, living: int) -> None:
    lock(folder, living, timestamp="2020-01-01T00:00:00Z")
    assert held(folder) == [False]


def test_a_lock_from_before_this_machine_had_its_name_holds_nothing(
    folder: StackFolder, living: int
) -> None:
    lock(folder, living, "another-machine")
    assert held(folder) == [False]


def test_a_lock_that_cannot_be_read_is_held_by_nobody(folder: StackFolder) -> None:
    lock(folder, 1).write_text("half a docum")
    assert held(folder) == [False]
