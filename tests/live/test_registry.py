"""An application's agents, on a real server: one each, whoever races, dies or restores."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from infra.api import api
from infra.stack.deployment import postgres_uri
from infra.targets import host
from letta_ops.registry import AgentGone, NoLink, Registry
from letta_ops.registry.links import OF_KEY, Key
from tests.live.machine import LETTA_OPS, ROOT, Stack

RUNS_HERE = pytest.mark.target("local", reason="its Postgres listens on this machine")
TEMPLATE = """\
system: You help {customer}. Be brief.
blocks:
  - {label: persona, value: "I serve {app_agent_id}."}
tags: [gold]
"""


@pytest.fixture
def stack(own_stack: Stack) -> Stack:
    return own_stack


@pytest.fixture
def app() -> str:
    """An application that no other test has."""
    return f"app-{uuid.uuid4().hex[:8]}"


def url_of(stack: Stack) -> str:
    database = stack.deployment.database
    assert database is not None
    return postgres_uri(database, database.owner, "sslmode=disable").reveal()


def agents_of(stack: Stack, key: Key) -> list[Any]:
    with api(stack.deployment) as client:
        return list(client.agents.list(tags=[key.tag]))


def delete_agent(stack: Stack, identifier: str) -> None:
    with api(stack.deployment) as client:
        client.agents.delete(identifier)


def password_of(stack: Stack) -> str:
    password = stack.deployment.server.password
    return password.reveal() if password else ""


def environment_of(stack: Stack) -> dict[str, str]:
    return {
        **os.environ,
        "REGISTRY": url_of(stack),
        "LETTA": stack.deployment.server.url,
        "PASSWORD": password_of(stack),
    }


@dataclass
class Caller:
    """A process that asks for agents."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, stack: Stack, **more: str) -> Caller:
        return cls(
            subprocess.Popen(
                [sys.executable, "-m", "tests.live.registry_caller"],
                cwd=ROOT, env=environment_of(stack) | more, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
        )  # fmt: skip

    def ask(self, identifier: str) -> None:
        with suppress(BrokenPipeError):
            self._in.write(f"{identifier}\n")
            self._in.flush()

    def answer(self) -> str:
        return self._out.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def _in(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def _out(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout


@contextmanager
def callers(stack: Stack, count: int) -> Iterator[list[Caller]]:
    made = [Caller.start(stack) for _ in range(count)]
    try:
        for each in made:
            assert each.answer() == "ready"
        yield made
    finally:
        for each in made:
            each.end()


def race(stack: Stack, count: int, rounds: int, kills: int) -> None:
    """Let `count` processes ask for one id at once, again and again; in `kills` of the rounds one of
    them is killed while it does. Each round has one agent, and all who live are told the same."""
    deadly = set(random.sample(range(rounds), kills))
    with callers(stack, count) as all_of_them:
        for number in range(rounds):
            identifier = f"{uuid.uuid4()}"
            for each in all_of_them:
                each.ask(identifier)
            victim = random.randrange(count) if number in deadly else None  # noqa: S311  # a test's
            if victim is not None:
                all_of_them[victim].kill()
            answers = {each.answer() for place, each in enumerate(all_of_them) if place != victim}
            assert len(answers) == 1, answers
            (agent,) = agents_of(stack, Key("race", identifier))
            assert answers == {agent.id}
            if victim is not None:
                all_of_them[victim].end()
                all_of_them[victim] = Caller.start(stack)
                assert all_of_them[victim].answer() == "ready"
            delete_agent(stack, agent.id)


@RUNS_HERE
def test_one_agent_is_made_however_many_ask_and_whoever_is_killed(stack: Stack) -> None:
    stack.json("registry", "list")
    race(stack, count=8, rounds=5, kills=2)


@RUNS_HERE
@pytest.mark.long
def test_one_agent_is_made_in_a_hundred_races_of_fifty(stack: Stack) -> None:
    stack.json("registry", "list")
    race(stack, count=50, rounds=100, kills=20)


@RUNS_HERE
def test_an_agent_of_somebody_who_was_killed_before_linking_it_is_found(stack: Stack) -> None:
    stack.json("registry", "list")
    identifier = str(uuid.uuid4())
    dead = Caller.start(stack, DIES_AT="created")
    assert dead.answer() == "ready"
    dead.ask(identifier)
    assert dead.process.wait(60) == -signal.SIGKILL
    dead.end()
    (made,) = agents_of(stack, Key("race", identifier))
    found = stack.json("registry", "ensure", identifier, "--app", "race")
    assert (found["letta_agent_id"], found["outcome"]) == (made.id, "found")
    assert len(agents_of(stack, Key("race", identifier))) == 1


def test_two_command_lines_at_once_make_one_agent(stack: Stack, app: str, tmp_path: Path) -> None:
    words = ("--stack", stack.name, "--json", "registry", "ensure", "one", "--app", app)
    logs = [tmp_path / f"{number}.log" for number in range(4)]
    running = [stack.machine.start(LETTA_OPS, *words, log=log) for log in logs]
    assert [each.wait(120) for each in running] == [0] * 4
    answers = [json.loads(log.read_text()[log.read_text().index("{") :]) for log in logs]
    assert len({each["letta_agent_id"] for each in answers}) == 1
    assert len(agents_of(stack, Key(app, "one"))) == 1


def test_an_application_s_agent_from_the_first_link_to_the_last(stack: Stack, app: str) -> None:
    missing = stack.json("registry", "get", "one", "--app", app, code=1)
    assert missing["error"]["code"] == "no-link"
    made = stack.json("registry", "ensure", "one", "--app", app)
    assert made["outcome"] == "created"
    agent = made["letta_agent_id"]
    assert stack.json("registry", "get", "one", "--app", app)["letta_agent_id"] == agent
    assert stack.json("registry", "ensure", "One", "--app", app)["alike"] == ["one"]
    listed = stack.json("registry", "list", "--app", app, "--state", "linked")["links"]
    assert [each["app_agent_id"] for each in listed] == ["One", "one"]
    taken = stack.json("registry", "link", "two", agent, "--app", app, code=1)
    assert taken["error"]["code"] == "agent-claimed"
    stack.json("registry", "unlink", "one", "--app", app, "--reason", "a try")
    stack.json("registry", "link", "two", agent, "--app", app)
    events = stack.json("registry", "history", "--app", app)["events"]
    assert [each["what"] for each in events] == ["linked", "unlinked", "created", "created"]
    assert stack.run("registry", "history", "one", "--app", app).out.count("a try") == 1


def test_an_agent_that_is_gone_is_an_error_and_no_new_agent(stack: Stack, app: str) -> None:
    agent = stack.json("registry", "ensure", "one", "--app", app)["letta_agent_id"]
    delete_agent(stack, agent)
    for words in (("get",), ("ensure",)):
        refused = stack.json("registry", *words, "one", "--app", app, code=1)
        assert refused["error"]["code"] == "agent-gone"
    assert agents_of(stack, Key(app, "one")) == []
    (gone,) = stack.json("registry", "list", "--app", app, "--state", "gone")["links"]
    assert gone["letta_agent_id"] == agent
    new = stack.json("registry", "ensure", "one", "--app", app, "--recreate")
    assert new["outcome"] == "created"


def test_a_server_that_is_down_is_no_reason_to_make_an_agent(stack: Stack, app: str) -> None:
    stack.json("registry", "ensure", "one", "--app", app)
    nowhere = {"LETTA_OPS_SERVER_URL": "http://127.0.0.1:9"}
    known = stack.run("--json", "registry", "ensure", "one", "--app", app, environment=nowhere)
    assert known.json["outcome"] == "there"  # the database itself knows that it is there
    new = stack.run("--json", "registry", "ensure", "two", "--app", app, environment=nowhere)
    assert (new.code, new.json["error"]["code"]) == (1, "server-unavailable")
    wrong = {"LETTA_OPS_SERVER_PASSWORD": "wrong"}
    refused = stack.run("--json", "registry", "ensure", "two", "--app", app, environment=wrong)
    assert (refused.code, refused.json["error"]["code"]) == (1, "server-refused")
    assert agents_of(stack, Key(app, "two")) == []
    assert stack.json("registry", "ensure", "two", "--app", app)["outcome"] == "created"


@pytest.mark.parametrize(
    "identifier", ["a/b", 'it\'s "so"', "two\nlines", "\U0001f9d1\u200d\U0001f680", "--app", " "]
)
def test_any_id_is_kept_as_it_is(stack: Stack, app: str, identifier: str) -> None:
    made = stack.json("registry", "ensure", "--app", app, "--", identifier)
    assert made["app_agent_id"] == identifier
    (agent,) = agents_of(stack, Key(app, identifier))
    assert agent.metadata == {OF_KEY: {"app": app, "app_agent_id": identifier}}
    (link,) = stack.json("registry", "list", "--app", app)["links"]
    assert link["app_agent_id"] == identifier


@pytest.mark.parametrize("identifier", ["", "x" * 10_000])
def test_an_id_that_cannot_be_kept_is_refused(stack: Stack, app: str, identifier: str) -> None:
    refused = stack.json("registry", "ensure", "--app", app, "--", identifier, code=1)
    assert refused["error"]["code"] == "id-refused"
    assert stack.json("registry", "list", "--app", app)["links"] == []


def test_agents_are_made_of_a_template_and_of_a_file(
    stack: Stack, app: str, tmp_path: Path
) -> None:
    file = tmp_path / "persona.yaml"
    file.write_text(TEMPLATE)
    ensure = ("registry", "ensure", "one", "--app", app, "--template", str(file))
    refused = stack.json(*ensure, code=1)
    assert "{customer}" in refused["error"]["message"]
    made = stack.json(*ensure, "--set", "customer=Ms Ng")
    with api(stack.deployment) as client:
        agent = client.agents.retrieve(
            made["letta_agent_id"], include=["agent.blocks", "agent.tools", "agent.tags"]
        )
        assert agent.system == "You help Ms Ng. Be brief."
        assert [block.value for block in agent.blocks] == ["I serve one."]
    assert stack.json(*ensure, "--set", "customer=Ms Ng")["differences"] == []
    file.write_text(TEMPLATE.replace("Be brief", "Be kind") + "tools: [send_message]\n")
    seen = stack.json(*ensure, "--set", "customer=Ms Ng")
    assert {each["path"] for each in seen["differences"]} >= {"system"}
    assert seen["updated"] is False
    assert stack.json(*ensure, "--set", "customer=Ms Ng", "--update")["updated"] is True
    with api(stack.deployment) as client:
        agent = client.agents.retrieve(
            made["letta_agent_id"], include=["agent.blocks", "agent.tools", "agent.tags"]
        )
        assert agent.system == "You help Ms Ng. Be kind."
        assert "send_message" in {tool.name for tool in agent.tools}
        assert {"gold", Key(app, "one").tag} <= set(agent.tags)
    assert stack.json(*ensure, "--set", "customer=Ms Ng")["differences"] == []
    exported = tmp_path / "one.af"
    stack.json("agent", "export", made["letta_agent_id"], "--output", str(exported))
    other = stack.json("registry", "ensure", "two", "--app", app, "--from", str(exported))
    assert other["outcome"] == "created"
    (copied,) = agents_of(stack, Key(app, "two"))
    assert copied.id == other["letta_agent_id"]
    assert copied.system == "You help Ms Ng. Be kind."
    assert len(agents_of(stack, Key(app, "one"))) == 1


def test_a_template_with_an_unknown_model_makes_nothing(
    stack: Stack, app: str, tmp_path: Path
) -> None:
    file = tmp_path / "persona.yaml"
    file.write_text("model: no/such\n")
    for _ in range(2):  # the first try is no obstacle to the second
        refused = stack.json(
            "registry", "ensure", "one", "--app", app, "--template", str(file), code=1
        )
        assert refused["error"]["code"] == "server-refused"
        assert "no/such" in refused["error"]["message"]
    assert stack.json("registry", "list", "--app", app)["links"] == []


def test_reconcile_says_what_differs_and_mends_it(stack: Stack, app: str) -> None:
    ids = [
        stack.json("registry", "ensure", name, "--app", app)["letta_agent_id"]
        for name in ("gone", "loose", "kept", "twice")
    ]
    delete_agent(stack, ids[0])
    with stack.administrator() as link:
        link.execute("DELETE FROM letta_ops.registry_links WHERE letta_agent_id = %s", [ids[1]])
        link.execute(
            "UPDATE letta_ops.registry_links SET server = 'elsewhere' WHERE letta_agent_id = %s",
            [ids[2]],
        )
    key, model = Key(app, "twice"), stack.deployment.model
    with api(stack.deployment) as client:
        second = client.agents.create(
            name="second", model=model.handle, embedding=model.embedding, tags=[key.tag],
            metadata=key.metadata,
        )  # fmt: skip
    found = {
        (each["kind"], each["app_agent_id"]): each
        for each in stack.json("registry", "reconcile", "--app", app)["findings"]
    }
    assert set(found) == {
        ("missing", "gone"), ("orphaned", "loose"), ("of-another-server", "kept"),
        ("duplicated", "twice"),
    }  # fmt: skip
    assert found["duplicated", "twice"]["agents"] == [ids[3], second.id]
    done = stack.json("registry", "reconcile", "--app", app, "--apply")["findings"]
    assert {each["app_agent_id"] for each in done if each["mended"]} == {"loose", "kept"}
    assert stack.json("registry", "get", "loose", "--app", app)["letta_agent_id"] == ids[1]
    left = stack.json("registry", "reconcile", "--app", app)["findings"]
    assert {each["kind"] for each in left} == {"missing", "duplicated"}
    # What somebody has unlinked is not linked again without him.
    stack.json("registry", "unlink", "kept", "--app", app, "--reason", "a mistake")
    done = stack.json("registry", "reconcile", "--app", app, "--apply")["findings"]
    (orphaned,) = (each for each in done if each["kind"] == "orphaned")
    assert (orphaned["app_agent_id"], orphaned["mended"]) == ("kept", False)
    assert "a mistake" in orphaned["reason"]
    with api(stack.deployment) as client:
        assert client.agents.retrieve(second.id).id == second.id


def test_check_tells_of_links_without_agents_and_agents_without_links(
    stack: Stack, app: str
) -> None:
    stack.json("registry", "list")
    with stack.administrator() as link:  # those of other tests
        link.execute("DELETE FROM letta_ops.registry_links")
        link.execute("DELETE FROM agents_tags WHERE starts_with(tag, 'letta-ops-link:')")
    one, two = (
        stack.json("registry", "ensure", name, "--app", app)["letta_agent_id"]
        for name in ("one", "two")
    )
    stack.json("registry", "reconcile")
    delete_agent(stack, one)
    stack.json("registry", "unlink", "two", "--app", app)
    answer = stack.run("--json", "check").json
    (seen,) = [each for each in answer["findings"] if each["name"] == "registry"]
    assert seen["state"] == "WARNING"
    assert f"'one' of '{app}'" in seen["summary"]
    assert two in seen["summary"]
    assert "never" not in seen["detail"]


@pytest.mark.long
def test_links_are_written_and_read_as_files(stack: Stack, app: str, tmp_path: Path) -> None:
    agents = [
        stack.json("registry", "ensure", name, "--app", app)["letta_agent_id"]
        for name in ("one, two", 'three\n"four"')
    ]
    for ending in ("csv", "json"):
        file = tmp_path / f"links.{ending}"
        assert stack.json("registry", "export", str(file), "--app", app)["links"] == 2
        for name in ("one, two", 'three\n"four"'):
            stack.json("registry", "unlink", name, "--app", app)
        assert stack.json("registry", "import", str(file), "--dry-run")["linked"] == 2
        assert stack.json("registry", "list", "--app", app)["links"] == []
        assert stack.json("registry", "import", str(file))["linked"] == 2
        links = stack.json("registry", "list", "--app", app)["links"]
        assert {each["letta_agent_id"] for each in links} == set(agents)
        assert stack.json("registry", "import", str(file)) | {"stack": ""} == {
            "stack": "", "dry_run": False, "linked": 0, "there": 2,
        }  # fmt: skip


def test_a_file_with_anything_wrong_links_nothing(stack: Stack, app: str, tmp_path: Path) -> None:
    with api(stack.deployment) as client:
        model = stack.deployment.model
        agent = client.agents.create(name="any", model=model.handle, embedding=model.embedding).id
    gone = "agent-00000000-0000-4000-8000-000000000000"
    file = tmp_path / "links.csv"
    for text, said in (
        (f"app_agent_id,letta_agent_id\nx,{agent}\nx,{agent}\n", "line 3: 'x' of"),
        (f"app_agent_id,agent\nx,{agent}\n", "the column letta_agent_id is missing"),
        (f"app_agent_id,letta_agent_id\nx,{agent}\ny,{gone}\n", f"{gone} is not on the server"),
        (f"app_agent_id,letta_agent_id\n,{agent}\n", "line 2: the id is empty"),
        (f'app_agent_id,letta_agent_id\n"x,{agent}\n', "line"),
    ):
        file.write_text(text, encoding="utf-8-sig")
        refused = stack.json("registry", "import", str(file), "--app", app, code=1)
        assert said in refused["error"]["message"]
        assert stack.json("registry", "list", "--app", app)["links"] == []
    file.write_text(f"app_agent_id,letta_agent_id\nx,{agent}\n", encoding="utf-8-sig")
    assert stack.json("registry", "import", str(file), "--app", app)["linked"] == 1
    delete_agent(stack, agent)


@pytest.fixture(params=["database", "letta"])
def scope(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LETTA_OPS_BACKUP_SCOPE", request.param)
    return str(request.param)


@pytest.mark.long
def test_a_restore_takes_the_registry_along_and_names_what_was_linked_since(
    stack: Stack, app: str, scope: str
) -> None:
    before, moved = (
        stack.json("registry", "ensure", name, "--app", app)["letta_agent_id"]
        for name in ("before", "moved")
    )
    backup = stack.json("backup", "create")["id"]
    since = stack.json("registry", "ensure", "since", "--app", app)["letta_agent_id"]
    stack.json("registry", "unlink", "moved", "--app", app)
    with api(stack.deployment) as client:
        model = stack.deployment.model
        newer = client.agents.create(name="new", model=model.handle, embedding=model.embedding).id
    stack.json("registry", "link", "moved", newer, "--app", app)
    plan = stack.json("backup", "restore", backup, "--dry-run")
    named = {
        (each["app_agent_id"], each["agent"])
        for each in plan["links_newer_than_backup"]
        if each["app"] == app
    }
    assert named == {("since", since), ("moved", newer)}
    stack.json("backup", "restore", backup, "--yes")
    assert stack.json("registry", "ensure", "before", "--app", app)["letta_agent_id"] == before
    refused = stack.json("registry", "ensure", "since", "--app", app, code=1)
    assert refused["error"]["code"] == "agent-gone"
    if scope == "letta":  # the registry stays where it is: what its links lead to is mended
        stack.json("registry", "reconcile", "--app", app, "--apply")
    assert stack.json("registry", "ensure", "moved", "--app", app)["letta_agent_id"] == moved
    missing = stack.json("registry", "reconcile", "--app", app)["findings"]
    assert [(each["kind"], each["app_agent_id"]) for each in missing] == [("missing", "since")]
    after = stack.json("registry", "ensure", "after", "--app", app)["letta_agent_id"]
    stack.json("backup", "restore", "--undo", "--yes")
    for name, agent in (("before", before), ("since", since)):
        assert stack.json("registry", "ensure", name, "--app", app)["letta_agent_id"] == agent
    if scope == "letta":
        stack.json("registry", "reconcile", "--app", app, "--apply")
    else:
        assert stack.json("registry", "get", "moved", "--app", app)["letta_agent_id"] == newer
    lost = stack.json("registry", "get", "after", "--app", app, code=1)
    assert lost["error"]["code"] == "agent-gone"
    assert after not in {each.id for each in agents_of(stack, Key(app, "after"))}
    stack.json("backup", "restore", "--drop-previous", "--yes")


@pytest.mark.long
def test_an_agent_that_comes_back_under_a_new_id_has_its_link(
    stack: Stack, app: str, tmp_path: Path
) -> None:
    agent = stack.json("registry", "ensure", "one", "--app", app)["letta_agent_id"]
    file = tmp_path / "one.agents"
    stack.json("agent", "archive", agent, "--output", str(file))
    copy = stack.json("agent", "restore", str(file), "--new-ids", "--yes")["agents"][0]["id"]
    assert stack.json("registry", "get", "one", "--app", app)["letta_agent_id"] == agent
    assert [each.id for each in agents_of(stack, Key(app, "one"))] == [agent]
    delete_agent(stack, agent)
    new = stack.json("agent", "restore", str(file), "--new-ids", "--yes")["agents"][0]["id"]
    assert stack.json("registry", "get", "one", "--app", app)["letta_agent_id"] == new
    assert stack.json("registry", "ensure", "one", "--app", app)["outcome"] == "there"
    latest, *_ = stack.json("registry", "history", "one", "--app", app)["events"]
    assert (latest["what"], latest["letta_agent_id"], latest["before"]) == ("moved", new, agent)
    delete_agent(stack, copy)


@pytest.mark.long
def test_an_imported_agent_takes_the_place_of_one_that_is_gone_and_no_other(
    stack: Stack, app: str, tmp_path: Path
) -> None:
    agent = stack.json("registry", "ensure", "one", "--app", app)["letta_agent_id"]
    file = tmp_path / "one.af"
    stack.json("agent", "export", agent, "--output", str(file))
    copy = stack.json("agent", "import", str(file))["agents"][0]["id"]
    assert stack.json("registry", "get", "one", "--app", app)["letta_agent_id"] == agent
    assert [each.id for each in agents_of(stack, Key(app, "one"))] == [agent]
    delete_agent(stack, agent)
    new = stack.json("agent", "import", str(file), "--again")["agents"][0]["id"]
    assert stack.json("registry", "get", "one", "--app", app)["letta_agent_id"] == new
    assert copy != new


@RUNS_HERE
def test_applications_use_it_without_the_command_line(stack: Stack, app: str) -> None:
    stack.json("registry", "list")
    settings: dict[str, Any] = {
        "server": stack.deployment.server.url, "password": password_of(stack), "app": app,
    }  # fmt: skip
    with Registry.open(url_of(stack), **settings) as registry:
        made = registry.ensure("one")
        assert registry.get("one").there is True
        with pytest.raises(NoLink):
            registry.get("two")
        delete_agent(stack, made.letta_agent_id)
        with pytest.raises(AgentGone):
            registry.get("one")
    with host(stack.deployment).session() as reader:
        found = reader.execute(
            "SELECT app_agent_id, letta_agent_id FROM letta_ops.agent_links WHERE app = %s", [app]
        ).fetchall()
    assert found == [("one", made.letta_agent_id)]


def test_a_server_without_a_database_at_hand_has_its_registry_in_a_file(
    stack: Stack, app: str, tmp_path: Path
) -> None:
    profile = tmp_path / "by-hand.toml"
    text = f'[server]\nurl = "{stack.deployment.server.url}"\npassword = "env:LETTA_PASSWORD"\n'
    profile.write_text(text)
    words = (LETTA_OPS, "--profile", profile, "--json", "registry")
    given: dict[str, Any] = {"environment": {"LETTA_PASSWORD": password_of(stack)}}
    nowhere = stack.machine.run(*words, "list", **given)
    assert nowhere.json["error"]["code"] == "no-registry"
    profile.write_text(f'{text}[registry]\nurl = "sqlite:///{tmp_path}/links.sqlite3"\n')
    profile.chmod(0o600)
    made = stack.machine.run(*words, "ensure", "one", "--app", app, **given).json
    assert made["outcome"] == "created"
    again = stack.machine.run(*words, "ensure", "one", "--app", app, **given).json
    assert (again["outcome"], again["there"]) == ("there", None)
    (link,) = stack.machine.run(*words, "list", "--state", "linked", **given).json["links"]
    assert link["letta_agent_id"] == made["letta_agent_id"]
    (tmp_path / "links.sqlite3").unlink()  # a file that is lost loses no agent
    found = stack.machine.run(*words, "ensure", "one", "--app", app, **given).json
    assert (found["outcome"], found["letta_agent_id"]) == ("found", made["letta_agent_id"])


DOCUMENT = ROOT / "docs" / "registry.md"


def example(language: str) -> str:
    (found,) = re.findall(
        rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    return str(found)


@RUNS_HERE
def test_the_example_for_python_works(stack: Stack) -> None:
    stack.json("registry", "list")
    given = environment_of(stack)
    environment = {
        **os.environ, "DATABASE_URL": given["REGISTRY"], "LETTA_URL": given["LETTA"],
        "LETTA_PASSWORD": given["PASSWORD"],
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", example("python")],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    link = stack.json("registry", "get", "customer-7", "--app", "shop")
    assert done.stdout.strip() == link["letta_agent_id"]
    environment["LETTA_URL"] = "http://127.0.0.1:9"
    code = example("python").replace("customer-7", "customer-70")
    failed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert "no agent now: the server at" in failed.stderr


@RUNS_HERE
def test_the_recipe_for_node_works(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is missing: install Node.js to run the recipe for Node")
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent", "pg@8.16.3"],
        cwd=tmp_path, check=True, timeout=300,
    )  # fmt: skip
    (tmp_path / "recipe.js").write_text(example("js"))
    path = f"{LETTA_OPS.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "DATABASE_URL": url_of(stack), "LETTA_OPS_STACK": stack.name}
    stack.json("registry", "list")
    made = [
        stack.machine.run(
            "node", "recipe.js", "node's own/1", cwd=tmp_path, environment=environment
        )
        for _ in range(2)
    ]
    assert [each.code for each in made] == [0, 0], made
    link = stack.json("registry", "get", "node's own/1", "--app", "shop")
    assert {each.out.strip() for each in made} == {link["letta_agent_id"]}


@RUNS_HERE
def test_a_role_with_the_documented_rights_is_enough(stack: Stack) -> None:
    stack.json("registry", "list")
    (rights,) = re.findall(r"^```sql\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    role = f"shop_{uuid.uuid4().hex[:8]}"
    with stack.administrator() as link:
        link.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'open-sesame'")
        link.execute(f"GRANT CONNECT ON DATABASE letta TO {role}")
        link.execute(re.sub(r"\bshop\b", role, rights))
    url = re.sub(r"//[^@]*@", f"//{role}:open-sesame@", url_of(stack))
    settings: dict[str, Any] = {
        "server": stack.deployment.server.url, "password": password_of(stack), "app": role,
    }  # fmt: skip
    try:
        with Registry.open(url, **settings) as registry:
            agent = registry.ensure("one").letta_agent_id
            assert registry.get("one").there is True
            registry.unlink("one")
            assert registry.ensure("one").letta_agent_id == agent
    finally:
        with stack.administrator() as link:
            link.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
