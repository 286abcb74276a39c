"""Finding the Pulumi CLI, and its environment. Nothing is built or downloaded here."""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.errors import LettaOpsError
from infra.pulumi_cli import cli, cli_cache, go_tools
from infra.pulumi_cli.cli import chosen_by_user, find_pulumi, fits, pulumi_environment
from infra.pulumi_cli.cli_cache import PULUMI_VERSION, PulumiCli

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(autouse=True)
def _official_docker_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice of the docker plugin has tests of its own (test_plugins.py)."""
    monkeypatch.setattr(cli, "docker_stand_in", lambda *_, **__: None)


def script(path: Path, body: str) -> Path:
    """An executable at `path`, as a tiny shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def environment_of(*folders: Path) -> dict[str, str]:
    """An environment in which only `folders` are searched, and nothing is downloaded."""
    path = os.pathsep.join(str(folder) for folder in folders)
    return {"PATH": path, "LETTA_OPS_PULUMI_DOWNLOAD": "0"}


def cache_with_cli(cache: Path, plugins: str = "stand-in") -> Path:
    """A cache as a finished build leaves it."""
    executable = script(cache / "pulumi" / PULUMI_VERSION / "pulumi", "echo v" + PULUMI_VERSION)
    facts = {"origin": "built", "plugins": plugins, "reasons": ["no official download: offline"]}
    facts["size"] = executable.stat().st_size  # type: ignore[assignment]
    (executable.parent / cli_cache.FINISHED).write_text(json.dumps(facts))
    return executable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def never(line: str) -> None:
    pytest.fail(f"nothing takes time here, but was reported: {line}")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("v3.250.0", True),
        ("3.250.0\n", True),
        ("v3.250.1", True),
        ("v3.1000.0", True),
        ("v3.251.0-dev.0", True),
        ("v3.250.0+dirty", True),
        ("v3.250.0-beta.1", False),
        ("v3.249.9", False),
        ("v3.25.0", False),
        ("v2.300.0", False),
        ("v4.0.0", False),
        ("", False),
        ("unknown", False),
        ("v3.250", False),
    ],
)
def test_a_version_fits_from_the_pinned_one_to_before_4(version: str, expected: bool) -> None:
    assert fits(version) is expected


def test_the_cli_on_path_with_its_language_host_is_used_as_it_is(tmp_path: Path) -> None:
    executable = script(tmp_path / "bin" / "pulumi", "echo v3.260.1")
    script(tmp_path / "bin" / "pulumi-language-python", "exit 0")
    found = find_pulumi(never, environment_of(tmp_path / "bin"), tmp_path / "cache")
    assert found == PulumiCli(executable, "path", "official")
    assert not (tmp_path / "cache").exists()


def test_the_language_host_is_also_found_where_the_symbolic_link_leads(tmp_path: Path) -> None:
    real = script(tmp_path / "cellar" / "pulumi", "echo v3.250.0")
    script(tmp_path / "cellar" / "pulumi-language-python", "exit 0")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pulumi").symlink_to(real)
    found = find_pulumi(never, environment_of(tmp_path / "bin"), tmp_path / "cache")
    assert found.plugins == "official"


def test_a_cli_without_a_language_host_gets_the_stand_ins(tmp_path: Path) -> None:
    executable = script(tmp_path / "bin" / "pulumi", "echo v3.250.0")
    found = find_pulumi(never, environment_of(tmp_path / "bin"), tmp_path / "cache")
    assert (found.executable, found.origin, found.plugins) == (executable, "path", "stand-in")
    assert found.plugin_folder is not None
    assert names(found.plugin_folder) == sorted(cli_cache.STAND_INS)
    assert os.access(found.plugin_folder / "pulumi-language-python", os.X_OK)
    assert f"no pulumi-language-python beside {executable} nor on PATH" in found.reasons


def test_our_wrapper_our_stand_ins_and_an_old_version_are_passed_over(tmp_path: Path) -> None:
    """The wrapper runs find_pulumi: to take it for the CLI would never end."""
    for name in ("pulumi", "pulumi-language-python"):
        script(tmp_path / "venv" / name, "").write_bytes((TOOLS / "pulumi" / name).read_bytes())
    old = script(tmp_path / "old" / "pulumi", "echo v3.100.0")
    broken = script(tmp_path / "broken" / "pulumi", "exit 3")
    good = script(tmp_path / "good" / "pulumi", "echo v3.250.0")
    folders = [tmp_path / name for name in ("venv", "missing", "old", "broken", "good")]
    found = find_pulumi(never, environment_of(*folders), tmp_path / "cache")
    assert (found.executable, found.plugins) == (good, "stand-in")
    needed = "at least 3.250.0 and below 4 is needed"
    assert found.reasons[:2] == (f"{old} is v3.100.0; {needed}", f"{broken} is broken; {needed}")


def test_the_cached_cli_is_next_and_says_why_it_was_made(tmp_path: Path) -> None:
    executable = cache_with_cli(tmp_path)
    found = find_pulumi(never, environment_of(), tmp_path)
    reasons = ("no pulumi on PATH", "no official download: offline")
    assert found == PulumiCli(executable, "built", "stand-in", reasons)


def test_the_cached_cli_on_path_is_still_the_cached_one(tmp_path: Path) -> None:
    """Below a Pulumi run our cache is on PATH, and its stand-ins must not pass for official."""
    executable = cache_with_cli(tmp_path)
    found = find_pulumi(never, environment_of(executable.parent), tmp_path)
    assert (found.origin, found.plugins) == ("built", "stand-in")


def test_the_stand_ins_of_a_newer_checkout_replace_the_cached_ones(tmp_path: Path) -> None:
    executable = cache_with_cli(tmp_path)
    find_pulumi(never, environment_of(), tmp_path)
    host = executable.parent / "language_host.py"
    host.write_text("older")
    find_pulumi(never, environment_of(), tmp_path)
    assert host.read_bytes() == (TOOLS / "pulumi" / "language_host.py").read_bytes()


@pytest.mark.parametrize("remains", ["no marker", "short binary"])
def test_an_unfinished_cli_in_the_cache_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remains: str
) -> None:
    executable = cache_with_cli(tmp_path)
    if remains == "no marker":
        (executable.parent / cli_cache.FINISHED).unlink()
    else:
        executable.write_text("half")
    (tmp_path / "pulumi" / ".partial-old").mkdir()

    def build(tool: object, target: Path, *_: object) -> None:
        script(target, "echo v3.250.0")

    monkeypatch.setattr(cli_cache, "build_tool", build)
    lines: list[str] = []
    found = find_pulumi(lines.append, environment_of(), tmp_path)
    assert found.origin == "built"
    assert names(tmp_path / "pulumi") == [PULUMI_VERSION, "lock"]
    told = "\n".join(lines)
    assert "no pulumi on PATH" in told
    assert "switched off by LETTA_OPS_PULUMI_DOWNLOAD=0" in told
    assert "about 4 minutes on 2 cores, once" in told


def test_a_failed_build_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(tool: object, target: Path, *_: object) -> None:
        target.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_cache, "build_tool", build)
    with pytest.raises(KeyboardInterrupt):
        find_pulumi(lambda line: None, environment_of(), tmp_path)
    assert names(tmp_path / "pulumi") == ["lock"]


def test_without_a_checkout_the_next_step_is_to_install_pulumi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cli_cache, go_tools):
        monkeypatch.setattr(module, "tools_folder", lambda: tmp_path / "no tools")
    with pytest.raises(LettaOpsError) as caught:
        find_pulumi(lambda line: None, environment_of(), tmp_path / "cache")
    assert "there is no checkout" in caught.value.message
    assert "install Pulumi 3.250.0" in caught.value.hint


def test_two_at_once_make_one_and_the_second_says_whom_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, second_waits = threading.Event(), threading.Event()
    built: list[Path] = []

    def build(tool: object, target: Path, *_: object) -> None:
        building.set()
        assert second_waits.wait(60)
        built.append(script(target, "echo v3.250.0"))

    def second_report(line: str) -> None:
        assert f"pid {os.getpid()}" in line
        second_waits.set()

    monkeypatch.setattr(cli_cache, "build_tool", build)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(find_pulumi, lambda line: None, environment_of(), tmp_path)
        assert building.wait(60)
        second = pool.submit(find_pulumi, second_report, environment_of(), tmp_path)
        assert first.result(10) == second.result(10)
    assert len(built) == 1


def test_the_environment_has_the_state_folder_as_backend_and_the_cli_first(tmp_path: Path) -> None:
    cli = PulumiCli(tmp_path / "bin" / "pulumi", "path", "stand-in", (), tmp_path / "stand-ins")
    result = pulumi_environment(tmp_path / "state", cli, {"PATH": "/usr/bin", "HOME": "/home/x"})
    assert result == {
        "HOME": "/home/x",
        "PATH": f"{tmp_path / 'stand-ins'}:{tmp_path / 'bin'}:/usr/bin",
        "PULUMI_BACKEND_URL": f"file://{tmp_path / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(tmp_path / "state" / "passphrase"),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "GRPC_ENABLE_FORK_SUPPORT": "false",
        "GRPC_VERBOSITY": "NONE",
        "PULUMI_PYTHON_CMD": sys.executable,
        "LETTA_OPS_PYTHON": sys.executable,
    }


@pytest.mark.parametrize(
    "chosen",
    [
        {"PULUMI_BACKEND_URL": "s3://bucket"},
        {"PULUMI_CONFIG_PASSPHRASE": ""},
        {"PULUMI_CONFIG_PASSPHRASE_FILE": "/run/secrets/passphrase"},
        {"PYTHONDONTWRITEBYTECODE": "1"},
    ],
)
def test_what_the_user_chose_stays(tmp_path: Path, chosen: dict[str, str]) -> None:
    cli = PulumiCli(tmp_path / "pulumi", "built", "stand-in")
    result = pulumi_environment(tmp_path, cli, chosen)
    assert result.items() >= chosen.items()
    assert set(chosen_by_user(chosen)) == {key for key in chosen if "PULUMI" in key and chosen[key]}
    ours = "PULUMI_CONFIG_PASSPHRASE_FILE" in result
    assert ours is not ("PULUMI_CONFIG_PASSPHRASE" in chosen)
