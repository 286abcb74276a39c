"""Stacks for the live tests: real Pulumi, real Postgres, real Letta, ports and folders of their own.

The same tests run on each target, one target a run (`LETTA_OPS_TEST_TARGET`). What can hold on one
of them only says so with `@pytest.mark.target`, and is left out of the runs on others.

`make test` proves what is the same code on both targets once, on `local` (`LETTA_OPS_TEST_MATRIX=once`);
`make test-all` runs every body on each.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.api import api
from tests.live.docker_stack import DockerStack
from tests.live.machine import Machine, Stack, chosen_target

# They make containers of their own: once is enough.
OF_DOCKER = ("test_containers.py", "test_external.py", "test_images.py", "test_supabase.py")
# What stands above the port is proven on `local`; the port itself, by its contract, on every target.
ALSO_ON_DOCKER = (
    "test_port.py",
    "test_tools.py",
    "test_a_drill_passes_is_kept_beside_the_backup_and_touches_nothing_alive",
    "test_one_agent_comes_out_of_a_backup_while_the_server_serves",
    "test_the_release_judges_files_before_anything_is_sent",
)
# Files that take longest come first, so that no worker has one of them left when others are done.
HEAVIEST_FIRST = (
    "test_standby.py", "test_supabase.py", "test_switch.py", "test_external.py", "test_proxy.py",
    "test_registry.py", "test_restore.py", "test_migrate.py", "test_backup_faults.py",
    "test_documents.py", "test_archives.py", "test_agents.py", "test_backup.py",
    "test_letta_scope.py", "test_rotate.py", "test_lost_data.py", "test_shared_databases.py",
    "test_two_stacks.py", "test_from_sqlite.py", "test_schedule.py", "test_hardening.py",
    "test_images.py", "test_changes.py", "test_security.py", "test_lock.py",
    "test_archived_memory.py", "test_errors.py", "test_interruptions.py", "test_extensions.py",
    "test_memory_files.py", "test_engine_errors.py",
)  # fmt: skip
# They leave the stack of their own as they found it, or remove it: the next one of them has it, too.
SHARING = (
    "adopt", "adopt-container", "changes", "documents", "errors", "from-sqlite", "interruptions",
    "kept-format", "rotate", "security", "two-stacks",
)  # fmt: skip
MATRIX_VARIABLE = "LETTA_OPS_TEST_MATRIX"


class _ToldAtOnce:
    """Names each failure when it happens: a run of hours may be ended before its summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            reason = report.longreprtext.strip().splitlines()[-1:]
            terminal = self._config.get_terminal_writer()
            terminal.line(f"\n{report.when} failed: {report.nodeid}: {''.join(reason)}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_ToldAtOnce(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen, here = chosen_target(), Path(__file__).parent
    left_out = [
        item
        for item in items
        if here in item.path.parents
        and (_target(item) not in (None, chosen) or _proven_on_local(item, chosen))
    ]
    config.hook.pytest_deselected(items=left_out)
    left = [item for item in items if item not in left_out]
    items[:] = sorted(left, key=_place)


def _place(item: pytest.Item) -> int:
    name = item.path.name
    return HEAVIEST_FIRST.index(name) if name in HEAVIEST_FIRST else len(HEAVIEST_FIRST)


def _target(item: pytest.Item) -> str | None:
    """The one target that the test is for, or None."""
    marker = item.get_closest_marker("target")
    if marker is not None:
        assert marker.kwargs.get("reason"), f"{item.nodeid}: a test of one target says why"
        return str(marker.args[0])
    return "docker" if item.path.name in OF_DOCKER else None


def _proven_on_local(item: pytest.Item, chosen: str) -> bool:
    """Whether the run on `local` is enough for it, here."""
    once = os.environ.get(MATRIX_VARIABLE) == "once"
    name = item.name.partition("[")[0]
    also = item.path.name in ALSO_ON_DOCKER or name in ALSO_ON_DOCKER
    return once and chosen == "docker" and _target(item) != chosen and not also


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
    # What has just begun is not ended to begin it anew: that took a minute.
    if made.target == "local":
        assert "to stop" not in made.folder.log("supervisord").read_text()
    return made


@pytest.fixture(scope="module")
def own_stack(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack for the tests of one module that kill, change or destroy it."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    if name in SHARING:
        yield _as_new(request.getfixturevalue("second_stack"))
        return
    made = machine.stack(name)
    made.up("--no-smoke")
    yield made
    if made.folder.root.exists():
        made.discard()


@pytest.fixture(scope="session")
def second_stack(machine: Machine) -> Stack:
    """One that modules have after each other; made anew when one of them has removed it."""
    return machine.stack("second")


def _as_new(stack: Stack) -> Stack:
    (stack.machine.root / "stacks" / f"Pulumi.{stack.name}.yaml").unlink(missing_ok=True)
    stack.up("--no-smoke")
    with api(stack.deployment) as client:
        for agent in client.agents.list():
            client.agents.delete(agent.id)
    return stack


@pytest.fixture(scope="session")
def containers(stack: Stack) -> DockerStack:
    """The shared stack, for the tests that are about the target docker only."""
    assert isinstance(stack, DockerStack)
    return stack


@pytest.fixture(scope="session")
def interpreter(stack: Stack) -> Path:
    """The Python that the stacks' services run with: their accounts must be able to."""
    from infra.accounts import service_account, service_python

    return service_python(service_account(stack.folder, "server"))
