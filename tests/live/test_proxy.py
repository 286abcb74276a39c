"""The proxy in front: several servers, certificates, answers in pieces."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from infra.api import authorized_http
from infra.targets.docker.engine.client import engine
from infra.targets.docker.names import LABEL_PREFIX
from tests.live.acme_authority import authority
from tests.live.clients import AGENT, KNOWN, is_back, servers, talking
from tests.live.docker_stack import DockerStack
from tests.live.machine import Stack, free_ports, wait_until

pytestmark = pytest.mark.target("docker", reason="only containers have a proxy in front")
HOST = "letta.test"


@pytest.fixture(scope="module")
def served(own_stack: Stack) -> DockerStack:
    assert isinstance(own_stack, DockerStack)
    return own_stack


@pytest.mark.long
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
    outcome = served.json(
        "up",
        *("--config", "tls.mode=internal"),
        *("--config", "server.replicas=1"),
        *("--config", "proxy.max_request=50"),
    )
    assert outcome["url"].startswith("https://localhost:")
    assert outcome["smoke"]["passed"] is True
    with authorized_http(served.deployment) as client:
        answer = client.get("/v1/agents/count")
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "nginx/" not in answer.headers.get("server", "")
        refused = client.post("/v1/agents/", content=b"x" * 51 * 1024**2)
        assert refused.status_code == 413
        assert "proxy.max_request" in refused.json()["detail"]
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
