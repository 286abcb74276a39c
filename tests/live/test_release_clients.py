"""The release's own tests of its SDK pass against a stack, but for those listed here with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from uv import find_uv_bin

from tests.live.machine import Machine
from tests.live.stack import Stack

# A file, what stands in it, and what it says of this stack: its password and its models.
PATCHES = (
    ("test_client.py", "anthropic/claude-haiku-4-5", "openai-proxy/gpt-4o-mini"),
    ("test_client.py", '"openai/gpt-4o-mini"', '"openai-proxy/gpt-4o-mini"'),
    (
        "test_client.py",
        "httpx.post(",
        'httpx.Client(headers={"Authorization": "Bearer " + os.environ["LETTA_API_KEY"]}).post(',
    ),
    ("sdk/agents_test.py", "openai/gpt-4o-mini", "openai-proxy/gpt-4o-mini"),
    ("sdk/conftest.py", "openai/gpt-4o-mini", "openai-proxy/gpt-4o-mini"),
    (
        "sdk/mcp_servers_test.py",
        'llm_config=LLMConfig.default_config(model_name="gpt-4o-mini")',
        'model="openai-proxy/gpt-4o-mini"',
    ),
    (
        "sdk/mcp_servers_test.py",
        'embedding_config=EmbeddingConfig.default_config(provider="openai")',
        'embedding="openai/text-embedding-3-small"',
    ),
)
ASKS = "asks in words for a tool, which a model that thinks would call"
TURBOPUFFER = "searches in Turbopuffer, a service that a stack has no account of"
EMPTY = "has no case in it: nothing of this kind can be upserted"
NOT_PASSED = {
    "test_client.py": {
        "test_agent_tags": "expects tags that only the makers' hosted front end sets",
        "test_function_always_error": ASKS,
        "test_shared_blocks": "tells a name, which a model that thinks would write into a block",
    },
    "sdk": {
        "test_mcp_add_tool_with_agent": ASKS,
        "test_mcp_complex_schema_tool_with_agent": ASKS,
        "test_mcp_echo_tool_with_agent": ASKS,
        "test_mcp_multiple_tools_in_sequence_with_agent": ASKS,
        "test_message_search_basic": TURBOPUFFER,
        "test_passage_search_basic": TURBOPUFFER,
        "test_passage_search_org_wide": TURBOPUFFER,
        "test_passage_search_pagination": TURBOPUFFER,
        "test_passage_search_with_date_filters": TURBOPUFFER,
        "test_passage_search_with_tags": TURBOPUFFER,
        "test_tool_search_basic": TURBOPUFFER,
        "test_upsert[NOTSET]": EMPTY,
    },
}
RUNNERS = ("pytest", "pytest-asyncio", "pytest-order")


@pytest.fixture(scope="module")
def clients(machine: Machine) -> Iterator[Stack]:
    made = machine.stack("clients")
    made.up("--no-smoke", "--config", "server.mcp_stdio=true")
    yield made
    made.discard()


@pytest.fixture(scope="module")
def release(clients: Stack) -> Iterator[Path]:
    """The release's tests, patched, and what runs them in the versions that its lock names."""
    source = _python(clients).parents[2] / "source"
    # The server starts a program that lies there: its account must be able to read it, and Letta
    # splits arguments at blanks, which the machine's folder has.
    folder = Path(tempfile.mkdtemp(prefix="letta-ops-clients-"))
    folder.chmod(0o755)
    shutil.copytree(source / "tests", folder / "tests")
    for name, old, new in PATCHES:
        file = folder / "tests" / name
        text = file.read_text()
        assert old in text, f"{name} has no {old}"
        file.write_text(text.replace(old, new))
    locked = tomllib.loads((source / "uv.lock").read_text())["package"]
    versions = {each["name"]: each["version"] for each in locked if each["name"] in RUNNERS}
    subprocess.run(
        [find_uv_bin(), "pip", "install", "--quiet", "--target", folder / "runner",
         "--python", _python(clients), *(f"{name}=={versions[name]}" for name in RUNNERS)],
        check=True, timeout=300,
    )  # fmt: skip
    yield folder
    shutil.rmtree(folder)


def _python(stack: Stack) -> Path:
    """The interpreter that the server runs with: the release's tests import it, too."""
    return Path(psutil.Process(stack.pid("letta")).cmdline()[0])


@pytest.mark.long
@pytest.mark.target("local", reason="they clear tables, and start programs of this machine")
@pytest.mark.parametrize("suite", list(NOT_PASSED))
def test_the_releases_own_tests_pass(clients: Stack, release: Path, suite: str) -> None:
    report = release / "report.xml"
    ran = subprocess.run(
        [_python(clients), "-m", "pytest", "-c", "pytest.ini", "--rootdir", ".", "-p", "no:cacheprovider",
         "-q", "--tb=short", f"--junitxml={report}", suite],
        cwd=release / "tests",
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(release),
            "PYTHONPATH": f"{release / 'runner'}:{release}:{release / 'tests' / 'sdk'}",
            "LETTA_SERVER_URL": clients.deployment.server.url,
            "LETTA_API_KEY": clients.run("secret", "show", "server-password").out.strip(),
            "LETTA_PG_URI": clients.server_settings()["LETTA_PG_URI"],
        },
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout + ran.stderr  # all were run, some failed
    cases = ElementTree.parse(report).iter("testcase")  # noqa: S314 - by the run above
    not_passed = {case.get("name") for case in cases if len(case)}
    assert not_passed == set(NOT_PASSED[suite]), ran.stdout + ran.stderr
