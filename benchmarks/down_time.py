"""How long a client gets no answer during a restore on docker, against a plain start of the server."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import httpx

from benchmarks.stage import Figure, summary
from infra.api import answers, authorized_http
from infra.stack.deployment import SERVICE_SERVER, Deployment
from infra.targets import host
from tests.live.kept import Kept, kept, make_agent
from tests.live.machine import Machine

ROUNDS = 3
PAUSE = 0.02  # seconds between a client's requests


def measure(machine: Machine) -> Iterator[Figure]:
    theirs = replace(machine, target="docker")
    with tempfile.TemporaryDirectory() as folder:
        try:
            stack = theirs.stack("down")
            stack.up("--no-smoke")
            place = kept(stack, Path(folder))
            make_agent(place.deployment, "bench")
            place.json("backup", "create")
            yield from _compare(place)
        finally:
            theirs.clean()


def _compare(place: Kept) -> Iterator[Figure]:
    starts: list[float] = []
    gaps: list[float] = []
    stopped: list[float] = []
    for _ in range(ROUNDS):
        starts.append(_start(place.deployment))
        for more, times in (((), gaps), (("--stop-first",), stopped)):
            with _client(place.deployment) as longest:
                place.json("backup", "restore", "latest", "--yes", "--no-smoke", *more)
            times.append(longest[0])
    yield Figure(
        "longest time without an answer during a restore on docker, of a server's start",
        median(gaps) / median(starts),
        "x",
        0.3,
        f"restore {summary(gaps)}; start {summary(starts)}; --stop-first {summary(stopped)}",
    )


def _start(deployment: Deployment) -> float:
    place = host(deployment)
    place.stop(SERVICE_SERVER)
    started = time.perf_counter()
    place.start(SERVICE_SERVER)
    while not answers(deployment):
        time.sleep(PAUSE)
    return time.perf_counter() - started


@contextmanager
def _client(deployment: Deployment) -> Iterator[list[float]]:
    """A client that asks all the time; yields a list whose one number is the longest that it waited from
    one good answer to the next, in seconds."""
    longest, over = [0.0], threading.Event()

    def ask() -> None:
        last = time.perf_counter()
        with authorized_http(deployment) as client:
            while not over.is_set():
                try:
                    good = client.get("/v1/agents/count").status_code == 200
                except httpx.HTTPError:
                    good = False
                now = time.perf_counter()
                longest[0] = max(longest[0], now - last)
                last = now if good else last
                time.sleep(PAUSE)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        yield longest
    finally:
        over.set()
        asking.join(30)
