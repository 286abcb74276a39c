"""The docker target: images, provisioning, what its proxy costs and what a second server gains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median

import httpx

from benchmarks.provisioning import ups
from benchmarks.stage import Figure, summary
from infra.api import authorized_http
from infra.stack.deployment import Deployment
from infra.targets.docker.engine.client import engine
from tests.live.machine import Machine

MESSAGES = 60
CLIENTS = 8
REQUESTS = 160
BODY = {"messages": [{"role": "user", "content": "hello"}]}
AGENT = {
    "name": "bench",
    "model": "openai-proxy/fake",
    "embedding": "openai/text-embedding-3-small",
    "message_buffer_autoclear": True,  # every message is as long as the first
}


def measure(machine: Machine) -> Iterator[Figure]:
    theirs = replace(machine, target="docker")
    try:
        yield from ups(theirs, "docker: ", (None, None))
        yield from _images()
        yield from _latency(machine, theirs)
        yield from _replicas(theirs)
    finally:
        theirs.clean()


def _images() -> Iterator[Figure]:
    with engine() as client:
        found = {
            tag: image
            for image in client.images.list()
            for tag in image.tags
            if tag.startswith("letta-ops/")
        }
        # The newest of each: older ones may lie about.
        by_age = sorted(found, key=lambda tag: str(found[tag].attrs["Created"]))
        newest = {tag.partition(":")[0]: tag for tag in by_age}
        for name, tag in sorted(newest.items()):
            size = found[tag].attrs["Size"] / 1000**2
            yield Figure(f"image {name}", size, "MB")
        letta = newest["letta-ops/letta"]
        listing = client.containers.run(
            letta, ["du", "-sm", "/opt/letta", "/usr", "/opt/letta-ops"], remove=True, entrypoint=[]
        )
        parts = ", ".join(" ".join(reversed(row.split())) for row in listing.decode().splitlines())
        yield Figure("image letta-ops/letta, its parts", 1, "", None, f"MiB: {parts}")


def _latency(local: Machine, theirs: Machine) -> Iterator[Figure]:
    ours = local.stack("latency")
    ours.up("--no-smoke")
    docker = theirs.stack("bench")
    times: tuple[list[float], list[float]] = ([], [])
    with (
        authorized_http(ours.deployment) as first,
        authorized_http(docker.deployment) as second,
    ):
        agents = [_agent(client) for client in (first, second)]
        for _ in range(MESSAGES):
            for client, agent, seconds in zip((first, second), agents, times, strict=True):
                started = time.perf_counter()
                _say(client, agent)
                seconds.append(time.perf_counter() - started)
    yield Figure(
        "one message on docker, against local",
        median(times[1]) / median(times[0]),
        "x",
        None,
        f"docker {summary(times[1])}; local {summary(times[0])}",
    )
    ours.destroy("--delete-data")


def _replicas(machine: Machine) -> Iterator[Figure]:
    """Eight clients with an agent each, on one server and then on two."""
    stack = machine.stack("bench")
    rates = []
    for count in (1, 2):
        stack.run("--json", "up", "--no-smoke", "--config", f"server.replicas={count}")
        rates.append(_rate(stack.deployment))
    yield Figure(
        f"two servers against one, messages a second of {CLIENTS} clients",
        rates[1] / rates[0],
        "x",
        None,
        f"one {rates[0]:.1f}/s, two {rates[1]:.1f}/s",
    )


def _rate(deployment: Deployment) -> float:
    with authorized_http(deployment) as client:
        agents = [_agent(client) for _ in range(CLIENTS)]

    def talk(agent: str) -> None:
        with authorized_http(deployment) as own:
            for _ in range(REQUESTS // CLIENTS):
                _say(own, agent)

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(talk, agents))
    return REQUESTS / (time.perf_counter() - started)


def _agent(client: httpx.Client) -> str:
    answer = client.post("/v1/agents/", json=AGENT)
    answer.raise_for_status()
    return str(answer.json()["id"])


def _say(client: httpx.Client, agent: str) -> None:
    client.post(f"/v1/agents/{agent}/messages", json=BODY).raise_for_status()
