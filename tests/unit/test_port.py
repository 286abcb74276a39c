"""The list of targets: found by name, also those of other packages, broken or unknown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import ConfigurationError, LettaOpsError
from infra.provision import _target
from infra.stack.deployment import Deployment, Server
from infra.stack.locations import StackFolder
from infra.stack.profile import remember
from infra.targets import OURS, chosen, host, named, names, settings
from infra.targets.docker.target import Docker
from infra.targets.external import ExternalHost
from infra.targets.local.target import Local


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A target of another package, which can't be imported."""
    folder = tmp_path / "broken-1.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text(
        "[letta_ops.targets]\nbroken = no_such_module:Target\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        yield "broken"


def test_a_stack_called_like_a_target_is_of_it_and_others_are_local() -> None:
    assert isinstance(chosen("docker", {}), Docker)
    assert isinstance(chosen("blue", {}), Local)
    assert isinstance(chosen("blue", {"target": "docker", "server.port": "many"}), Docker)


def test_an_unknown_target_is_refused_but_for_ending_it(tmp_path: Path) -> None:
    folder, configuration = StackFolder(tmp_path, "blue"), {"target": "moon"}
    with pytest.raises(LettaOpsError, match="moon") as caught:
        _target(folder, configuration, "up")
    assert caught.value.code == "unknown-target"
    assert isinstance(_target(folder, configuration, "destroy"), Local)
    remember(folder.profile, {"target": "docker"})
    assert isinstance(_target(folder, configuration, "destroy"), Docker)


def test_a_broken_target_of_another_package_is_broken_for_its_own_stacks_only(broken: str) -> None:
    assert names() == (*OURS, broken)
    assert settings("local", {}).target == "local"
    # A stack that is called like it, and is of another target.
    assert settings(broken, {"target": "local"}).target == "local"
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        settings("local", {"target": broken})
    with pytest.raises(ModuleNotFoundError):
        named(broken)


def test_a_key_of_another_target_is_told_to_be_that() -> None:
    with pytest.raises(ConfigurationError, match=r"tls\.mode: is for the target docker only"):
        settings("local", {"tls.mode": "off"})


def test_a_stack_that_is_not_here_is_not_ours_to_operate(tmp_path: Path) -> None:
    server = Server("http://127.0.0.1:9")
    elsewhere = Deployment("x", "local", server, folder=StackFolder(tmp_path, "nowhere"))
    for deployment in (
        elsewhere,
        Deployment("x", "docker", server),
        Deployment("x", "external", server),
    ):
        found = host(deployment)
        assert isinstance(found, ExternalHost)
        assert (found.is_ours, found.can_back_up, tuple(found.facts)) == (False, False, ())
        with pytest.raises(LettaOpsError):
            found.stop("letta")
