"""Fills a Letta server of any release with what a migration must not lose, through its API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra.api import authorized_http
from infra.stack.deployment import Deployment

SHARED = "What both of them know: the ferry leaves at noon."
TOOL = '''
def roll_dice(sides: int) -> str:
    """Roll one.

    Args:
        sides (int): How many sides it has.

    Returns:
        str: What came.
    """
    return str(sides)
'''


@dataclass(frozen=True)
class Seeded:
    """What was made, by its ids."""

    agents: tuple[str, ...]
    block: str
    tool: str


def configurations(model: dict[str, Any]) -> dict[str, Any]:
    """A model as a server lists it, and the embedding of the same place: any release takes them so."""
    return {
        "llm_config": model,
        "embedding_config": {
            "embedding_model": "text-embedding-3-small",
            "embedding_endpoint_type": "openai",
            "embedding_endpoint": model["model_endpoint"],
            "embedding_dim": 1536,
            "embedding_chunk_size": 300,
        },
    }


class Server:
    """Plain requests: a client library is made for one release."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.models = {
            each["handle"]: each for each in self.call("GET", "/v1/models/") if each.get("handle")
        }

    def call(self, method: str, path: str, body: Any = None) -> Any:
        with authorized_http(self.deployment, 120.0) as client:
            answer = client.request(method, path, json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def make(self, name: str, **more: Any) -> str:
        model = self.models["openai-proxy/fake"]
        body = {"name": name, **configurations(model), **more}
        return str(self.call("POST", "/v1/agents/", body)["id"])

    def say(self, agent: str, text: str) -> Any:
        body = {"messages": [{"role": "user", "content": text}]}
        return self.call("POST", f"/v1/agents/{agent}/messages", body)


def seed(deployment: Deployment, messages: int = 4, passages: int = 4) -> Seeded:
    """Make agents of several kinds, with a shared block, a tool, secrets, an identity, a group, history
    and archival memory."""
    server = Server(deployment)
    block = server.call("POST", "/v1/blocks/", {"label": "shared", "value": SHARED})["id"]
    tool = server.call("POST", "/v1/tools/", {"source_code": TOOL})["id"]
    person = {"identifier_key": "person-1", "name": "A person", "identity_type": "user"}
    identity = server.call("POST", "/v1/identities/", person)["id"]
    agents = []
    for number, kind in enumerate(("memgpt_v2_agent", "react_agent", "memgpt_agent")):
        agent = server.make(
            f"seeded-{number}",
            agent_type=kind,
            block_ids=[block],
            memory_blocks=[
                {"label": "human", "value": f"Human {number}: Zoë, naïve, 東京, \N{GRINNING FACE}"},
                {"label": "persona", "value": "I keep what I am told.\nAlso lines."},
            ],
            tool_ids=[tool],
            identity_ids=[identity],
            tags=["seeded", f"kind:{kind}"],
            tool_exec_environment_variables={"TOKEN": f"secret-{number}"},
        )
        for count in range(messages):
            server.say(agent, f"Message {count} to agent {number}")
        for count in range(passages):
            server.call(
                "POST",
                f"/v1/agents/{agent}/archival-memory",
                {"text": f"Passage {count} of agent {number}: the {count}th lighthouse is red."},
            )
        agents.append(agent)
    server.call(
        "POST",
        "/v1/groups/",
        {"agent_ids": agents[:2], "description": "two of them",
         "manager_config": {"manager_type": "round_robin", "max_turns": 2}},
    )  # fmt: skip
    return Seeded(tuple(agents), str(block), str(tool))
