"""Git-backed memory of a real server: read while it runs, destroyed, put back, and worked with again."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from backups.manifest import Memory
from backups.sources.memory_files import MemoryPlace, read_memory, summarise
from infra.accounts import PLAIN, service_account
from infra.api import api
from infra.errors import LettaOpsError
from infra.targets.docker.engine.client import engine, own_containers
from infra.targets.docker.engine.execution import execute_with
from tests.live.docker_stack import DockerStack
from tests.live.machine import Machine, Stack, wait_until

# Any URL switches git memory on: the server that can be had keeps it in its home (its source,
# letta/services/memory_repo). An agent gets it by a tag.
SWITCH = "server.environment.LETTA_MEMFS_SERVICE_URL=http://127.0.0.1:9"
TAG = "git-memory-enabled"
pytestmark = pytest.mark.long  # a restore of memory is in test_restore, too
REPOSITORY = "$(echo .letta/memfs/repository/*/*/repo.git)"


@pytest.fixture(scope="module")
def remembering(machine: Machine) -> Iterator[Stack]:
    made = machine.stack("memory-files")
    made.up("--no-smoke", "--config", SWITCH)
    yield made
    made.run("destroy", "--delete-data", "--yes")


@pytest.fixture(scope="module")
def agent(remembering: Stack) -> str:
    model = remembering.deployment.model
    with api(remembering.deployment) as client:
        made = client.agents.create(
            name="remembers",
            model=model.handle,
            embedding=model.embedding,
            include_base_tools=False,
            memory_blocks=[{"label": "human", "value": "the first version"}],
            tags=[TAG],
        )
        return str(made.id)


def change(stack: Stack, agent: str, value: str) -> None:
    with api(stack.deployment) as client:
        blocks = client.agents.blocks.list(agent)
        block = next(block.id for block in blocks if block.label == "system/human")
        client.blocks.update(str(block), value=value)


def read(stack: Stack) -> tuple[bytes, Memory, list[str]]:
    told: list[str] = []
    with read_memory(stack.deployment, told.append) as tar:
        content = b"".join(tar)
    return content, tar.summary(), told


def in_home(stack: Stack, words: str) -> str:
    """What a shell says in the server's home, as the server's own account."""
    if isinstance(stack, DockerStack):
        name = str(stack.container("letta")["Name"]).lstrip("/")
        with engine() as client:
            answer = execute_with(client, name, ["sh", "-c", words])
        assert answer.code == 0, answer.stderr
        return answer.stdout.strip()
    account = service_account(stack.folder, "server")
    done = subprocess.run(
        ["sh", "-c", words],
        cwd=stack.folder.home,
        env=PLAIN,
        user=account.uid,
        group=account.gid,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def log(stack: Stack) -> list[str]:
    """What was committed, the newest first."""
    return in_home(stack, f"git --git-dir {REPOSITORY} log --format=%s main").splitlines()


def text(stack: Stack) -> str:
    return in_home(stack, f"git --git-dir {REPOSITORY} show main:system/human.md")


def test_memory_is_read_while_the_server_runs_destroyed_and_put_back(
    remembering: Stack, agent: str
) -> None:
    place = MemoryPlace.of(remembering.deployment)
    change(remembering, agent, "the second version")
    assert "the second version" in text(remembering)
    commits = log(remembering)
    tar, memory, told = read(remembering)
    assert told == []
    assert memory.repositories == 1
    assert summarise(io.BytesIO(tar)) == memory == place.digest()
    assert place.fsck() == []

    change(remembering, agent, "a version after the backup")
    in_home(remembering, f"cd {REPOSITORY} && rm $(ls objects/*/* | head -n 1)")
    damaged = place.digest()
    assert place.fsck() != []
    assert place.write([tar]) == memory
    assert place.fsck(restoring=True) == []
    assert place.digest(restoring=True) == memory
    assert not place.has_previous()

    remembering.stop("letta")
    place.swap()
    assert place.fsck() == []
    assert place.digest() == memory
    assert place.has_previous()
    place.undo()
    assert place.digest() == damaged
    assert place.fsck() != []
    place.swap()
    remembering.up("--no-smoke")

    wait_until("the server has it", lambda: "the second version" in text(remembering))
    assert log(remembering) == commits
    change(remembering, agent, "a version after the restore")
    assert "a version after the restore" in text(remembering)
    assert len(log(remembering)) == len(commits) + 1
    assert place.fsck() == []
    place.drop_previous()
    assert not place.has_previous()


def test_memory_is_reached_when_no_server_runs(remembering: Stack, agent: str) -> None:
    running = read(remembering)
    remembering.stop("letta")
    try:
        assert read(remembering) == running
    finally:
        remembering.up("--no-smoke")


def test_a_write_that_fails_changes_nothing_and_leaves_no_container(
    remembering: Stack, agent: str
) -> None:
    place = MemoryPlace.of(remembering.deployment)
    tar, memory, _ = read(remembering)

    def failing() -> Iterator[bytes]:
        yield tar[: len(tar) // 2]
        raise ConnectionResetError("the store has gone")

    with pytest.raises(ConnectionResetError):
        place.write(failing())
    for bad in (tar[: len(tar) // 2], tar + b"\0", b"", bytes(10_240)):
        with pytest.raises(LettaOpsError) as refusal:
            place.write([bad])
        assert refusal.value.code == "memory-damaged"
    assert place.digest() == memory
    assert jobs(remembering) == []


def test_a_read_that_nobody_finishes_ends(remembering: Stack, agent: str) -> None:
    with read_memory(remembering.deployment) as tar:
        assert next(iter(tar))
    assert jobs(remembering) == []


def test_a_link_in_the_place_of_memory_is_not_followed(remembering: Stack, agent: str) -> None:
    in_home(remembering, "cd .letta && mv memfs aside && ln -s /etc memfs")
    try:
        with pytest.raises(LettaOpsError) as refusal:
            read(remembering)
        assert refusal.value.code == "memory-files"
        assert "not a plain folder" in refusal.value.message
    finally:
        in_home(remembering, "cd .letta && rm memfs && mv aside memfs")


def jobs(stack: Stack) -> list[Any]:
    """What still runs of ours: a container, or a process with our script."""
    if isinstance(stack, DockerStack):
        with engine() as client:
            return own_containers(client, stack.names.prefix, "job-memory")
    import psutil

    script = str(stack.folder.script("memory.py"))
    return [
        each for each in psutil.process_iter(["cmdline"]) if script in (each.info["cmdline"] or [])
    ]
