"""The lock and the audit trail in a real database, between processes that are really killed."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backups.catalog import deployment_id, read_object, write_object
from backups.lock import locked
from backups.lock_in_store import NAME
from backups.stores.folder import FolderStore
from infra.audit.log import Event, logged
from infra.audit.trail import SCHEMA, TABLE, append, carry_over, entries
from infra.errors import LettaOpsError
from infra.stack.deployment import OWNER_ROLE, Deployment
from infra.targets import host
from tests.live.machine import Stack, wait_until
from tests.live.test_agents import EXAMPLE, HANDLES

if TYPE_CHECKING:
    import psycopg

# Another operator: holds the lock until it is killed.
HOLD = """
import sys, threading
from pathlib import Path
from backups.lock import locked
from backups.stores.folder import FolderStore
from infra.stack.locations import stack_folder
from infra.stack.profile import load
with locked(load(stack_folder(sys.argv[1])), FolderStore(Path(sys.argv[2])), "backup create", print):
    print("held", flush=True)
    threading.Event().wait()
"""
SESSIONS = """
    SELECT pid, backend_xmin FROM pg_stat_activity
    WHERE application_name LIKE 'letta-ops %%@%%' AND state = 'idle in transaction'
"""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def said() -> list[str]:
    return []


@contextmanager
def holder(stack: Stack, store: FolderStore, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    child = stack.machine.start(sys.executable, "-c", HOLD, stack.name, store.root, log=log)
    try:
        wait_until("it is held", lambda: "held" in log.read_text() or child.poll() is not None, 60)
        assert child.poll() is None, log.read_text()
        yield child
    finally:
        child.kill()
        child.wait()


def of_another_machine(stack: Stack) -> Deployment:
    """The deployment as an operator has it who has only its profile; on docker also its engine."""
    return replace(stack.deployment, folder=None)


OPERATORS: list[Callable[[Stack], Deployment]] = [
    lambda stack: stack.deployment,
    of_another_machine,
]


@pytest.mark.parametrize("operator", OPERATORS, ids=["here", "elsewhere"])
@pytest.mark.parametrize("with_store", [True, False])
def test_the_second_operator_is_told_of_the_first(
    operator: Callable[[Stack], Deployment],
    with_store: bool,
    stack: Stack,
    store: FolderStore,
    said: list[str],
    tmp_path: Path,
) -> None:
    with holder(stack, store, tmp_path / "log") as first:
        with (
            pytest.raises(LettaOpsError) as caught,
            locked(operator(stack), store if with_store else None, "prune", said.append),
        ):
            pytest.fail("two at once")
        assert caught.value.code == "locked"
        for word in ("`backup create`", f"pid {first.pid}", "@", "since", "UTC"):
            assert word in caught.value.message


@pytest.mark.parametrize("operator", OPERATORS, ids=["here", "elsewhere"])
def test_after_kill_9_of_the_first_the_second_goes_on(
    operator: Callable[[Stack], Deployment],
    stack: Stack,
    store: FolderStore,
    said: list[str],
    tmp_path: Path,
) -> None:
    with holder(stack, store, tmp_path / "log") as first:
        first.kill()
        first.wait()
        with locked(operator(stack), store, "backup restore", said.append, wait=30) as lock:
            lock.ensure_held()
            assert json.loads(read_object(store, name_of(stack)))["purpose"] == "backup restore"
    assert any(f"its process {first.pid} is gone" in line for line in said), said
    assert list(store.entries()) == []


def test_a_holder_on_a_host_that_has_gone_is_known_by_the_database(
    stack: Stack, store: FolderStore, said: list[str], tmp_path: Path
) -> None:
    with holder(stack, store, tmp_path / "log") as first:
        first.kill()
    document = json.loads(read_object(store, name_of(stack)))
    write_object(store, name_of(stack), json.dumps({**document, "host": "gone-for-good"}))
    with locked(stack.deployment, store, "backup restore", said.append, wait=30) as lock:
        lock.ensure_held()
    assert any("gone-for-good" in line and "database's lock" in line for line in said), said


def test_up_and_a_backup_exclude_each_other(
    stack: Stack, store: FolderStore, tmp_path: Path
) -> None:
    with holder(stack, store, tmp_path / "log") as first:
        answer = stack.run("--json", "up", "--no-smoke")
        assert answer.code == 1
        assert answer.json["error"]["code"] == "locked"
        assert f"pid {first.pid}" in answer.json["error"]["message"]


def test_whose_session_ended_is_told_before_the_next_step(stack: Stack, said: list[str]) -> None:
    with locked(stack.deployment, None, "backup restore", said.append) as lock:
        lock.ensure_held()
        with administrator(stack) as link:
            ((pid, _),) = link.execute(SESSIONS).fetchall()
            link.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(LettaOpsError) as caught:
            lock.ensure_held()
        assert caught.value.code == "lock-lost"


def test_holding_it_holds_back_no_vacuum(stack: Stack, said: list[str]) -> None:
    with locked(stack.deployment, None, "backup create", said.append) as lock:
        lock.ensure_held()
        with administrator(stack) as link:
            ((_, oldest),) = link.execute(SESSIONS).fetchall()
        assert oldest is None


def test_the_database_can_be_let_go_of_alone(
    stack: Stack, store: FolderStore, said: list[str]
) -> None:
    with locked(stack.deployment, store, "backup restore", said.append) as lock:
        lock.release_database()
        with administrator(stack) as link:
            assert link.execute(SESSIONS).fetchall() == []
        lock.ensure_held()
        assert json.loads(read_object(store, name_of(stack)))["database"] is None


def test_a_database_that_is_down_leaves_the_lock_in_the_store(
    stack: Stack, store: FolderStore, said: list[str]
) -> None:
    found = stack.deployment.database
    assert found is not None
    elsewhere = {key: f"{value}-nowhere" for key, value in stack.deployment.placement.items()}
    down = replace(stack.deployment, database=replace(found, port=1), placement=elsewhere)
    with locked(down, store, "backup restore", said.append) as lock:
        lock.ensure_held()
        assert json.loads(read_object(store, name_of(stack)))["database"] is None
    assert "no lock in the database" in said[0]


@pytest.mark.long
def test_changes_are_in_the_database_where_its_reader_finds_them(
    stack: Stack, tmp_path: Path
) -> None:
    stack.json("up", "--no-smoke")
    (agent,) = stack.json("agent", "import", str(EXAMPLE), *HANDLES)["agents"]
    stack.json("agent", "import", str(EXAMPLE), "--model", "none/such", "--again", code=1)
    stack.json("preview")
    failed, imported, up = stack.json("audit", "list", "--limit", "3")
    assert [each["command"] for each in (failed, imported, up)] == [
        "agent import",
        "agent import",
        "up",
    ]
    assert (failed["result"], failed["detail"]["error"]) == ("failed", "model-unknown")
    assert (imported["result"], imported["detail"]["agents"]) == ("done", [agent["id"]])
    assert (up["result"], up["target"]) == ("done", stack.name)
    assert set(up) == {
        "id", "at", "who", "host", "command", "target", "result", "detail", "seconds",
    }  # fmt: skip
    with host(stack.deployment).session() as link:
        assert {uuid.UUID(each["id"]) for each in (failed, imported, up)} <= identifiers(link)
    assert [str(each.id) for each in logged(stack.folder, 3)] == [
        each["id"] for each in (failed, imported, up)
    ]


def test_a_table_that_letta_s_role_could_have_prepared_is_not_written_to(stack: Stack) -> None:
    """A trigger on it would run with the administrator's rights. What is missed is told later."""
    stack.json("up", "--no-smoke")
    here = stack.deployment
    with administrator(stack, "letta") as link:
        link.execute(f"ALTER TABLE {TABLE} OWNER TO {OWNER_ROLE}")
        try:
            missed = one_event(here)
            missing = append(here, missed)
        finally:
            link.execute(f"ALTER TABLE {TABLE} OWNER TO CURRENT_USER")
    assert missing is not None
    assert "does not belong to" in missing
    assert missed.id not in {each.id for each in entries(here, 5)}
    later = one_event(here)
    assert append(here, later) is None
    assert {missed.id, later.id} <= {each.id for each in entries(here, 5)}


def test_no_record_is_lost_when_an_older_database_is_restored(stack: Stack) -> None:
    both, since, there = (one_event(stack.deployment) for _ in range(3))
    with two_databases(stack) as (old, new):
        fill(stack, old, both, since)
        fill(stack, new, both, there)
        new.execute(f"ALTER TABLE {TABLE} OWNER TO {OWNER_ROLE}")
        new.execute(f"ALTER SCHEMA {SCHEMA} OWNER TO {OWNER_ROLE}")
        assert carry_over(old, new) == 1
        assert carry_over(old, new) == 0
        assert identifiers(new) == {both.id, since.id, there.id}
        assert identifiers(old) == {both.id, since.id}
        owner = new.execute("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'audit'")
        assert owner.fetchone() == ("postgres",)


def test_what_is_no_table_in_a_restored_database_gives_way_to_one(stack: Stack) -> None:
    """Whoever could write the database that is restored would have us run what they like."""
    record = one_event(stack.deployment)
    with two_databases(stack) as (old, new):
        fill(stack, old, record)
        new.execute(f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {OWNER_ROLE}")
        new.execute(f"CREATE VIEW {TABLE} AS SELECT 1 / (random() * 0) AS id")
        new.execute(f"ALTER VIEW {TABLE} OWNER TO {OWNER_ROLE}")
        assert carry_over(old, new) == 1
        assert identifiers(new) == {record.id}


def test_records_are_carried_over_into_a_database_that_has_none(stack: Stack) -> None:
    record = one_event(stack.deployment)
    with two_databases(stack) as (old, new):
        assert carry_over(old, new) == carry_over(None, new) == 0
        fill(stack, old, record)
        assert carry_over(old, new) == 1
        assert identifiers(new) == {record.id}


def name_of(stack: Stack) -> str:
    return f"{deployment_id(stack.deployment)}/{NAME}"


@contextmanager
def administrator(stack: Stack, name: str = "postgres") -> Iterator[psycopg.Connection[Any]]:
    with host(stack.deployment).administrator() as access, access.connect(name) as link:
        yield link


@contextmanager
def two_databases(
    stack: Stack,
) -> Iterator[tuple[psycopg.Connection[Any], psycopg.Connection[Any]]]:
    names = ("audit_old", "audit_new")
    with (
        host(stack.deployment).administrator() as access,
        access.connect(access.maintenance) as link,
    ):
        for name in names:
            link.execute(f"CREATE DATABASE {name}")
        try:
            with ExitStack() as opened:
                old, new = (opened.enter_context(access.connect(name)) for name in names)
                yield old, new
        finally:
            for name in names:
                link.execute(f"DROP DATABASE {name} WITH (FORCE)")


def fill(stack: Stack, link: psycopg.Connection[Any], *records: Event) -> None:
    found = stack.deployment.database
    assert found is not None
    there = replace(stack.deployment, database=replace(found, name=link.info.dbname))
    for record in records:
        assert append(there, record) is None


def identifiers(link: psycopg.Connection[Any]) -> set[uuid.UUID]:
    return {row[0] for row in link.execute(f"SELECT id FROM {TABLE}")}  # noqa: S608


def one_event(deployment: Deployment) -> Event:
    return Event("prune", deployment.stack, "done", dt.datetime.now(dt.UTC), 1.0)
