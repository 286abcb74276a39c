"""Clients that talk to a docker stack while it is changed, and what they look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from infra.api import authorized_http
from tests.live.docker_stack import DockerStack
from tests.live.machine import Stack, wait_until

# Warnings of `check` that say nothing about a switch.
KNOWN = [word for name in ("release", "restarts", "backup") for word in ("--acknowledge", name)]
AGENT = {
    "name": "talker",
    "model": "openai-proxy/fake",
    "embedding": "openai/text-embedding-3-small",
    "memory_blocks": [],
    "include_base_tools": False,
}


class Clients(threading.Thread):
    """Clients that go on talking: every answer that isn't a good one is kept."""

    def __init__(self, stack: Stack, *, retries: int = 0) -> None:
        super().__init__(daemon=True)
        self.deployment = stack.deployment
        self.retries = retries
        self.answers = 0
        self.failures: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        with authorized_http(self.deployment) as kept:
            agent = kept.post("/v1/agents/", json=AGENT).json()["id"]
            path = f"/v1/agents/{agent}/messages"
            message = {"messages": [{"role": "user", "content": "hello"}]}
            while not self.over.is_set():
                self._ask(kept, "GET", "/v1/agents/?limit=5")
                self._ask(kept, "POST", path, message)
                self._ask(kept, "POST", f"{path}/stream", message)
                with authorized_http(self.deployment) as fresh:
                    self._ask(fresh, "GET", "/v1/agents/count")
                time.sleep(0.02)
            kept.delete(f"/v1/agents/{agent}")

    def _ask(self, client: httpx.Client, method: str, path: str, body: Any = None) -> None:
        for left in reversed(range(self.retries + 1)):
            try:
                answer = client.request(method, path, json=body)
                if answer.status_code == 200:
                    self.answers += 1
                    return
                failure = f"{method} {path}: {answer.status_code} {answer.text[:200]}"
            except httpx.HTTPError as error:
                failure = f"{method} {path}: {error!r}"
            if not left:
                self.failures.append(failure)


@contextmanager
def talking(stack: Stack, *, retries: int = 0) -> Iterator[Clients]:
    clients = Clients(stack, retries=retries)
    clients.start()
    wait_until("clients talk", lambda: clients.answers > 5)
    try:
        yield clients
    finally:
        clients.over.set()
        clients.join(60)


def servers(stack: DockerStack) -> list[str]:
    return [str(found["Name"]).lstrip("/") for found in stack.containers("letta")]


def is_back(stack: DockerStack, killed: dict[str, Any]) -> bool:
    now = stack.container("letta")["State"]
    return bool(now["StartedAt"] != killed["StartedAt"] and now["Health"]["Status"] == "healthy")
