"""What can be wrong with an engine: each time one clear message, exit 1, and nothing made."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.targets.docker.engine.client import engine
from tests.live.docker_stack import START_SECONDS, DockerStack
from tests.live.machine import Machine, Stack

pytestmark = pytest.mark.target("docker", reason="they are errors of a Docker engine")


@pytest.fixture
def unmade(machine: Machine) -> Iterator[DockerStack]:
    made = machine.stack("unmade")
    assert isinstance(made, DockerStack)
    yield made
    assert made.containers() == [], "nothing was made"


def refused(stack: Stack, *words: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    answer = stack.run("--json", "up", *stack.settings(), *words, environment=environment)
    assert answer.code == 1, answer.out + answer.err
    assert "Traceback" not in answer.err
    error: dict[str, str] = answer.json["error"]
    assert error["hint"]
    return error


def test_no_engine(unmade: DockerStack) -> None:
    where = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    error = refused(unmade, environment=where)
    assert error["code"] == "no-engine"
    assert "/nowhere/docker.sock" in error["message"]
    report = unmade.run("--json", "doctor", environment=where)
    assert report.code == 1
    assert "engine" in report.out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_no_permission_on_the_socket(unmade: DockerStack) -> None:
    """A user who isn't in the group `docker`; the command is told in their own words."""
    nobody = pwd.getpwnam("nobody").pw_uid
    folder = unmade.machine.root / "of-nobody"
    folder.mkdir()
    os.chown(folder, nobody, -1)
    script = (
        "import sys; sys.path.insert(0, '.'); from infra.targets.docker.engine.client import engine\n"
        "from infra.errors import LettaOpsError\n"
        "try:\n with engine(): print('reached')\n"
        "except LettaOpsError as error: print(error.code, '|', error.hint)\n"
    )
    python = Path(sys.executable).resolve()
    if not _may_run(python):
        python = Path(shutil.which("python3", path="/usr/bin") or "/usr/bin/python3")
    site = next(path for path in sys.path if path.endswith("site-packages"))
    answer = unmade.machine.run(
        python, "-c", script, user=nobody, environment={"HOME": str(folder), "PYTHONPATH": site}
    )
    if "Permission denied" in answer.err or "No module named" in answer.err:
        pytest.skip("this checkout can't be read by another user, who so can't run the command")
    assert answer.out.startswith("engine-permission | add the user to the group"), answer


def _may_run(python: Path) -> bool:
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (python, *python.parents))


def test_a_taken_port(unmade: DockerStack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", unmade.ports["server.port"]))
        taken.listen()
        error = refused(unmade)
    assert "server.port" in error["message"]
    assert "--config server.port=" in error["hint"]


def test_a_base_image_that_is_not_there(unmade: DockerStack) -> None:
    error = refused(unmade, "--config", "image.base=localhost:1/nothing-here:1")
    assert error["code"] == "image-missing"
    assert "image.base" in error["hint"]
    unmade.run("destroy", "--delete-data", "--yes")


def test_beyond_loopback_without_tls(unmade: DockerStack) -> None:
    error = refused(unmade, "--config", "server.bind=0.0.0.0")
    assert "tls.mode" in error["message"]


@pytest.mark.long
def test_a_volume_that_somebody_else_uses(own_stack: Stack) -> None:
    assert isinstance(own_stack, DockerStack)
    names = own_stack.names
    with engine() as client:
        image = client.containers.get(names.container("postgres")).image
        assert image is not None
        intruder = client.containers.run(
            str(image.id),
            ["sleep", "300"],
            name=f"{names.prefix}-intruder",
            entrypoint=[],
            volumes={names.volume("database"): {"bind": "/data", "mode": "ro"}},
            network_mode="none",
            detach=True,
        )
        try:
            error = own_stack.json("up", code=1)["error"]
        finally:
            intruder.remove(force=True)
    assert error["code"] == "volume-in-use"
    assert intruder.name in error["message"]
    own_stack.json("up", "--no-smoke")


@pytest.mark.long
def test_a_server_that_needs_more_memory_than_it_has(own_stack: Stack) -> None:
    """The kernel ends it: that is said, and what to raise; the old one goes on serving."""
    assert isinstance(own_stack, DockerStack)
    error = own_stack.json(
        "up", "--no-smoke", "--config", "server.memory=100",
        "--config", "server.start_seconds=60", code=1,
    )["error"]  # fmt: skip
    assert error["code"] == "out-of-memory"
    assert "server.memory" in error["hint"]
    assert own_stack.json("status")["server"]["healthy"] is True
    own_stack.json(
        "up", "--no-smoke", "--config", "server.memory=",
        "--config", f"server.start_seconds={START_SECONDS}",
    )  # fmt: skip
