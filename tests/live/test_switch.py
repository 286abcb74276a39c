"""Changes that don't hurt: the old server serves until the new one has proven itself."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from infra.api import authorized_http
from infra.targets.docker.engine.client import engine
from infra.targets.docker.names import LABEL_PREFIX
from tests.live.acme_authority import authority
from tests.live.docker_stack import DockerStack
from tests.live.machine import Machine, Stack, free_ports, wait_until

pytestmark = pytest.mark.target("docker", reason="a local stack restarts its one server")

HOST = "letta.test"
# Warnings of `check` that say nothing about a switch.
KNOWN = [word for name in ("release", "restarts", "backup") for word in ("--acknowledge", name)]
AGENT = {
    "name": "talker",
    "model": "openai-proxy/fake",
    "embedding": "openai/text-embedding-3-small",
    "memory_blocks": [],
    "include_base_tools": False,
}


@pytest.fixture(scope="module")
def served(own_stack: Stack) -> DockerStack:
    assert isinstance(own_stack, DockerStack)
    return own_stack


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


def test_a_changed_server_and_a_changed_proxy_drop_no_request(served: DockerStack) -> None:
    before = servers(served)
    with talking(served) as clients:
        served.json("up", "--no-smoke", "--config", "server.environment.MARK=one")
        served.json("up", "--no-smoke", "--config", "proxy.max_request=50")
    assert clients.failures == []
    assert clients.answers > 50
    assert len(servers(served)) == 1
    assert set(servers(served)).isdisjoint(before)


def test_a_server_that_does_not_start_leaves_the_old_one_serving(served: DockerStack) -> None:
    before = servers(served)
    password = served.deployment.server.password
    assert password is not None
    with talking(served) as clients:
        answer = served.run(
            "--json", "up", "--no-smoke",
            "--config", "server.environment.LETTA_REDIS_PORT=nonsense",
            "--config", "server.start_seconds=40",
        )  # fmt: skip
    assert answer.code == 1
    assert answer.json["error"]["code"] == "service-not-healthy"
    assert "redis_port" in answer.json["error"]["message"], "the last lines of its log"
    assert password.reveal() not in answer.out + answer.err
    assert clients.failures == []
    assert served.json("status")["server"]["healthy"] is True
    assert before[0] in servers(served)
    # It is stopped, and so doesn't try for ever; taking the change back makes nothing new.
    states = {found["Name"].lstrip("/"): found["State"]["Status"] for found in served.containers()}
    assert [states[name] for name in servers(served) if name not in before] == ["exited"]
    back = ("server.environment.LETTA_REDIS_PORT=", "server.start_seconds=")
    served.json("up", "--no-smoke", *(word for key in back for word in ("--config", key)))
    assert servers(served) == before


def test_a_provider_that_cannot_be_reached_is_not_switched_to(served: DockerStack) -> None:
    before = servers(served)
    error = served.json(
        "up", "--no-smoke", "--config", "providers.ollama.base_url=http://127.0.0.1:1",
        "--config", "model=fake", code=1,
    )["error"]  # fmt: skip
    assert error["code"] == "model-unreachable"
    assert "tcp" in error["message"]
    assert before[0] in servers(served)
    assert served.json("status")["server"]["healthy"] is True
    served.json("up", "--no-smoke", "--config", "providers.ollama.base_url=")
    assert servers(served) == before


@pytest.mark.long
def test_agents_keep_their_provider_when_the_new_address_is_wrong(served: DockerStack) -> None:
    """Letta asks the address that it has written into each agent: it moves with the switch only."""
    message = {"messages": [{"role": "user", "content": "hello"}]}
    with authorized_http(served.deployment) as client:
        agent = client.post("/v1/agents/", json=AGENT).json()["id"]
        error = served.json(
            "up", "--no-smoke", "--config", "model=none", "--config",
            "server.environment.OPENAI_BASE_URL=http://127.0.0.1:1/v1", "--config",
            "server.environment.OPENAI_API_KEY=none", code=1,
        )["error"]  # fmt: skip
        assert error["code"] == "model-unreachable"
        answer = client.post(f"/v1/agents/{agent}/messages", json=message)
        assert answer.status_code == 200, answer.text
        client.delete(f"/v1/agents/{agent}")
    keys = ("model", "server.environment.OPENAI_BASE_URL", "server.environment.OPENAI_API_KEY")
    served.json("up", "--no-smoke", *(word for key in keys for word in ("--config", f"{key}=")))


def test_what_was_changed_by_hand_is_shown_and_put_right(served: DockerStack) -> None:
    name = served.names.container("postgres")
    with engine() as client:
        client.containers.get(name).update(mem_limit="900m", memswap_limit="900m")
        client.containers.get(served.names.container("model")).stop()
    plan = served.json("preview", "--fail-on", "changes", code=1)
    assert plan["gate"] == {"fail_on": "changes", "passed": False}
    changed = {change["name"]: change["action"] for change in plan["resources"]}
    assert changed["postgres"] in ("update", "replace")
    assert changed["model-running"] == "update"
    served.json("up")
    assert served.container("postgres")["HostConfig"]["Memory"] == 1024 * 1024**2
    assert served.container("model")["State"]["Status"] == "running"
    assert served.json("preview", "--fail-on", "changes")["gate"]["passed"] is True


def test_a_lost_volume_is_never_replaced_by_an_empty_one(served: DockerStack) -> None:
    volume = served.names.volume("database")
    with served.data_elsewhere():
        error = served.json("up", code=1)["error"]
        assert error["code"] == "data-missing"
        with engine() as client:
            assert volume not in [each.name for each in client.volumes.list()]
            client.volumes.create(volume)
        assert served.json("up", code=1)["error"]["code"] == "data-missing", "it is empty"
        with engine() as client:
            client.volumes.get(volume).remove()
    served.json("up")


def test_another_stacks_volume_is_not_taken(machine: Machine, served: DockerStack) -> None:
    """A second stack with the same prefix finds a volume that isn't its own."""
    other = machine.stack("thief")
    prefix = served.names.prefix
    error = other.json(
        "up", *other.settings(), "--config", f"containers.prefix={prefix}", code=1
    )["error"]  # fmt: skip
    assert error["code"] in ("profile-lost", "data-foreign")
    assert served.json("status")["server"]["healthy"] is True


def test_two_servers_share_the_work_and_one_may_die(served: DockerStack) -> None:
    served.json("up", "--config", "server.replicas=2")
    assert len(servers(served)) == 2
    with authorized_http(served.deployment) as client:
        agent = client.post("/v1/agents/", json=AGENT).json()["id"]
        for number in range(6):
            text = f"message number {number}"
            body = {"messages": [{"role": "user", "content": text}]}
            answer = client.post(f"/v1/agents/{agent}/messages", json=body)
            assert answer.status_code == 200, answer.text
        found = client.get(f"/v1/agents/{agent}/messages", params={"limit": 100}).json()
        said = [row["content"] for row in found if row["message_type"] == "user_message"]
        assert [text for text in said if "message number" in text] == [
            f"message number {number}" for number in range(6)
        ]
        client.delete(f"/v1/agents/{agent}")
    with engine() as client:
        log = client.containers.get(served.names.container("proxy")).logs().decode()
    used = {line.rpartition(" ")[2] for line in log.splitlines() if f"{agent}/messages" in line}
    assert len(used) == 2, "both have answered"
    with talking(served, retries=1) as clients:
        killed = served.container("letta")["State"]
        served.kill("letta")
        wait_until("the killed server is back", lambda: is_back(served, killed), 180)
    assert clients.failures == []
    assert served.json("check", *KNOWN)


def test_tls_with_an_authority_of_its_own(served: DockerStack) -> None:
    outcome = served.json("up", "--config", "tls.mode=internal", "--config", "server.replicas=1")
    assert outcome["url"].startswith("https://localhost:")
    assert outcome["smoke"]["passed"] is True
    with authorized_http(served.deployment) as client:
        answer = client.get("/v1/agents/count")
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "nginx/" not in answer.headers.get("server", "")
        assert client.post("/v1/agents/", content=b"x" * 51 * 1024**2).status_code == 413
    with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
        httpx.get(f"{outcome['url']}/v1/health/", trust_env=False)
    report = served.json("check", *KNOWN)
    assert "certificate" in str(report)
    served.json("up", "--config", "tls.mode=off")


def test_events_are_streamed_one_by_one(served: DockerStack) -> None:
    """An answer that comes in pieces reaches the client in pieces, not at the end."""
    with authorized_http(served.deployment) as client:
        agent = client.post("/v1/agents/", json=AGENT).json()["id"]
        body = {
            "messages": [{"role": "user", "content": "hello " * 200}],
            "stream_tokens": True,
        }
        moments = []
        with client.stream("POST", f"/v1/agents/{agent}/messages/stream", json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            moments += [time.monotonic() for _ in answer.iter_raw()]
        client.delete(f"/v1/agents/{agent}")
    assert len(moments) > 2


@pytest.mark.long
def test_a_certificate_from_an_acme_authority(served: DockerStack, tmp_path: Path) -> None:
    """The authority asks the proxy by its name, which here only a network of their own knows."""
    (challenge,) = free_ports(1)
    with authority(served, tmp_path) as (directory, trusted):
        settings = {
            "tls.mode": "acme",
            "tls.host": HOST,
            "tls.email": "ops@example.org",
            "tls.acme_directory": directory,
            "tls.acme_ca": str(trusted),
            "tls.http_port": str(challenge),
        }
        words = [word for key, value in settings.items() for word in ("--config", f"{key}={value}")]
        served.json("up", "--no-smoke", *words)
        port = served.ports["server.port"]
        with named(served, HOST):
            wait_until("its certificate is served", lambda: "Pebble" in issuer(port), 180)
        plain = httpx.get(f"http://127.0.0.1:{challenge}/v1/agents/", trust_env=False)
        assert plain.status_code == 308, "the API is not served in the clear"
        assert plain.headers["location"].startswith("https://")
    back = [word for key in settings for word in ("--config", f"{key}=")]
    served.json("up", *back)


@contextmanager
def named(stack: DockerStack, host: str) -> Iterator[None]:
    """Let the authority find the proxy as `host`."""
    names = stack.names
    with engine() as client:
        network = client.networks.create(
            f"{names.prefix}-acme", labels={LABEL_PREFIX: names.prefix}
        )
        network.connect(names.container("proxy"), aliases=[host])
        network.connect(f"{names.prefix}-acme")
    try:
        yield
    finally:
        with engine() as client:
            network = client.networks.get(f"{names.prefix}-acme")
            for each in (names.container("proxy"), f"{names.prefix}-acme"):
                network.disconnect(each)
            network.remove()


def issuer(port: int) -> str:
    """Who signed the certificate that is served on `port` of this machine."""
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=5)
    return x509.load_pem_x509_certificate(pem.encode()).issuer.rfc4514_string()
