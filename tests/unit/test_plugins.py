"""Which docker plugin Pulumi gets. Nothing is downloaded here."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.pulumi_cli import cli_cache, go_tools, plugins
from infra.pulumi_cli.cli import find_pulumi
from infra.pulumi_cli.cli_cache import DOCKER_STAND_INS, PulumiCli
from infra.pulumi_cli.plugins import (
    DOCKER_PLUGIN,
    DOCKER_VERSION,
    INSTALL_SECONDS,
    RETRY_SECONDS,
    docker_stand_in,
)

TOOLS = Path(__file__).parents[2] / "tools" / "pulumi"
TODAY = 1_000_000_000.0


def script(path: Path, body: str = "exit 0") -> Path:
    """An executable at `path`, as a tiny shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


class Machine:
    """A user's machine, with a CLI that answers `plugin install` with `answer`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.lines: list[str] = []
        self.environment = {"PATH": os.defpath, "PULUMI_HOME": str(folder / "home")}

    def decide(
        self, answer: str = "", *, official: bool = True, on_path: bool = False, now: float = TODAY
    ) -> Path | None:
        self.lines.clear()
        executable = script(self.folder / "bin" / "pulumi", f'echo "$@" >> "$0.asked"\n{answer}')
        cli = PulumiCli(executable, "download", "official" if official else "stand-in")
        return docker_stand_in(
            cli,
            self.environment,
            self.cache,
            self.lines.append,
            on_path=on_path,
            now=lambda: now,
        )

    def install(self, version: str) -> Path:
        home = self.folder / "home" / "plugins"
        return script(home / f"resource-docker-v{version}" / DOCKER_PLUGIN)

    @property
    def asked(self) -> list[str]:
        note = self.folder / "bin" / "pulumi.asked"
        return note.read_text().splitlines() if note.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


REFUSAL = "echo 'error: could not resolve host' >&2; exit 255"


def test_the_plugin_on_the_user_s_path_is_used_in_silence(machine: Machine) -> None:
    assert machine.decide(on_path=True) is None
    assert (machine.lines, machine.asked) == ([], [])
    assert not machine.cache.exists()


def test_pulumis_own_folder_is_in_the_home_of_passwd_whatever_home_says(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.install(DOCKER_VERSION)
    (machine.folder / ".pulumi").symlink_to(machine.folder / "home")
    del machine.environment["PULUMI_HOME"]
    machine.environment["HOME"] = "/nonexistent"
    monkeypatch.setattr("pwd.getpwuid", lambda _: SimpleNamespace(pw_dir=str(machine.folder)))
    assert machine.decide(REFUSAL) is None


@pytest.mark.parametrize("version", ["5.2.0", "5.2.1", "5.10.0"])
def test_an_installed_plugin_that_serves_our_sdk_is_used(machine: Machine, version: str) -> None:
    machine.install(version)
    assert machine.decide() is None
    assert (machine.lines, machine.asked) == ([], [])


@pytest.mark.parametrize("version", ["4.9.0", "5.1.9", "6.0.0", "5.2.0.lock", "5.2.0-beta.1"])
def test_a_plugin_of_another_version_is_none(machine: Machine, version: str) -> None:
    machine.install(version)
    assert machine.decide(REFUSAL) is not None


def test_a_plugin_that_is_only_half_there_is_none(machine: Machine) -> None:
    plugin = machine.install("5.2.0").parent
    plugin.with_name(f"{plugin.name}.partial").write_text("")
    assert machine.decide(REFUSAL) is not None


def test_a_machine_that_reaches_pulumi_installs_the_official_one(machine: Machine) -> None:
    assert machine.decide() is None
    assert machine.asked == [f"plugin install resource docker {DOCKER_VERSION}"]
    assert machine.lines == [f"installing Pulumi's docker plugin {DOCKER_VERSION}, once"]


def test_where_it_cannot_be_installed_the_stand_in_has_a_folder_of_its_own(
    machine: Machine,
) -> None:
    folder = machine.decide(REFUSAL)
    assert folder is not None
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(DOCKER_STAND_INS)
    assert os.access(folder / DOCKER_PLUGIN, os.X_OK)
    assert machine.lines[1:] == [
        "no official docker plugin (could not resolve host): containers are made by our stand-in"
    ]


def test_a_refused_installation_is_tried_again_after_a_day_and_told_of_once(
    machine: Machine,
) -> None:
    first = machine.decide(REFUSAL)
    assert machine.decide(REFUSAL, now=TODAY + RETRY_SECONDS - 1) == first
    assert (len(machine.asked), machine.lines) == (1, [])
    assert machine.decide(REFUSAL, now=TODAY + RETRY_SECONDS + 1) == first
    assert len(machine.asked) == 2
    assert not any("stand-in" in line for line in machine.lines)
    assert machine.decide(now=TODAY + 3 * RETRY_SECONDS) is None


def test_an_installation_has_its_time(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert INSTALL_SECONDS <= 300
    monkeypatch.setattr(plugins, "INSTALL_SECONDS", 0.2)
    assert machine.decide("sleep 20") is not None
    assert "no end after" in machine.lines[-1]


@pytest.mark.parametrize("offline", ["a CLI that we built", "no downloads wanted"])
def test_a_machine_that_reaches_nothing_is_not_made_to_wait(machine: Machine, offline: str) -> None:
    if offline == "no downloads wanted":
        machine.environment["LETTA_OPS_PULUMI_DOWNLOAD"] = "0"
    built = offline == "a CLI that we built"
    assert machine.decide(official=not built) is not None
    assert machine.asked == []
    assert len(machine.lines) == 1
    assert machine.decide(official=not built) is not None
    assert machine.lines == []
    machine.environment.pop("LETTA_OPS_PULUMI_DOWNLOAD", None)
    assert machine.decide() is None, "tried as soon as it can be had"


def test_an_official_one_that_comes_later_is_taken(machine: Machine) -> None:
    machine.decide(REFUSAL)
    machine.install("5.2.0")
    assert machine.decide(REFUSAL) is None
    (machine.folder / "home" / "plugins" / "resource-docker-v5.2.0" / DOCKER_PLUGIN).unlink()
    machine.decide(REFUSAL)
    assert "stand-in" in machine.lines[-1], "newly decided, so told again"


def test_without_a_checkout_a_stack_without_containers_still_runs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cli_cache, go_tools):
        monkeypatch.setattr(module, "tools_folder", lambda: machine.folder / "no tools")
    assert machine.decide(REFUSAL) is None
    assert "no docker plugin can be prepared: Pulumi's plugin" in machine.lines[-1]


def test_a_cache_that_cannot_be_written_does_not_stop_a_run(machine: Machine) -> None:
    machine.cache.write_text("a file")
    assert machine.decide(REFUSAL) is None
    assert "no docker plugin can be prepared" in machine.lines[-1]


def test_our_own_stand_in_on_path_does_not_pass_for_an_official_one(machine: Machine) -> None:
    """Below a Pulumi run its folder is on PATH."""
    folder = machine.decide(REFUSAL)
    assert folder is not None
    script(machine.folder / "bin" / "pulumi", "echo v3.250.0")
    script(machine.folder / "bin" / "pulumi-language-python")
    path = os.pathsep.join([str(folder), str(machine.folder / "bin"), os.defpath])
    ours = {**machine.environment, "PATH": path, "LETTA_OPS_PULUMI_DOWNLOAD": "0"}
    assert find_pulumi(lambda _: None, ours, machine.cache).docker_folder == folder
    script(machine.folder / "bin" / DOCKER_PLUGIN)
    assert find_pulumi(lambda _: None, ours, machine.cache).docker_folder is None


def test_everything_that_the_stand_in_is_made_of_is_copied() -> None:
    modules = {f"docker_plugin/{path.name}" for path in (TOOLS / "docker_plugin").glob("*.py")}
    assert modules == {name for name in DOCKER_STAND_INS if name.startswith("docker_plugin/")}


def test_the_plugin_has_the_version_of_the_sdk() -> None:
    assert importlib.metadata.version("pulumi-docker") == DOCKER_VERSION
