"""Every command in the documents is run, in order, in a checkout of the tests' own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.api import api
from tests.live.machine import ROOT, Stack, free_ports

# `make test` in the README is what runs this very test.
LEFT_OUT = {"make test"}
EXAMPLE = ROOT / "docs" / "example.af"
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
OF_DOCKER = pytest.mark.target("docker", reason="the document is about containers")
MARKS = {
    "docs/docker.md": [OF_DOCKER, pytest.mark.long],
    "docs/agents.md": [pytest.mark.long],
    "docs/backup.md": [pytest.mark.long],
    "docs/come-in.md": [
        pytest.mark.long, pytest.mark.target("local", reason="it comes in the same way everywhere"),
    ],
    "docs/configuration.md": [pytest.mark.long],
    "docs/drill.md": [pytest.mark.long],
    "docs/exit.md": [pytest.mark.long],
    "docs/move-agents.md": [pytest.mark.long],
    "docs/pulumi.md": [pytest.mark.long],
    "docs/rotate-secrets.md": [pytest.mark.long],
    "docs/upgrade.md": [
        pytest.mark.long, pytest.mark.target("local", reason="it migrates a database of this machine"),
    ],
}  # fmt: skip
# What has to be so before a document's first command.
UNPACK = "import lzma, sys; sys.stdout.buffer.write(lzma.decompress(sys.stdin.buffer.read()))"
BEFORE = {
    "docs/upgrade.md": "letta-ops up --no-smoke --config release=0.16.7\n",
    "docs/come-in.md": f"python3 -c '{UNPACK}' <tests/live/sqlite-0.11.7.db.xz >sqlite.db\n",
}
CASES = [pytest.param(each, marks=MARKS.get(each, [])) for each in DOCUMENTS]


@pytest.fixture(scope="module")
def checkout(own_stack: Stack) -> Iterator[Path]:
    """A copy of the files under version control, with this stack's configuration among them."""
    copy = own_stack.machine.root / "checkout"
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listing.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
            # Older than the environment, or `make` would set up the real one anew, for this copy.
            os.utime(copy / name, (0, 0))
    (copy / ".venv").symlink_to(ROOT / ".venv")
    configuration = own_stack.machine.root / "stacks" / f"Pulumi.{own_stack.name}.yaml"
    shutil.copy2(configuration, copy / "infra" / "stacks")
    with api(own_stack.deployment) as client:  # as an application does
        alice = {"identifier_key": "alice", "name": "Alice", "identity_type": "user"}
        client.post("/v1/identities/", cast_to=object, body=alice)
    yield copy
    # Beside encrypted backups, which some documents make, nobody else may make a plain one.
    shutil.rmtree(own_stack.machine.state / "backups", ignore_errors=True)


def blocks(document: str) -> list[str]:
    found = re.findall(
        r"^```sh\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL
    )
    return [block for block in found if block.strip() not in LEFT_OUT]


def joined(document: str) -> str:
    return "".join(blocks(document))


@pytest.mark.parametrize("document", CASES)
def test_every_command_of_a_document_works(document: str, checkout: Path, own_stack: Stack) -> None:
    commands = BEFORE.get(document, "") + joined(document)
    script = re.sub("--stack (local|docker)", f"--stack {own_stack.name}", commands)
    (port,) = free_ports(1)
    script = re.sub(r"server\.port=\d+", f"server.port={port}", script)
    # Removing the key would mean the default port, which may be a stack of this machine's user.
    own = own_stack.ports["server.port"]
    script = re.sub(r"server\.port=$", f"server.port={own}", script, flags=re.MULTILINE)
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    answer = own_stack.machine.run(
        "sh", "-euxc", script,
        cwd=checkout,
        environment={
            "PATH": path,
            "LETTA_OPS_STACK": own_stack.name,
            "LETTA_OPS_STACKS": str(checkout / "infra" / "stacks"),
        },
    )  # fmt: skip
    assert answer.code == 0, answer.out + answer.err
    assert "Traceback" not in answer.out + answer.err


def test_the_documents_have_commands_to_run() -> None:
    assert sum(len(blocks(document)) for document in DOCUMENTS) > 10


@pytest.mark.target("local", reason="the release is installed on this machine only there")
def test_the_example_is_one_of_lettas_own_agent_files(interpreter: Path) -> None:
    """Of Letta 0.16.8, as its source distribution holds it."""
    from infra.embedded.release import installed
    from infra.stack.locations import cache_folder
    from infra.stack.releases import RELEASES

    source = installed(RELEASES["0.16.8"], cache_folder(), interpreter).source
    file = "test_basic_agent_with_blocks_tools_messages_v2.af"
    assert EXAMPLE.read_bytes() == (source / "tests" / "test_agent_files" / file).read_bytes()


def test_the_tour_a_real_agent_file_moves_in_answers_and_moves_out(
    own_stack: Stack, tmp_path: Path
) -> None:
    before = own_stack.json("status")["agents"]
    model = ["--model", "openai-proxy/fake", "--embedding", "openai/text-embedding-3-small"]
    answer = own_stack.json("agent", "import", str(EXAMPLE), "--name", "tourist", *model)
    (agent,) = answer["agents"]
    assert own_stack.json("status")["agents"] == before + 1
    with api(own_stack.deployment) as client:
        answer = client.agents.messages.create(
            agent["id"], messages=[{"role": "user", "content": "Good morning!"}]
        )
        assert "Good morning!" in str(answer.messages)
    target = tmp_path / "out.af"
    own_stack.json("agent", "export", agent["id"], "-o", str(target))
    text = target.read_text()
    assert "Good morning!" in text
    assert '"tourist"' in text
