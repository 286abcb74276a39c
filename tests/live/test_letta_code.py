"""Letta Code, which sends every message as a stream in the background, works with a stack as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.live.machine import Stack

PACKAGE = "@letta-ai/letta-code@0.25.9"
NODE = 20


def node_version() -> int:
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        return 0
    shown = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    return int(shown.removeprefix("v").partition(".")[0])


@pytest.mark.long
@pytest.mark.skipif(
    node_version() < NODE, reason=f"needs node {NODE} and npm: Letta Code is theirs"
)
def test_it_makes_an_agent_and_talks_to_it(stack: Stack, tmp_path: Path) -> None:
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(tmp_path)]
    subprocess.run([*install, PACKAGE], check=True, timeout=600)
    said = subprocess.run(
        [tmp_path / "node_modules" / ".bin" / "letta", "--new-agent", "--model", "openai-proxy/fake",
         "--output-format", "json", "-p", "What is the weather like?"],
        cwd=tmp_path,
        env={
            "PATH": f"{Path(shutil.which('node') or '').parent}:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "LETTA_BASE_URL": stack.deployment.server.url,
            "LETTA_API_KEY": stack.run("secret", "show", "server-password").out.strip(),
            "DISABLE_AUTOUPDATER": "1",
        },
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    answer = json.loads(said.stdout)
    assert (answer["is_error"], answer["num_turns"]) == (False, 1)
    assert answer["result"].startswith("The fake model heard")
    assert answer["agent_id"] in {agent["id"] for agent in stack.json("agent", "list")}
    stack.json("agent", "delete", answer["agent_id"], "--yes")
