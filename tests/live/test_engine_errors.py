"""What can be wrong with an engine: each time one clear message, exit 1, and nothing made."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.errors import LettaOpsError
from infra.targets.docker.engine.client import engine
from infra.targets.docker.names import LABEL_PREFIX, LABEL_SERVICE
from infra.targets.docker.providers.running import RunningContainer
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


def test_an_engine_over_ssh_is_told_with_what_to_do_instead(unmade: DockerStack) -> None:
    error = refused(unmade, environment={"DOCKER_HOST": "ssh://somebody@192.0.2.1"})
    assert error["code"] == "engine-over-ssh"
    assert "ssh -nNT -L" in error["hint"]


def test_too_little_memory_is_refused_before_anything_is_made(unmade: DockerStack) -> None:
    error = refused(unmade, "--config", "server.memory=300")
    assert "server.memory: must be between 512 and" in error["message"]


@pytest.mark.parametrize("kind", ["container", "network"])
def test_what_only_has_a_name_of_ours_is_never_taken_for_ours(
    unmade: DockerStack, kind: str
) -> None:
    names = unmade.names
    with engine() as client:
        stranger: Any = None
        if kind == "network":
            stranger = client.networks.create(names.inner_network)
        else:
            image = os.environ["LETTA_OPS_TEST_BASE"]
            name = names.container("redis")
            stranger = client.containers.create(image, ["true"], name=name, network_mode="none")
        try:
            error = refused(unmade)
        finally:
            stranger.remove()
    assert error["code"] == "name-taken"
    assert f"a {kind} {stranger.name}" in error["message"]
    assert "containers.prefix" in error["hint"]


@pytest.mark.long
def test_a_server_that_was_too_slow_is_awaited_by_the_next_up(machine: Machine) -> None:
    made = machine.stack("slow")
    assert isinstance(made, DockerStack)
    words = ("up", "--no-smoke", *made.settings(), "--config", "server.start_seconds=10")
    error = made.json(*words, "--config", "server.replicas=1", code=1)["error"]
    assert error["code"] == "service-not-healthy"
    begun = [each["Id"] for each in made.containers("letta")]
    made.json("up", "--no-smoke", "--config", f"server.start_seconds={START_SECONDS}")
    assert [each["Id"] for each in made.containers("letta")] == begun, "the same one"
    assert set(made.json("preview")["changes"]) == {"same"}
    made.discard()


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


def test_a_server_that_needs_more_memory_than_it_has(unmade: DockerStack) -> None:
    """The kernel ends it: that is said at once, and what to raise."""
    labels = {LABEL_PREFIX: unmade.names.prefix, LABEL_SERVICE: "letta"}
    inputs = {"networks": [], "alias": "", "limit": 64, "seconds": 600}
    with engine() as client:
        policy: Any = {"Name": "unless-stopped"}
        hungry = client.containers.create(
            os.environ["LETTA_OPS_TEST_BASE"], ["tail", "/dev/zero"],
            name=unmade.names.server("hungry", 1), labels=labels, network_mode="none",
            mem_limit="64m", memswap_limit="64m", restart_policy=policy,
            healthcheck={"test": ["CMD", "true"], "interval": 60 * 10**9},
        )  # fmt: skip
        try:
            with pytest.raises(LettaOpsError, match="more than its 64 MiB") as failure:
                RunningContainer().make(unmade.folder, {"container": hungry.name, **inputs})
        finally:
            hungry.remove(force=True)
    assert failure.value.code == "out-of-memory"
    assert "server.memory" in failure.value.hint
