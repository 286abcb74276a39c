"""Stacks for the live tests: real Pulumi, real Postgres, real Letta, ports and folders of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.machine import Machine, Stack


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """A state folder that the services' accounts can reach; with a space, as in people's paths."""
    root = Path(tempfile.mkdtemp(prefix="letta-ops test-"))
    root.chmod(0o755)
    made = Machine(root)
    yield made
    made.clean()


@pytest.fixture(scope="session")
def stack(machine: Machine) -> Stack:
    """The stack that most tests share: up once, never broken on purpose, removed at the end."""
    made = machine.stack("shared")
    outcome = made.up()
    assert outcome["smoke"]["passed"] is True
    return made


@pytest.fixture(scope="module")
def own_stack(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack for the tests of one module that kill, change or destroy it."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    made = machine.stack(name)
    made.up("--no-smoke")
    yield made
    made.run("destroy", "--delete-data", "--yes")


@pytest.fixture(scope="session")
def interpreter(stack: Stack) -> Path:
    """The Python that the stacks' services run with: their accounts must be able to."""
    from infra.accounts import service_account, service_python

    return service_python(service_account(stack.folder, "server"))
