"""From PostgreSQL 16 to 18 with real data: rehearsed, applied, rolled back, sabotaged on the way."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

from backups.contents import read_tables
from backups.manifest import Table
from infra.embedded.cluster import major_of
from infra.files import held
from tests.live.kept import ASIDE, OF_A_START
from tests.live.machine import LETTA_OPS, Machine, Stack, kill_tree, wait_until
from tests.live.seeding import Seeded, Server, seed

TO = ("--postgres", "18")
BOLD = (*TO, "--yes", "--without-rehearsal")
# Nothing can be said to an agent on the new version alone.
ONLY_ON_NEW = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF current_setting('server_version_num')::int >= 170000 THEN RAISE 'not here'; END IF;
  RETURN new;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION refuse()
"""
# Numbers of things in the catalog: what pg_upgrade can't take along.
NOT_TO_BE_UPGRADED = "CREATE TABLE numbers (of_function regproc)"
pytestmark = pytest.mark.target("local", reason="there is one version of Postgres in containers")


class House:
    """A stack on the old version, with data."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.seeded: Seeded = seed(stack.deployment, messages=2, passages=2)

    @property
    def content(self) -> dict[str, Table]:
        with self.stack.administrator() as link:
            found = read_tables(link)
        own = ("jobs", *OF_A_START)  # what a server that starts writes
        return {
            name: table
            for name, table in found.items()
            if not name.startswith(ASIDE) and name.partition(".")[2] not in own
        }

    @property
    def clusters(self) -> set[str]:
        return {path.name for path in self.stack.folder.data.glob("postgres*")}

    @property
    def major(self) -> str:
        """Of what serves, which is what is in the place."""
        with self.stack.administrator("postgres") as link:
            serves = str(link.info.server_version // 10_000)
        assert serves == major_of(self.stack.folder.postgres_data)
        return serves

    @property
    def configuration(self) -> Path:
        return self.stack.machine.root / "stacks" / f"Pulumi.{self.stack.name}.yaml"

    @property
    def configured(self) -> str:
        settings = yaml.safe_load(self.configuration.read_text())["config"]
        return str(settings["letta-ops:database.postgres"])

    def is_as_before(self, before: dict[str, Table]) -> None:
        assert self.major == "16"
        now = self.content
        assert {name for name in now if now[name] != before.get(name)} == set()
        assert now.keys() == before.keys()
        assert self.configured == "16"
        assert self.stack.run("smoke").code == 0
        assert not self.clusters & {"postgres.upgrading", "postgres.older"}
        assert not (self.stack.folder.root / "restore.json").exists()
        assert self.stack.json("up", "--no-smoke")["changes"].keys() == {"same"}


@pytest.fixture(scope="module")
def house(machine: Machine) -> Iterator[House]:
    stack = machine.stack("major")
    stack.up("--no-smoke", "--config", "database.postgres=16")
    yield House(stack)
    stack.run("destroy", "--delete-data", "--yes")


@pytest.fixture
def sabotaged(house: House, request: pytest.FixtureRequest) -> Iterator[None]:
    with house.stack.administrator() as link:
        link.execute(request.param)
    yield
    with house.stack.administrator() as link:
        link.execute("DROP TABLE IF EXISTS numbers; DROP FUNCTION IF EXISTS refuse CASCADE")


def test_it_is_applied_with_everything_and_rolled_back(house: House) -> None:
    """What is written since is archived before it is set aside; links of agents come along."""
    stack, before = house.stack, house.content
    status = stack.json("migrate", "status")["postgres"]
    assert (status["version"].partition(".")[0], status["newer"]) == ("16", ["18"])
    assert stack.json("migrate", "apply", *TO, "--yes", code=1)["error"]["code"] == "not-rehearsed"
    rehearsed = stack.json("migrate", "rehearse", *TO, "--fresh")
    assert rehearsed["passed"] is True
    assert rehearsed["postgres"] == "18"
    assert rehearsed["comparison"]["counts"]["agents"] == len(house.seeded.agents)
    with stack.administrator() as link:
        link.execute("SELECT pg_create_physical_replication_slot('somebody')")
        link.execute("ALTER SYSTEM SET work_mem = '5MB'")
    plan = stack.json("migrate", "plan", *TO)
    assert plan["rehearsal"]["passed"] is True
    verdicts = {each["name"]: each["verdict"] for each in plan["preflight"]}
    assert set(verdicts.values()) <= {"ok", "warning"}
    assert verdicts["slots"] == "warning"
    with held(stack.folder.lock, "somebody else"):
        assert stack.json("migrate", "apply", *TO, "--yes", code=1)["error"]["code"] == "locked"

    done = stack.json("migrate", "apply", *TO, "--yes")
    assert (done["of"], done["from"], done["to"]) == ("PostgreSQL", "16", "18")
    assert done["comparison"]["rows"] >= rehearsed["comparison"]["rows"] > 0
    assert 0 < done["down_seconds"] < done["seconds"]
    assert house.major == "18"
    assert house.content == before
    assert house.clusters == {"postgres", "postgres.previous"}
    with stack.administrator() as link:
        assert link.execute("SHOW work_mem").fetchone() == ("5MB",)
    assert house.configured == "18"
    assert stack.json("up", "--no-smoke")["changes"].keys() == {"same"}
    again = stack.json("migrate", "apply", *TO, "--yes", code=1)
    assert again["error"]["code"] == "nothing-to-migrate"
    findings = {each["name"]: each for each in stack.run("--json", "check").json["findings"]}
    assert "postgres.previous" in findings["kept"]["summary"]
    refused = stack.json("secret", "rotate", "encryption-key", "--yes", code=1)
    assert refused["error"]["code"] == "databases-kept"  # the cluster that is kept has the old one

    agent, other, third = house.seeded.agents
    assert Server(stack.deployment).say(agent, "Hello from the new version")["messages"]
    stack.json("registry", "link", "--app", "shop", "cart-1", other)
    stack.json("secret", "rotate", "database-password", "--yes")  # the old cluster has another one
    plan = stack.json("migrate", "rollback", "--dry-run")
    assert {each["agent"] for each in plan["written_since"]} == {agent, other}  # which is marked
    back = stack.json("migrate", "rollback", "--yes", "--no-smoke")
    assert Path(back["archived"]).is_file()
    assert back["kept"] in house.clusters
    assert stack.json("registry", "get", "--app", "shop", "cart-1")["letta_agent_id"] == other
    assert {other, third} <= {each["id"] for each in stack.json("agent", "list")}
    house.is_as_before(before)
    told = {each["command"] for each in stack.json("audit", "list")}
    assert {"migrate apply", "migrate rollback"} <= told


@pytest.mark.long
@pytest.mark.parametrize(
    ("sabotaged", "code"),
    [(NOT_TO_BE_UPGRADED, "postgres-upgrade-failed"), (ONLY_ON_NEW, "smoke-failed")],
    indirect=["sabotaged"],
    ids=["upgrade", "proof"],
)
@pytest.mark.usefixtures("sabotaged")
def test_what_goes_wrong_leaves_the_old_version_with_its_data(house: House, code: str) -> None:
    before = house.content
    answer = house.stack.run("--json", "migrate", "apply", *BOLD)
    assert answer.code == 1, answer.out
    assert answer.json["error"]["code"] == code
    assert "back at PostgreSQL 16, with all its data, and was proven" in answer.err
    house.is_as_before(before)


@pytest.mark.long
def test_what_could_not_be_brought_up_again_is_not_stopped(house: House) -> None:
    """The configuration needs a variable that this shell doesn't have."""
    stack, before, pids = house.stack, house.content, house.stack.pids("postgres", "letta")
    written = house.configuration.read_text()
    with house.configuration.open("a") as file:
        file.write("  letta-ops:server.environment.TOKEN: env:NOWHERE_TO_BE_FOUND\n")
    try:
        answer = stack.run("--json", "migrate", "apply", *BOLD)
    finally:
        house.configuration.write_text(written)
    assert answer.code == 1, answer.out
    assert "NOWHERE_TO_BE_FOUND" in answer.out
    assert stack.pids("postgres", "letta") == pids
    house.is_as_before(before)


@pytest.mark.long
def test_a_restore_since_is_not_undone_with_it(house: House) -> None:
    stack, before = house.stack, house.content
    stack.json("migrate", "apply", *BOLD, "--no-smoke")
    stack.json("backup", "restore", "latest", "--yes", "--no-smoke")
    refused = stack.json("migrate", "rollback", "--yes", code=1)
    assert refused["error"]["code"] == "other-database"
    stack.json("backup", "restore", "--undo", "--yes", "--no-smoke")
    stack.json("migrate", "rollback", "--yes", "--no-smoke")
    house.is_as_before(before)


@pytest.mark.long
@pytest.mark.parametrize("line", [b"the cluster is copied", b"copy was made", b"18 is started"])
def test_a_machine_that_loses_power_comes_back_with_the_old_version(
    house: House, tmp_path: Path, line: bytes
) -> None:
    """Nothing of it is left running, neither the guard; `up` puts it right, and then brings it up."""
    stack, before = house.stack, house.content
    child = _applied(stack, tmp_path / "apply.log", line)
    for process in psutil.process_iter(["cmdline"]):
        if {"backups.restoring.guard", stack.name} <= set(process.info["cmdline"] or ()):
            process.kill()
    kill_tree(child)
    for process in stack.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    stack.json("up", "--no-smoke")
    _rolled_back_if_done(house)
    house.is_as_before(before)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_whoever_is_killed_leaves_one_cluster_whole(house: House, tmp_path: Path) -> None:
    """`kill -9` at random moments between the stop and the proof: the guard goes back by itself."""
    stack, before = house.stack, house.content
    for number in range(20):
        kill_tree(_applied(stack, tmp_path / f"{number}.log", b"the cluster is copied"))
        wait_until("somebody has put it right", stack.is_at_rest, 300)
        _rolled_back_if_done(house)
        house.is_as_before(before)


def _applied(stack: Stack, log: Path, line: bytes) -> subprocess.Popen[bytes]:
    """The command, some seconds after it has said this."""
    child = stack.machine.start(
        LETTA_OPS, "--stack", stack.name, "migrate", "apply", *BOLD, "--no-smoke", log=log
    )
    wait_until(line.decode(), partial(_says, log, line), 200)
    time.sleep(random.uniform(0, 12 if b"copied" in line else 3))  # noqa: S311  # any moment will do
    return child


def _rolled_back_if_done(house: House) -> None:
    if house.major == "18":
        house.stack.json("migrate", "rollback", "--yes", "--no-smoke")


def _says(log: Path, words: bytes) -> bool:
    return words in log.read_bytes()
