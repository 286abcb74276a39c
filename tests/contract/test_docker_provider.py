"""What a stack may rely on with Pulumi's docker plugin, on a real engine.

Where the official plugin can be had these tests run on it, otherwise on our stand-in: so both keep
the same contract. Its words of refusal are the one thing that only the stand-in promises.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException, NotFound

from infra.pulumi_cli.cli_cache import PulumiCli
from infra.targets.docker.engine.execution import execute
from tests.contract.project import Project, new_project

BASE = os.environ.get("LETTA_OPS_TEST_BASE", "letta-ops-base:trixie")
# Declares what the test wants: [[class, name, arguments], ...], or inputs no SDK would send.
# A container comes after the networks and volumes that stand before it.
PROGRAM = """
import json, os
import pulumi, pulumi_docker

def secrets(value):
    if isinstance(value, dict):
        return {name: secrets(item) for name, item in value.items()}
    if isinstance(value, list):
        return [secrets(item) for item in value]
    hidden = isinstance(value, str) and value.startswith("SECRET")
    return pulumi.Output.secret(value) if hidden else value

before = []
for kind, name, inputs in json.loads(os.environ["RESOURCES"]):
    if ":" in kind:
        pulumi.CustomResource(kind, name, inputs)
    elif kind == "Container":
        options = pulumi.ResourceOptions(depends_on=list(before))
        pulumi_docker.Container(name, options, **secrets(inputs))
    else:
        before.append(getattr(pulumi_docker, kind)(name, **secrets(inputs)))
"""
HEX = re.compile(r"[0-9a-f]{64}")
Want = Callable[..., None]


@pytest.fixture(scope="module")
def engine() -> docker.DockerClient:
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        pytest.skip(f"no Docker engine answers at DOCKER_HOST or its default: {error}")
    if not client.images.list(name=BASE):
        pytest.skip(f"the engine has no image {BASE} (LETTA_OPS_TEST_BASE names another)")
    return client


class Stack:
    """A project whose resources a test declares; what they are called is this stack's alone."""

    def __init__(self, project: Project, engine: docker.DockerClient) -> None:
        self.project = project
        self.engine = engine
        self.prefix = f"standin-{uuid.uuid4().hex[:8]}"
        self.image = engine.images.get(BASE).id

    def name(self, short: str) -> str:
        return f"{self.prefix}-{short}"

    def box(self, short: str, **inputs: Any) -> list[Any]:
        """The declaration of a container that sleeps."""
        command = {"command": ["sleep", "300"], "init": True, "image": self.image}
        return ["Container", short, {**command, "name": self.name(short), **inputs}]

    def want(self, *resources: list[Any]) -> None:
        self.project.environment["RESOURCES"] = json.dumps(resources)

    def up(self) -> str:
        return self.project.ok("up", "--yes", "--skip-preview")

    def fails(self) -> str:
        done = self.project.run("up", "--yes", "--skip-preview")
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout

    def outputs(self, name: str) -> dict[str, Any]:
        return dict(self.project.resources()[name]["outputs"])

    def inspect(self, short: str) -> dict[str, Any]:
        return dict(self.engine.api.inspect_container(self.name(short)))

    def exists(self, short: str) -> bool:
        return bool(self.engine.containers.list(all=True, filters={"name": self.name(short)}))

    def clear(self) -> None:
        mine: dict[str, str | list[str] | bool] = {"name": self.prefix}
        for container in self.engine.containers.list(all=True, filters=mine):
            container.remove(force=True, v=True)
        for volume in self.engine.volumes.list(filters=mine):
            volume.remove(force=True)
        for network in self.engine.networks.list(filters=mine):
            with suppress(NotFound):
                network.remove()


def _stack(folder: Path, cli: PulumiCli, engine: docker.DockerClient) -> Stack:
    # An official plugin is in the user's own folder, or on PATH.
    home = folder / "home" if cli.docker_folder else None
    return Stack(new_project(folder, cli, {"__main__.py": PROGRAM}, home), engine)


@pytest.fixture
def stack(tmp_path: Path, cli: PulumiCli, engine: docker.DockerClient) -> Iterator[Stack]:
    stack = _stack(tmp_path, cli, engine)
    yield stack
    stack.clear()


@pytest.fixture(scope="module")
def standing(
    tmp_path_factory: pytest.TempPathFactory, cli: PulumiCli, engine: docker.DockerClient
) -> Iterator[Stack]:
    """A stack with one of everything, up already; for tests that change nothing."""
    stack = _stack(tmp_path_factory.mktemp("docker"), cli, engine)
    stack.want(*_everything(stack))
    stack.up()
    yield stack
    stack.clear()


def _everything(stack: Stack, **changes: Any) -> list[list[Any]]:
    upload = {"file": "/etc/standin", "content": "hello", "permissions": "0640"}
    box = stack.box(
        "box",
        envs=["PLAIN=1", "SECRET=not-for-the-state"],
        memory=64,
        healthcheck={"tests": ["CMD", "true"], "interval": "1s", "retries": 2},
        wait=True,
        wait_timeout=30,
        ports=[{"internal": 8080, "ip": "127.0.0.1"}],
        labels=[{"label": "purpose", "value": "contract"}],
        capabilities={"drops": ["ALL"]},
        tmpfs={"/scratch": "size=1m"},
        restart="unless-stopped",
        stop_timeout=3,
        uploads=[{**upload, "owner": "1000", "group": "1000"}],
        mounts=[{"type": "tmpfs", "target": "/run/more"}],
    )
    box[2].update(changes)
    return [
        ["Network", "net", {"name": stack.name("net"), "internal": True}],
        ["Volume", "disk", {"name": stack.name("disk")}],
        ["RemoteImage", "base", {"name": BASE, "keep_locally": True}],
        box,
    ]


def test_ids_and_outputs_are_those_that_the_engine_decided(standing: Stack) -> None:
    found = standing.project.resources()
    box = standing.inspect("box")
    assert HEX.fullmatch(found["net"]["id"])
    assert found["box"]["id"] == box["Id"]
    assert found["disk"]["id"] == standing.name("disk")
    assert found["base"]["outputs"]["imageId"] == standing.image
    assert found["net"]["outputs"].keys() >= {"scope", "ipamConfigs", "options", "attachable"}
    assert found["net"]["outputs"]["driver"] == "bridge"
    assert found["disk"]["outputs"]["mountpoint"].endswith("/_data")
    outputs = found["box"]["outputs"]
    assert outputs["networkDatas"][0]["ipAddress"]
    assert outputs["hostname"] == box["Id"][:12]
    assert outputs["ports"][0]["external"] > 0


def test_check_fills_in_defaults_and_lists_them_also_in_nested_objects(standing: Stack) -> None:
    found = standing.project.resources()
    box, net = found["box"]["inputs"], found["net"]["inputs"]
    filled = {"containerReadRefreshTimeoutMilliseconds", "networkMode", "removeVolumes", "start"}
    assert set(box["__defaults"]) == filled
    assert (box["networkMode"], box["removeVolumes"], box["start"]) == ("bridge", True, True)
    assert box["containerReadRefreshTimeoutMilliseconds"] == 15000
    assert box["healthcheck"]["startInterval"] == "0s"
    assert box["healthcheck"]["__defaults"] == ["startInterval"]
    assert box["ports"][0]["protocol"] == "tcp"
    assert box["ports"][0]["__defaults"] == ["protocol"]
    assert (net["ipamDriver"], net["__defaults"]) == ("default", ["ipamDriver"])


def test_the_container_is_what_was_asked_for(standing: Stack) -> None:
    found = standing.inspect("box")
    host, config = found["HostConfig"], found["Config"]
    assert set(config["Env"]) >= {"PLAIN=1", "SECRET=not-for-the-state"}
    assert (host["Memory"], host["CapDrop"], host["Init"]) == (64 * 1024**2, ["ALL"], True)
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["PortBindings"]["8080/tcp"][0]["HostIp"] == "127.0.0.1"
    assert host["Tmpfs"] == {"/scratch": "size=1m"}
    assert (config["StopTimeout"], config["Labels"]["purpose"]) == (3, "contract")
    assert found["State"]["Health"]["Status"] == "healthy", "wait is over"
    box = standing.engine.containers.get(found["Id"])
    answer = execute(str(box.id), ["stat", "-c", "%a %u %g", "/etc/standin"])
    assert answer.output == "640 1000 1000\n"


def test_one_secret_variable_makes_all_of_them_secret_in_the_state(standing: Stack) -> None:
    box = standing.project.resources()["box"]
    for envs in (box["inputs"]["envs"], box["outputs"]["envs"]):
        assert "ciphertext" in envs
    state = standing.project.root.parent / "the state"
    files = [path for path in state.rglob("*") if path.is_file()]
    assert not any(b"not-for-the-state" in path.read_bytes() for path in files)


def test_nothing_is_to_be_done_when_nothing_changed(standing: Stack) -> None:
    standing.want(*_everything(standing))
    standing.project.ok("preview", "--refresh", "--expect-no-changes")


def test_a_changed_variable_replaces_the_container_and_removes_it_first(standing: Stack) -> None:
    standing.want(*_everything(standing, envs=["PLAIN=2"]))
    assert standing.project.replacement() == ["delete-replaced", "create-replacement"]


def test_a_changed_name_replaces_the_container_and_makes_the_new_one_first(
    standing: Stack,
) -> None:
    standing.want(*_everything(standing, name=standing.name("other")))
    assert standing.project.replacement() == ["create-replacement", "delete-replaced"]


def test_inputs_that_nobody_knows_are_refused_by_name(standing: Stack, cli: PulumiCli) -> None:
    if cli.docker_folder is None:
        pytest.skip("the official plugin has its own words")
    wrong = {
        "image": BASE,
        "gpus": "all",
        "colour": "red",
        "memory": "much",
        "networksAdvanced": [{"name": "x", "macAddress": "y"}],
        "uploads": [{"file": "/x", "content": "y", "modeline": "z"}],
    }
    standing.want(*_everything(standing), ["docker:index/container:Container", "wrong", wrong])
    done = standing.project.run("preview")
    assert done.returncode != 0
    told = {
        "gpus": "the official docker plugin knows this input, our stand-in for it does not",
        "colour": "there is no such input",
        "memory": "this must be a whole number",
        "networksAdvanced[0].macAddress": "the official docker plugin knows this input",
        "uploads[0].modeline": "there is no such input",
    }
    for name, reason in told.items():
        assert re.search(rf"property {re.escape(name)} .*{reason}", done.stdout), done.stdout


def test_memory_changes_in_place_and_a_health_check_only_in_the_state(stack: Stack) -> None:
    check = {"tests": ["CMD", "true"], "interval": "30s"}
    stack.want(stack.box("box", memory=64, healthcheck=check))
    stack.up()
    before = stack.inspect("box")
    stack.want(stack.box("box", memory=96, healthcheck={**check, "interval": "60s"}))
    assert "~ 1 updated" in stack.up()
    after = stack.inspect("box")
    assert after["Id"] == before["Id"]
    assert after["HostConfig"]["Memory"] == 96 * 1024**2
    assert after["Config"]["Healthcheck"] == before["Config"]["Healthcheck"]
    shown = stack.project.ok("preview", "--refresh", "--diff")
    assert "~ healthcheck" in shown
    assert "~ 1 to update" in shown


def test_a_container_that_never_gets_healthy_stays_and_after_a_look_nothing_is_planned(
    stack: Stack,
) -> None:
    never = {"tests": ["CMD", "false"], "interval": "1s", "retries": 1}
    stack.want(stack.box("box", healthcheck=never, wait=True, wait_timeout=2))
    assert "container failed to be in healthy state" in stack.fails()
    assert stack.inspect("box")["State"]["Running"]
    assert stack.project.resources()["box"]["id"] == stack.inspect("box")["Id"]
    assert stack.project.resources()["box"]["initErrors"]
    before = stack.inspect("box")["Id"]
    shown = stack.project.ok("up", "--yes", "--skip-preview", "--refresh")
    assert "replaced" not in shown
    assert stack.inspect("box")["Id"] == before


def test_each_failure_is_one_sentence_and_leaves_what_the_official_plugin_leaves(
    stack: Stack,
) -> None:
    stack.engine.networks.create(stack.name("taken"))
    stack.engine.volumes.create(stack.name("there"), labels={"kept": "yes"})
    absent = f"localhost/{stack.prefix}:none"
    secret = "SECRET=hidden-value"
    stack.want(
        stack.box("brief", command=["true"]),
        stack.box("absent", image=absent),
        stack.box(
            "broken", command=["/no/such/program", "hidden-value"], envs=[secret], init=False
        ),
        ["Network", "net", {"name": stack.name("taken")}],
        ["Volume", "disk", {"name": stack.name("there")}],
    )
    shown = stack.fails()
    assert f"network with name {stack.name('taken')} already exists" in shown
    assert "container exited immediately" in shown
    assert not stack.exists("brief")
    assert f"unable to pull image {absent}" in shown
    assert re.search(r"(?i)unable to start container: .*/no/such/program", shown)
    assert "hidden-value" not in shown
    assert stack.exists("broken"), "made, so it is in the state"
    found = stack.project.resources()
    assert found["disk"]["outputs"]["labels"] == [{"label": "kept", "value": "yes"}], "adopted"
    assert {"broken", "disk"} <= found.keys()
    assert not found.keys() & {"net", "brief", "absent"}


def test_a_refresh_sees_what_was_changed_by_hand(stack: Stack) -> None:
    shorts = ("kept", "grown", "stopped", "removed")
    boxes = [stack.box(short, memory=64) for short in shorts]
    stack.want(*boxes, ["Volume", "disk", {"name": stack.name("disk")}])
    stack.up()
    api = stack.engine.api
    api.update_container(stack.name("grown"), mem_limit=80 * 1024**2)
    api.stop(stack.name("stopped"), timeout=1)
    api.remove_container(stack.name("removed"), force=True)
    api.remove_volume(stack.name("disk"))
    assert stack.project.preview("--refresh") == {
        "grown": "update",
        "stopped": "create",
        "removed": "create",
        "disk": "create",
    }


def test_what_is_gone_already_can_be_destroyed(stack: Stack) -> None:
    stack.want(
        ["Network", "net", {"name": stack.name("net")}],
        ["Volume", "disk", {}],
        stack.box("box", destroy_grace_seconds=5),
    )
    stack.up()
    disk = stack.project.resources()["disk"]["id"]
    assert re.fullmatch(r"disk-[0-9a-f]{7}", disk), "a name that was made up"
    stack.clear()
    stack.engine.volumes.get(disk).remove()
    assert "- 4 deleted" in stack.project.ok("destroy", "--yes", "--skip-preview")


def test_a_network_s_containers_know_each_other_by_alias_and_are_stopped_with_grace(
    stack: Stack,
) -> None:
    """Also destroying: in the order that the engine needs, the container first."""
    trap = "trap 'echo ended > /shared/word; exit 0' TERM; while :; do sleep 0.1; done"
    ask = "until getent hosts server; do sleep 0.2; done"
    network, volume = stack.name("net"), stack.name("disk")
    stack.engine.volumes.create(volume)
    shared = {"container_path": "/shared", "volume_name": volume}
    stack.want(
        ["Network", "net", {"name": network}],
        stack.box(
            "box",
            command=["sh", "-c", trap],
            init=False,
            volumes=[shared],
            networks_advanced=[{"name": network, "aliases": ["server"]}],
            destroy_grace_seconds=10,
        ),
        stack.box(
            "ask",
            command=["sh", "-c", ask],
            attach=True,
            logs=True,
            must_run=False,
            networks_advanced=[{"name": network}],
        ),
    )
    stack.up()
    answer = stack.outputs("ask")
    started = time.monotonic()
    stack.project.ok("destroy", "--yes", "--skip-preview")
    assert time.monotonic() - started < 25
    assert answer["exitCode"] == 0, answer
    assert "server" in answer["containerLogs"]
    read = stack.engine.containers.run(
        BASE, ["cat", "/shared/word"], volumes=[f"{volume}:/shared"], remove=True
    )
    assert read == b"ended\n"


def test_an_engine_that_is_not_there_is_named(stack: Stack, cli: PulumiCli) -> None:
    if cli.docker_folder is None:
        pytest.skip("the official plugin has its own words")
    stack.project.environment["DOCKER_HOST"] = "unix:///nowhere/docker.sock"
    stack.want(["Volume", "disk", {"name": stack.name("disk")}])
    assert "the Docker engine at unix:///nowhere/docker.sock cannot be reached" in stack.fails()


def test_without_python_the_stand_in_says_what_to_do(tmp_path: Path, cli: PulumiCli) -> None:
    if cli.docker_folder is None:
        pytest.skip("the official plugin is no script")
    done = subprocess.run(
        [cli.docker_folder / "pulumi-resource-docker", "127.0.0.1:1"],
        cwd=tmp_path,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "next: make the virtual environment (make setup), or set LETTA_OPS_PYTHON" in done.stderr
