"""The Pulumi project of a stack: its configuration has one home, its lock can be told dead or alive."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infra.engine.backend import locks
from infra.engine.project import configuration_file, configured, write_project
from infra.locations import StackFolder


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
    write_project(folder, {"server.port": "9000"}, keep=True, environment=environment)
    assert config(home) == {"letta-ops:server.port": "9000"}
    assert configured(folder, environment) == {"server.port": "9000"}
    write_project(folder, {"server.port": ""}, keep=True, environment=environment)
    assert config(home) == {}


def test_a_preview_uses_settings_without_keeping_them(
    folder: StackFolder, environment: dict[str, str]
) -> None:
    project = write_project(folder, {"release": "1"}, keep=False, environment=environment)
    assert config(project / "Pulumi.demo.yaml") == {"letta-ops:release": "1"}
    assert not configuration_file(folder, environment).exists()


def test_a_nested_key_is_replaced_and_not_doubled(
    folder: StackFolder, environment: dict[str, str]
) -> None:
    home = configuration_file(folder, environment)
    home.parent.mkdir(parents=True)
    home.write_text("config:\n  letta-ops:server:\n    port: 1\n    environment: {A: b}\n")
    write_project(folder, {"server.port": "2"}, keep=True, environment=environment)
    assert config(home) == {
        "letta-ops:server": {"environment": {"A": "b"}},
        "letta-ops:server.port": "2",
    }


def test_the_salt_of_this_machine_survives_and_one_in_the_configuration_wins(
    folder: StackFolder, environment: dict[str, str]
) -> None:
    project = write_project(folder, {}, keep=True, environment=environment)
    settings = project / "Pulumi.demo.yaml"
    settings.write_text("encryptionsalt: mine\n")
    write_project(folder, {"release": "1"}, keep=True, environment=environment)
    assert yaml.safe_load(settings.read_text())["encryptionsalt"] == "mine"
    home = configuration_file(folder, environment)
    home.write_text("encryptionsalt: shared\nconfig: {}\n")
    write_project(folder, {}, keep=True, environment=environment)
    assert yaml.safe_load(settings.read_text())["encryptionsalt"] == "shared"


def lock(folder: StackFolder, pid: int, hostname: str = "") -> Path:
    path = folder.state / ".pulumi" / "locks" / "organization" / "letta-ops" / "demo" / "one.json"
    path.parent.mkdir(parents=True)
    holder = {"pid": pid, "hostname": hostname or socket.gethostname(), "username": "x"}
    path.write_text(json.dumps(holder))
    return path


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_the_lock_of_a_dead_run_is_told_from_that_of_a_living_one(folder: StackFolder) -> None:
    path = lock(folder, dead_pid())
    (found,) = locks(folder)
    assert (found.path, found.is_here, found.is_held) == (path, True, False)
    path.unlink()
    path.parent.rmdir()
    lock(folder, os.getpid())
    (found,) = locks(folder)
    assert (found.is_here, found.is_held) == (True, True)


def test_the_lock_of_another_machine_is_not_here(folder: StackFolder) -> None:
    lock(folder, os.getpid(), "another-machine")
    assert [found.is_here for found in locks(folder)] == [False]


def test_a_lock_that_cannot_be_read_is_held_by_nobody(folder: StackFolder) -> None:
    lock(folder, 1).write_text("half a docum")
    assert [(found.is_here, found.is_held) for found in locks(folder)] == [(True, False)]
