"""Tools of agents: what they require is installed for them, and they see what they saw without it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from letta_client import Letta

from infra.api import api
from tests.live.machine import Stack

NEEDED = ("grapheme", "pip", "setuptools", "wheel", "packaging")  # Letta asks for most each time

REQUIRES = '''\
def count_characters(text: str) -> str:
    """Count characters as people see them.

    Args:
        text (str): What is counted.
    """
    import os, sys, grapheme, httpx
    own = grapheme.__file__.startswith(sys.prefix)
    return f"{grapheme.length(text)} {own} {os.environ.get('WORD')} {httpx.__name__}"
'''
LACKS = REQUIRES.replace("count_characters", "never_counts").replace("grapheme", "no_such_module")


@pytest.fixture
def client(stack: Stack) -> Iterator[Letta]:
    with api(stack.deployment) as client:
        yield client


@pytest.fixture(scope="module")
def index(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables that have pip take real packages from a server of this machine: containers don't know
    the authorities that this machine may reach the package index with."""
    folder = tmp_path_factory.mktemp("packages")
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*fetch, *NEEDED], check=True, timeout=300)
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": f"http://{stack.this_machine}:{server.server_port}/",
            "PIP_TRUSTED_HOST": stack.this_machine,
        }
        server.shutdown()


def test_a_tool_has_the_packages_that_it_requires(client: Letta, index: dict[str, str]) -> None:
    tool = client.tools.create(source_code=REQUIRES, pip_requirements=[{"name": "grapheme"}])
    agent = client.agents.create(
        name="counter", model="openai-proxy/fake", embedding="openai/text-embedding-3-small",
        tool_ids=[tool.id], secrets={"WORD": "secret", **index},
    )  # fmt: skip
    try:
        for _ in range(2):
            said = client.agents.messages.create(
                agent.id,
                messages=[
                    {"role": "user", "content": 'call count_characters {"text": "e\\u0301a"}'}
                ],
            )
            (returned,) = [
                part for part in said.messages if part.message_type == "tool_return_message"
            ]
            assert returned.status == "success", returned
            assert "2 True secret httpx" in returned.tool_return
    finally:
        client.agents.delete(agent.id)
        client.tools.delete(tool.id)


def test_a_tool_whose_packages_cannot_be_had_fails_and_the_log_says_why(
    stack: Stack, client: Letta, index: dict[str, str]
) -> None:
    package = "no-such-package-of-letta-ops"
    tool = client.tools.create(source_code=LACKS, pip_requirements=[{"name": package}])
    agent = client.agents.create(
        name="left out", model="openai-proxy/fake", embedding="openai/text-embedding-3-small",
        tool_ids=[tool.id], secrets=index,
    )  # fmt: skip
    try:
        run = client.agents.tools.run("never_counts", agent_id=agent.id, args={"text": "a"})
        assert run.status == "error"
        assert "No module named 'no_such_module'" in "".join(run.stderr or [])
        assert f"No matching distribution found for {package}" in stack.run("logs").out
    finally:
        client.agents.delete(agent.id)
        client.tools.delete(tool.id)
