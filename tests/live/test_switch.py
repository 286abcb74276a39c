"""Changes that don't hurt: the old server serves until the new one has proven itself."""

from __future__ import annotations

import pytest

from infra.api import authorized_http
from infra.targets.docker.engine.client import engine
from tests.live.clients import AGENT, servers, talking
from tests.live.docker_stack import START_SECONDS, DockerStack
from tests.live.machine import Machine, Stack

pytestmark = pytest.mark.target("docker", reason="a local stack restarts its one server")


@pytest.fixture(scope="module")
def served(own_stack: Stack) -> DockerStack:
    assert isinstance(own_stack, DockerStack)
    return own_stack


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
            "--config", "server.start_seconds=900",  # nobody waits for one that ends again and again
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
    back = ("server.environment.LETTA_REDIS_PORT=", f"server.start_seconds={START_SECONDS}")
    served.json("up", "--no-smoke", *(word for key in back for word in ("--config", key)))
    assert servers(served) == before


@pytest.mark.long
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


@pytest.mark.long
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
