"""An agent with something of everything, for tests of what comes along with one."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from infra.api import api
from tests.live.machine import Stack, wait_until

TOOL = '''
def {name}(thing: str) -> str:
    """Weigh a thing.

    Args:
        thing (str): What to weigh.
    """
    return "heavy"
'''
SECRET = "hush-hush-hush"
ANOTHER = "What was I told in the other talk?"


@dataclass(frozen=True)
class Rich:
    """`id` and what else of it tests name."""

    id: str
    name: str
    block: str
    archive: str
    conversation: str


def rich_agent(stack: Stack) -> Rich:
    """Make one through the API: blocks, a tool, tags, a secret, an identity, passages, files, and two
    conversations with messages."""
    mark = uuid.uuid4().hex[:8]
    name = f"rich-{mark}"
    model = stack.deployment.model
    with api(stack.deployment) as client:
        tool = client.tools.create(source_code=TOOL.format(name=f"weigh_{mark}"))
        block = client.blocks.create(label="house", value=f"House {mark} is closed on Mondays.")
        agent = client.agents.create(
            name=name,
            model=model.handle,
            embedding=model.embedding,
            include_base_tools=False,
            tool_ids=[tool.id],
            block_ids=[block.id],
            memory_blocks=[{"label": "human", "value": f"Person {mark} likes tea."}],
            tags=["rich", mark],
            secrets={"TOKEN": SECRET},
        )
        for text in ("The cellar is damp.", "The roof leaks."):
            client.agents.passages.create(agent.id, text=text)
        say(client, agent.id, "Hello")
        client.agents.blocks.update("human", agent_id=agent.id, value="Now it is coffee.")
        talk = client.conversations.create(agent_id=agent.id)
        for _ in client.conversations.messages.create(
            talk.id, messages=[{"role": "user", "content": "Another talk"}]
        ):
            pass
        folder = client.folders.create(name=f"papers-{mark}", embedding=model.embedding)
        client.folders.files.upload(
            folder.id, file=("note.txt", b"The key is under the mat. " * 20, "text/plain")
        )
        _until_embedded(client, folder.id)
        client.agents.folders.attach(folder.id, agent_id=agent.id)
        identity = {"identifier_key": mark, "name": "Person", "identity_type": "user"}
        owned = {"agent_ids": [agent.id], "block_ids": [block.id]}
        client.post("/v1/identities/", cast_to=object, body={**identity, **owned})
        archive = next(iter(client.agents.passages.list(agent.id))).archive_id
    return Rich(agent.id, name, block.id, str(archive), talk.id)


def say(client: Any, agent: str, text: str) -> list[str]:
    """Say something to an agent, and return what it answers."""
    answer = client.agents.messages.create(agent, messages=[{"role": "user", "content": text}])
    return [
        str(message.content)
        for message in answer.messages
        if message.message_type == "assistant_message"
    ]


def asked(stack: Stack, agent: str, text: str, nth: int) -> Any:
    """What reached the model in the agent's name when it was told `text` for the `nth` time: the messages
    of the request. Letta writes them down beside its answer."""
    found: list[Any] = []

    def written() -> bool:
        with stack.administrator() as link:
            rows = link.execute(
                "SELECT request_json FROM provider_traces WHERE agent_id = %s ORDER BY created_at",
                [agent],
            ).fetchall()
        requests = [row[0] if isinstance(row[0], dict) else json.loads(row[0]) for row in rows]
        found[:] = [each["messages"] for each in requests if text in json.dumps(each["messages"])]
        return len(found) >= nth

    wait_until("the request is written down", written)
    return found[nth - 1]


def _until_embedded(client: Any, folder: str) -> None:
    for _ in range(600):
        states = [file.processing_status for file in client.folders.files.list(folder)]
        if states and all(state in ("completed", "error") for state in states):
            assert states == ["completed"]
            return
        time.sleep(0.1)
    raise AssertionError("the file was not embedded")
