"""From Letta 0.13.0 to 0.16.8 with real data: rehearsed, applied, rolled back, sabotaged on the way."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from backups.contents import read_tables
from backups.manifest import Table
from infra.embedded.release import install, installed
from infra.files import held
from infra.stack.locations import cache_folder
from infra.stack.releases import RELEASES
from tests.live.kept import ASIDE, OF_A_START
from tests.live.machine import LETTA_OPS, Machine, Stack, kill_tree, wait_until
from tests.live.seeding import Seeded, Server, seed

OLD, NEW = RELEASES["0.13.0"], RELEASES["0.16.8"]
LAST = "1c28e167b74f"  # the last revision on the way
TO = ("--to", NEW.version)
# An interpreter that the tests can forbid to run a server.
PYTHON = """#!/bin/sh
case "$*" in *letta.main:app*) if {rule}; then exit 1; fi;; esac
exec "{real}" "$@"
"""
pytestmark = pytest.mark.target("local", reason="it migrates a database of this machine")


@dataclass(frozen=True)
class House:
    """A stack of the old release with data, and a cache whose new release tests may break."""

    stack: Stack
    seeded: Seeded
    source: Path
    python: Path

    @property
    def content(self) -> dict[str, Table]:
        with self.stack.administrator() as link:
            found = read_tables(link)
        # What a server that starts writes, is its own.
        own = ("jobs", "alembic_version", *OF_A_START)
        return {
            name: table
            for name, table in found.items()
            if not name.startswith(ASIDE) and name.partition(".")[2] not in own
        }

    @property
    def release(self) -> str:
        return str(self.stack.json("status")["server"]["version"])

    def databases(self) -> set[str]:
        with self.stack.administrator("postgres") as link:
            rows = link.execute("SELECT datname FROM pg_database WHERE datname LIKE 'letta%'")
            return {str(name) for (name,) in rows}


@pytest.fixture(scope="module")
def house(machine: Machine, interpreter: Path) -> Iterator[House]:
    """A cache of its own, which leads to the real one: but the new release's scripts and its interpreter
    are its own, so that they can be broken."""
    own = Path(machine.root, "cache")
    (own / "releases").mkdir(parents=True)
    own.chmod(0o755)
    real = installed(NEW, cache_folder(), interpreter)
    install(NEW, cache_folder(), interpreter, print)
    install(OLD, cache_folder(), interpreter, print)
    for place in cache_folder().iterdir():
        if place.name not in ("releases", "sources"):
            (own / place.name).symlink_to(place)
    old = installed(OLD, cache_folder(), interpreter).folder
    (own / "releases" / old.name).symlink_to(old)
    mine = own / "releases" / real.folder.name
    shutil.copytree(real.folder, mine, ignore=shutil.ignore_patterns("venv"))
    (mine / "venv" / "bin").mkdir(parents=True)
    python = mine / "venv" / "bin" / "python"
    python.write_text(PYTHON.format(real=real.python, rule="false"))
    python.chmod(0o755)
    stack = replace(machine, extra={**machine.extra, "LETTA_OPS_CACHE": str(own)}).stack("migrate")
    stack.up("--no-smoke", "--config", f"release={OLD.version}")
    yield House(stack, seed(stack.deployment, messages=2, passages=2), mine / "source", python)
    stack.run("destroy", "--delete-data", "--yes")


@contextmanager
def altered(path: Path, text: str, mode: int = 0o644) -> Iterator[None]:
    """The file with other content."""
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    path.write_text(text)
    path.chmod(mode)
    try:
        yield
    finally:
        path.unlink()
        kept.rename(path)


@contextmanager
def sabotaged(house: House, statement: str) -> Iterator[None]:
    """The new release, whose last revision also does this."""
    (script,) = (house.source / "alembic" / "versions").glob(f"{LAST}_*.py")
    before = script.read_text()
    begin = before.index("def upgrade() -> None:")
    body = before.index("\n", begin) + 1
    with altered(script, f"{before[:body]}    {statement}\n{before[body:]}"):
        yield


def test_an_older_stack_says_where_it_stands(house: House) -> None:
    status = house.stack.json("migrate", "status")
    assert status["state"] == "current"
    assert status["revision"] == status["head"] == OLD.alembic_head
    plan = house.stack.json("migrate", "plan", *TO)
    assert len(plan["pending"]) == 26
    assert plan["pending"][-1]["id"] == NEW.alembic_head
    assert {each["verdict"] for each in plan["preflight"]} <= {"ok", "warning"}
    assert plan["rehearsal"] is None
    assert any("conversations" in each for each in plan["breaks"])


def test_no_other_schema_is_gone_to_without_being_asked(house: House) -> None:
    """Neither by a line of the configuration, which is not kept, nor without a rehearsal, nor back."""
    stack = house.stack
    asked = ("--config", f"release={NEW.version}")
    for words in (["up", *asked], ["preview", *asked], ["up", "--config", "release=0.11.7"]):
        assert stack.json(*words, code=1)["error"]["code"] == "migration-needed"
    assert stack.json("migrate", "apply", *TO, "--yes", code=1)["error"]["code"] == "not-rehearsed"
    for line, code in (
        ("plan --to 0.11.7", "release-older"),
        (f"plan --to {OLD.version}", "nothing-to-migrate"),
        ("plan --to 9.9.9", "release-unknown"),
        ("rollback --dry-run", "nothing-to-roll-back"),
    ):
        assert stack.json("migrate", *line.split(), code=1)["error"]["code"] == code
    assert stack.json("up", "--no-smoke")["changes"].keys() <= {"same"}
    assert house.release == OLD.version


@pytest.mark.long
def test_a_rehearsal_finds_what_a_revision_empties(house: House) -> None:
    """One column of one table, which no revision is known to change."""
    before, pid = house.content, house.stack.pid("letta")
    with sabotaged(house, "op.execute(\"UPDATE block SET value = ''\")"):
        answer = house.stack.json("migrate", "rehearse", *TO, code=1)
    assert answer["error"]["code"] == "rehearsal-failed"
    differences = {
        (each["table"], each["column"]): each["what"]
        for each in answer["comparison"]["differences"]
        if each["revision"] is None
    }
    assert list(differences) == [("block", "value")]
    assert "values before, 0 after" in differences["block", "value"]
    assert house.content == before
    assert house.stack.pid("letta") == pid
    refused = house.stack.json("migrate", "apply", *TO, "--yes", code=1)
    assert refused["error"]["code"] == "not-rehearsed"


@pytest.mark.long
@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("op.execute(\"DELETE FROM messages WHERE role = 'user'\")", "content-differs"),
        ("raise RuntimeError('half-way')", "migration-failed"),
        ("import os; os.kill(os.getpid(), 9)", "migration-failed"),
        ('op.execute("SELECT pg_terminate_backend(pg_backend_pid())")', "migration-failed"),
    ],
)
def test_a_migration_that_goes_wrong_leaves_the_old_release_with_its_data(
    house: House, statement: str, code: str
) -> None:
    before = house.content
    with sabotaged(house, statement):
        answer = house.stack.run("--json", "migrate", "apply", *TO, "--yes", "--without-rehearsal")
    assert answer.code == 1, answer.out
    assert answer.json["error"]["code"] == code
    _is_as_before(house, before)


@pytest.mark.long
def test_a_release_that_does_not_start_leaves_the_old_one_with_its_data(house: House) -> None:
    before = house.content
    text = house.python.read_text().replace("if false", "if true")
    with altered(house.python, text, 0o755):
        answer = house.stack.run("--json", "migrate", "apply", *TO, "--yes", "--without-rehearsal")
    assert answer.code == 1, answer.out
    _is_as_before(house, before)


@pytest.mark.long
@pytest.mark.parametrize("line", [b"the copy is migrated", b"is started", b"profile: updat"])
def test_a_machine_that_loses_power_comes_back_with_the_old_release(
    house: House, tmp_path: Path, line: bytes
) -> None:
    """Nothing of it is left running, neither the guard; `up` puts it right, and then brings it up."""
    stack, before = house.stack, house.content
    log = tmp_path / "apply.log"
    child = stack.machine.start(
        LETTA_OPS, "--stack", stack.name, "migrate", "apply", *TO, "--yes", "--without-rehearsal",
        "--no-smoke", log=log,
    )  # fmt: skip
    wait_until(line.decode(), partial(_says, log, line), 200)
    time.sleep(random.uniform(0, 2))  # noqa: S311  # any moment will do
    for process in psutil.process_iter(["cmdline"]):
        if {"backups.restoring.guard", stack.name} <= set(process.info["cmdline"] or ()):
            process.kill()
    kill_tree(child)
    for process in stack.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    stack.json("up", "--no-smoke")
    if house.release == NEW.version:  # it was done by then
        stack.json("migrate", "rollback", "--yes", "--no-smoke")
    _is_as_before(house, before)


@pytest.mark.parametrize("times", [pytest.param(each, marks=pytest.mark.long) for each in (1, 50)])
@pytest.mark.timeout(5400)
def test_whoever_is_killed_leaves_one_release_whole(
    house: House, tmp_path: Path, times: int
) -> None:
    """`kill -9` at random moments between the stop and the proof: the guard goes back by itself."""
    stack, before = house.stack, house.content
    for number in range(times):
        log = tmp_path / f"{number}.log"
        child = stack.machine.start(
            LETTA_OPS, "--stack", stack.name, "migrate", "apply", *TO, "--yes",
            "--without-rehearsal", "--no-smoke", log=log,
        )  # fmt: skip
        wait_until("the server is stopped", partial(_says, log, b"is stopped"), 120)
        time.sleep(random.uniform(0, 15))  # noqa: S311  # the moment is what is tried
        kill_tree(child)
        wait_until("somebody has put it right", stack.is_at_rest, 300)
        if house.release == NEW.version:  # it was done by then
            stack.json("migrate", "rollback", "--yes", "--no-smoke")
        _is_as_before(house, before)


def test_it_is_applied_with_everything_and_rolled_back(house: House) -> None:
    """What is written since is archived before it is set aside."""
    stack, before = house.stack, house.content
    assert stack.json("migrate", "rehearse", *TO, "--fresh")["passed"] is True
    assert stack.json("migrate", "plan", *TO)["rehearsal"]["passed"] is True
    with held(stack.folder.lock, "somebody else"):
        assert stack.json("migrate", "apply", *TO, "--yes", code=1)["error"]["code"] == "locked"
    done = stack.json("migrate", "apply", *TO, "--yes")
    assert done["from"] == OLD.version
    assert done["to"] == NEW.version
    assert done["comparison"]["passed"] is True
    assert done["comparison"]["counts"]["agents"] == len(house.seeded.agents)
    assert not [each for each in done["comparison"]["differences"] if not each["revision"]]
    assert 0 < done["down_seconds"] < done["seconds"]
    assert house.release == NEW.version
    status = stack.json("migrate", "status")
    assert status["state"] == "current"
    assert status["migrations"][0]["command"] == "migrate apply"
    again = stack.json("migrate", "apply", *TO, "--yes", code=1)
    assert again["error"]["code"] == "nothing-to-migrate"
    agent, other, third = house.seeded.agents
    server = Server(stack.deployment)
    shown = server.call("GET", f"/v1/agents/{agent}?include=agent.secrets")
    assert [each["value"] for each in shown["secrets"]] == ["secret-0"]
    assert server.say(agent, "Hello from the new release")["messages"]
    stack.json("registry", "link", "--app", "shop", "cart-1", other)
    refused = stack.json("migrate", "rollback", code=1)
    assert "nobody can be asked" in refused["error"]["message"]
    plan = stack.json("migrate", "rollback", "--dry-run")
    assert {each["agent"] for each in plan["written_since"]} == {agent, other}  # which is marked
    back = stack.json("migrate", "rollback", "--yes", "--no-smoke")
    assert Path(back["archived"]).is_file()
    _is_as_before(house, before)
    assert back["kept"] in house.databases()
    assert {other, third} <= {each["id"] for each in stack.json("agent", "list")}
    assert stack.json("registry", "get", "--app", "shop", "cart-1")["letta_agent_id"] == other


def _is_as_before(house: House, before: dict[str, Table]) -> None:
    assert house.release == OLD.version
    now = house.content
    assert {name for name in now if now[name] != before.get(name)} == set()
    assert now.keys() == before.keys()
    assert house.stack.json("migrate", "status")["revision"] == OLD.alembic_head
    assert house.stack.run("smoke").code == 0
    assert not house.databases() & {"letta_restoring", "letta_older"}


def _says(log: Path, words: bytes) -> bool:
    return words in log.read_bytes()
