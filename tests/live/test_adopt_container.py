"""Adopting a server that somebody runs in containers of his own: its environment leads to all of it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from infra.api import answers
from infra.sensitive import Sensitive
from infra.stack.deployment import Deployment
from infra.stack.deployment import Server as Serving
from infra.stack.releases import RELEASES
from infra.targets.docker.components.extras import FAKE_MODEL
from infra.targets.docker.engine.client import engine
from infra.targets.docker.images.recipes import BuildSettings, build
from infra.targets.docker.migrations import environment, run_alembic
from infra.targets.docker.names import MODEL_PORT, PYTHON, SERVER_PORT
from tests.live.docker_stack import BASE_VARIABLE
from tests.live.external_postgres import external
from tests.live.machine import Stack
from tests.live.seeding import Seeded, Server, seed

pytestmark = [pytest.mark.target("docker", reason="it is about containers"), pytest.mark.long]

RELEASE = RELEASES["0.16.8"]
BASE = os.environ.get(BASE_VARIABLE) or "letta-ops-base:trixie"
KEY, PASSWORD = "a key of their own", "a-password-of-theirs"
START_SECONDS = 180
SERVE = f"""
{PYTHON} {FAKE_MODEL} --host 127.0.0.1 --port {MODEL_PORT} &
exec {PYTHON} -c "from letta.main import app; app()" server --host 0.0.0.0 --port {SERVER_PORT}
"""


@dataclass(frozen=True)
class Home:
    """Two containers in a network of their own; `name` is the server's."""

    name: str
    seeded: Seeded


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    image = build("letta", RELEASE, BuildSettings(base=BASE), print)
    postgres = build("postgres", RELEASE, BuildSettings(base=BASE), print)
    with external(postgres, BASE, ("home",)) as found:
        found.make("home", "CREATE EXTENSION vector;")
        # Letta's own migrations take no other ones.
        found.sql("postgres", f"ALTER ROLE home PASSWORD '{PASSWORD}'")
        uri = f"postgresql://home:{PASSWORD}@{found.container}:5432/home"
        place = {"prefix": found.network, "image": image, "networks": [found.network]}
        run_alembic(place, environment(uri, Sensitive(KEY)), lambda _: None, "")
        name = f"their-letta-{secrets.token_hex(4)}"
        settings = {
            **environment(uri, Sensitive(KEY)),
            "OPENAI_API_KEY": "sk-a-key-of-theirs",
            "OPENAI_API_BASE": f"http://127.0.0.1:{MODEL_PORT}/v1",
        }
        with engine() as client:
            server = client.containers.run(
                image, entrypoint=["sh", "-euc", SERVE], command=[], name=name,
                network=found.network, environment=settings, healthcheck={"test": ["NONE"]},
                stop_signal="SIGKILL", detach=True,
            )  # fmt: skip
            try:
                yield Home(name, seed(_served(server, found.network), messages=2, passages=2))
            finally:
                server.remove(force=True, v=True)


def _served(container: Any, network: str) -> Deployment:
    container.reload()
    address = container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"]
    deployment = Deployment("home", "external", Serving(f"http://{address}:{SERVER_PORT}"))
    deadline = time.monotonic() + START_SECONDS
    while not answers(deployment):
        assert time.monotonic() < deadline, container.logs().decode()[-3000:]
        time.sleep(0.5)
    return deployment


def test_what_a_container_serves_is_adopted_by_its_name(own_stack: Stack, home: Home) -> None:
    words = ("migrate", "adopt", "--container", home.name)
    seen = own_stack.json(*words, "--dry-run")
    assert (seen["counts"]["agents"], seen["schema"]) == (3, "letta_tables")
    assert {"OPENAI_API_KEY", "OPENAI_API_BASE"} <= set(seen["settings"])
    assert own_stack.json(*words, "--yes", code=1)["error"]["code"] == "source-in-use"
    with engine() as client:
        client.containers.get(home.name).stop()
    answer = own_stack.run(*words, "--yes")
    assert answer.code == 0, answer.err
    assert f"docker stop {home.name}" in answer.out
    assert not [each for each in (PASSWORD, KEY, "sk-a-key") if each in answer.out + answer.err]
    server = Server(own_stack.deployment)
    for number, agent in enumerate(home.seeded.agents):
        shown = server.call("GET", f"/v1/agents/{agent}?include=agent.secrets")
        assert [each["value"] for each in shown["secrets"]] == [f"secret-{number}"]
        assert server.say(agent, "Are you still there?")["messages"]


def test_a_container_that_is_not_theirs_or_not_there_is_told(own_stack: Stack) -> None:
    for name, code in (
        ("none-of-this-name", "no-installation"),
        (_own(own_stack), "source-is-stack"),
    ):
        error = own_stack.json("migrate", "adopt", "--container", name, code=1)["error"]
        assert error["code"] == code


def _own(stack: Stack) -> str:
    from tests.live.docker_stack import DockerStack

    assert isinstance(stack, DockerStack)
    return str(stack.container("letta")["Name"]).lstrip("/")
