"""An application's id has one agent: made once, found again, and never made on a doubtful answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra.errors import LettaOpsError
from letta_ops.registry import (
    AgentClaimed,
    AgentGone,
    AgentsDuplicated,
    AlreadyLinked,
    AsyncRegistry,
    Ensured,
    KeyRefused,
    NoLink,
    Registry,
    ServerRefused,
    ServerUnavailable,
    StillMaking,
    Template,
    TemplateWrong,
    making,
)
from letta_ops.registry.links import OF_KEY, Key, Row
from letta_ops.registry.server import LettaServer
from letta_ops.registry.sqlite import SqliteStore
from tests.unit.letta_server import PASSWORD, FakeLetta, serving


@pytest.fixture
def server() -> Iterator[FakeLetta]:
    with serving() as found:
        yield found


@pytest.fixture
def open_registry(server: FakeLetta, tmp_path: Path) -> Iterator[Callable[..., Registry]]:
    opened: list[Registry] = []

    def make(url: str | None = None, password: str = PASSWORD) -> Registry:
        store = SqliteStore(tmp_path / "registry.sqlite3")
        letta = LettaServer.at(url or server.url, password, seconds=0.5)
        opened.append(Registry(store, letta, server_name="here", app="shop", who="tester"))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def registry(open_registry: Callable[..., Registry]) -> Registry:
    return open_registry()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "WAIT_SECONDS", 0.3)


class Answering:
    """A server that answers everything with one answer; `closes`: without any."""

    def __init__(self, status: int, body: bytes, *, closes: bool = False) -> None:
        self.requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def _answer(handler) -> None:  # noqa: N805
                self.requests.append(handler.command)
                if closes:
                    handler.connection.close()
                    return
                handler.send_response(status)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            do_GET = do_POST = do_PATCH = _answer  # noqa: N815  http.server's names

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


def test_the_agent_is_made_once_and_then_found(registry: Registry, server: FakeLetta) -> None:
    first, second = registry.ensure("customer/7"), registry.ensure("customer/7")
    assert (first.outcome, second.outcome) == ("created", "there")
    assert registry.get("customer/7") == second.link == first.link
    (agent,) = server.agents.values()
    assert agent["id"] == first.letta_agent_id
    assert agent["name"] == "app_agent_customer-7"
    assert agent["metadata"] == {OF_KEY: {"app": "shop", "app_agent_id": "customer/7"}}
    (event,) = registry.store.events("shop", "customer/7")
    assert (event.what, event.who) == ("created", "tester")
    with pytest.raises(NoLink):
        registry.get("customer/8")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>Welcome to the hotel's network</html>"),
        (200, b'{"status": "ok"}'),
        (200, b"[1, 2]"),
        (404, b'{"detail": "Not Found"}'),
        (404, b"<html>404</html>"),
        (302, b""),
        (500, b'{"detail": "boom"}'),
        (502, b"Bad Gateway"),
        (503, b'{"detail": "starting"}'),
    ],
)
@pytest.mark.parametrize("linked", [True, False])
def test_an_answer_that_is_not_letta_s_makes_no_agent(
    open_registry: Callable[..., Registry],
    server: FakeLetta,
    status: int,
    body: bytes,
    linked: bool,
) -> None:
    if linked:
        open_registry().ensure("one")
    wrong = Answering(status, body)
    with pytest.raises(ServerUnavailable):
        open_registry(wrong.url).ensure("one", recreate=True)
    assert set(wrong.requests) == {"GET"}
    assert len(server.agents) == int(linked)
    assert open_registry().ensure("one").outcome == ("there" if linked else "created")


@pytest.mark.parametrize("linked", [True, False])
def test_no_answer_and_a_wrong_password_make_no_agent(
    open_registry: Callable[..., Registry], server: FakeLetta, linked: bool
) -> None:
    if linked:
        open_registry().ensure("one")
    with pytest.raises(ServerUnavailable, match="not available"):
        open_registry("http://127.0.0.1:1").ensure("one", recreate=True)
    with pytest.raises(ServerUnavailable):
        open_registry(Answering(0, b"", closes=True).url).ensure("one", recreate=True)
    with pytest.raises(ServerRefused, match="password"):
        open_registry(password="wrong").ensure("one", recreate=True)
    assert len(server.agents) == int(linked)
    assert open_registry().ensure("one").outcome == ("there" if linked else "created")


def test_an_agent_that_is_gone_is_made_anew_only_when_that_was_said(
    registry: Registry, server: FakeLetta
) -> None:
    old = registry.ensure("one").letta_agent_id
    server.agents.clear()
    with pytest.raises(AgentGone, match=old):
        registry.ensure("one")
    assert server.agents == {}
    new = registry.ensure("one", recreate=True)
    assert new.outcome == "created"
    assert new.letta_agent_id != old
    latest, _ = registry.store.events("shop", "one")
    assert (latest.letta_agent_id, latest.before) == (new.letta_agent_id, old)


def test_where_there_was_a_link_once_no_second_agent_is_made(
    registry: Registry, server: FakeLetta
) -> None:
    agent = registry.ensure("one").letta_agent_id
    registry.unlink("one", reason="by mistake")
    server.agents[agent] |= {"tags": [], "metadata": None}  # not even a mark of it is left
    again = registry.ensure("one")
    assert (again.outcome, again.letta_agent_id) == ("found", agent)
    registry.unlink("one")
    registry.link("other", agent)
    with pytest.raises(AgentClaimed, match="other"):
        registry.ensure("one")
    assert registry.ensure("one", recreate=True).outcome == "created"
    registry.unlink("other")
    del server.agents[agent]
    with pytest.raises(AgentGone):
        registry.ensure("other")
    assert len(server.agents) == 1


def test_whoever_is_killed_before_linking_leaves_an_agent_that_is_found(
    registry: Registry, server: FakeLetta
) -> None:
    """He holds the lease still: nobody waits for it to end, where the agent is there already."""
    key = Key.of("shop", "one")
    registry.store.replace(key, None, Row(key, None, "60:his"), None)
    made = server.make("app_agent_one", key.tag, metadata=key.metadata)
    done = registry.ensure("one")
    assert (done.outcome, done.letta_agent_id) == ("found", made)
    assert len(server.agents) == 1


def test_whoever_was_killed_before_making_it_is_waited_for(
    registry: Registry, server: FakeLetta, impatient: None
) -> None:
    key = Key.of("shop", "one")
    registry.store.replace(key, None, Row(key, None, "60:his"), None)
    with pytest.raises(StillMaking):
        registry.ensure("one")
    with pytest.raises(StillMaking):
        registry.link("one", server.make("somebody's"))
    assert [each["name"] for each in server.agents.values()] == ["somebody's"]
    registry.store.replace(key, Row(key, None, "60:his"), Row(key, None, "0:his"), None)
    assert registry.ensure("one").outcome == "created"


def test_an_agent_that_came_too_late_gives_way(
    registry: Registry, open_registry: Callable[..., Registry], server: FakeLetta,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its maker was slower than the lease; somebody took over, and made and linked another one."""
    monkeypatch.setattr(making, "LONG_LEASE_SECONDS", 0.0)

    def slow(key: Key) -> str:
        late = server.make("late")  # without a mark: as if nobody could have found it
        open_registry().ensure(key.id)
        return late

    done = registry.ensure("one", make=slow)
    (left,) = server.agents.values()
    assert left["id"] == done.letta_agent_id == registry.get("one").letta_agent_id
    assert left["name"] == "app_agent_one"


def test_what_fails_definitely_is_no_obstacle_to_the_next(
    registry: Registry, server: FakeLetta, impatient: None
) -> None:
    unknown = Template.of({"model": "no/such"})
    for _ in range(2):
        with pytest.raises(ServerRefused, match="no/such"):
            registry.ensure("one", template=unknown)

    def fails(key: Key) -> str:
        raise LettaOpsError("import-failed", f"not for {key.id}", "another file")

    with pytest.raises(LettaOpsError, match="not for one"):
        registry.ensure("one", make=fails)
    assert server.agents == {}
    assert registry.ensure("one").outcome == "created"


def test_several_agents_of_one_id_are_told_and_none_is_chosen(
    registry: Registry, server: FakeLetta
) -> None:
    key = Key.of("shop", "one")
    made = [server.make("app_agent_one", key.tag, metadata=key.metadata) for _ in range(2)]
    with pytest.raises(AgentsDuplicated, match=made[1]):
        registry.ensure("one")
    assert registry.link("one", made[0]).letta_agent_id == made[0]
    assert registry.ensure("one").outcome == "there"
    assert len(server.agents) == 2


def test_many_callers_at_once_make_one(
    open_registry: Callable[..., Registry], server: FakeLetta
) -> None:
    outcomes: list[Ensured] = []
    start = threading.Barrier(16)

    def run() -> None:
        mine = open_registry()
        start.wait()
        outcomes.append(mine.ensure("one"))

    callers = [threading.Thread(target=run) for _ in range(16)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert len({each.letta_agent_id for each in outcomes}) == len(server.agents) == 1
    assert [each.outcome for each in outcomes].count("created") == 1


def test_links_are_made_moved_and_taken_away_by_hand(registry: Registry, server: FakeLetta) -> None:
    one, two = server.make("one"), server.make("two")
    assert registry.link("a", one, dry_run=True).letta_agent_id == one
    with pytest.raises(NoLink):
        registry.get("a")
    assert registry.link("a", one, reason="from the old table").outcome == "linked"
    assert registry.link("a", one).outcome == "there"
    with pytest.raises(AlreadyLinked, match=one):
        registry.link("a", two)
    with pytest.raises(AgentClaimed, match="'a' of 'shop'"):
        registry.link("b", one, dry_run=True)
    with pytest.raises(AgentClaimed):
        registry.link("b", one)
    with pytest.raises(AgentClaimed):
        registry.link("a", one, app="bank")
    with pytest.raises(AgentGone):
        registry.link("c", "agent-00000000-0000-4000-8000-000000000000")
    registry.link("a", two, move=True, reason="the right one")
    assert registry.unlink("a").letta_agent_id == two
    with pytest.raises(NoLink):
        registry.unlink("a")
    history = [(each.what, each.reason) for each in registry.store.events("shop", "a")]
    assert history == [
        ("unlinked", "unlinked by hand"),
        ("moved", "the right one"),
        ("linked", "from the old table"),
    ]
    assert set(server.agents) == {one, two}


def test_ids_that_look_the_same_are_told_when_linked(registry: Registry) -> None:
    registry.ensure("Anna")
    assert registry.ensure("anna").alike == ("Anna",)
    assert registry.ensure("anne").alike == ()


@pytest.mark.parametrize("wrong", ["", "a\0b", "\ud800", "x" * 10_000, "\U0001f600" * 513])
def test_an_id_that_cannot_be_kept_is_refused(
    registry: Registry, server: FakeLetta, wrong: str
) -> None:
    for act in (registry.get, registry.ensure, registry.unlink):
        with pytest.raises(KeyRefused):
            act(wrong)
    with pytest.raises(KeyRefused):
        registry.get("one", app=wrong)
    assert server.agents == {}


TEMPLATE = {
    "system": 'You help {customer} of {app}. Answer as {{json}}: {"a": 1}',
    "model": "own/model",
    "blocks": [{"label": "persona", "value": "I serve {app_agent_id}."}],
    "tools": ["send_message"],
    "tags": ["tier-{tier}"],
}


def test_a_template_makes_the_agent_and_its_placeholders_are_filled(
    registry: Registry, server: FakeLetta
) -> None:
    values = {"customer": "Ms Ng {tier}", "tier": "gold"}
    made = registry.ensure("u1", template=Template.of(TEMPLATE), values=values)
    agent = server.agents[made.letta_agent_id]
    assert agent["system"] == 'You help Ms Ng {tier} of shop. Answer as {json}: {"a": 1}'
    assert agent["memory"]["blocks"] == [{"label": "persona", "value": "I serve u1."}]
    assert agent["tags"] == ["tier-gold", Key("shop", "u1").tag]
    with pytest.raises(TemplateWrong, match=r"\{customer\}, \{tier\}"):
        registry.ensure("u2", template=Template.of(TEMPLATE))
    assert len(server.agents) == 1


def test_a_changed_template_changes_nothing_unless_told(
    registry: Registry, server: FakeLetta
) -> None:
    values = {"customer": "her", "tier": "gold"}
    made = registry.ensure("u1", template=Template.of(TEMPLATE), values=values)
    assert registry.ensure("u1", template=Template.of(TEMPLATE), values=values).differences == ()
    newer = Template.of({**TEMPLATE, "system": "You are brief."})
    seen = registry.ensure("u1", template=newer, values=values)
    assert [each.path for each in seen.differences] == ["system"]
    assert server.agents[made.letta_agent_id]["system"].startswith("You help her")
    done = registry.ensure("u1", template=newer, values=values, update=True)
    assert done.updated
    assert server.agents[made.letta_agent_id]["system"] == "You are brief."
    assert registry.ensure("u1", template=newer, values=values).differences == ()


def test_what_the_agent_has_written_itself_stays(registry: Registry, server: FakeLetta) -> None:
    values = {"customer": "her", "tier": "gold"}
    made = registry.ensure("u1", template=Template.of(TEMPLATE), values=values)
    (block,) = server.agents[made.letta_agent_id]["memory"]["blocks"]
    block["value"] += " She likes walnuts."
    newer = Template.of({**TEMPLATE, "blocks": [{"label": "persona", "value": "I am new."}]})
    done = registry.ensure("u1", template=newer, values=values, update=True)
    (difference,) = done.differences
    assert difference.path == "blocks.persona"
    assert "written" in difference.kept
    assert block["value"] == "I serve u1. She likes walnuts."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "no keys"),
        ({"sytem": "x"}, "'sytem' is unknown"),
        ({"system": 1}, "system must be a text"),
        ({"tools": "one"}, "tools must be a list"),
        ({"blocks": {}}, "blocks must be a list"),
        ({"blocks": [{"value": "x"}]}, "no label"),
        ({"blocks": [{"label": "a"}, {"label": "a"}]}, "'a' twice"),
        ({"blocks": [{"label": "a", "limit": True}]}, "whole number"),
        ({"blocks": [{"label": "a", "value": "xxx", "limit": 2}]}, "3 characters"),
        ({"tags": ["letta-ops-link:x"]}, "marks"),
    ],
)
def test_a_template_that_is_none_is_refused_with_its_reasons(content: Any, said: str) -> None:
    with pytest.raises(TemplateWrong, match=said):
        Template.of(content)


@pytest.mark.parametrize("data", [b"a: [", b"\xff\xfe", b"system: 1\n", b""])
def test_a_file_that_is_no_template_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.yaml").write_bytes(data)
    with pytest.raises(TemplateWrong, match=r"t\.yaml"):
        Template.read(tmp_path / "t.yaml")


def test_the_same_for_applications_on_asyncio(server: FakeLetta, tmp_path: Path) -> None:
    async def run() -> tuple[int, str]:
        url = f"sqlite:///{tmp_path / 'r.sqlite3'}"
        async with AsyncRegistry.open(
            url, server=server.url, password=PASSWORD, app="shop"
        ) as mine:
            found = await asyncio.gather(*(mine.ensure("one") for _ in range(8)))
            link = await mine.get("one")
            await mine.unlink("one")
            await mine.link("two", link.letta_agent_id)
            return len({each.letta_agent_id for each in found}), link.letta_agent_id

    with ThreadPoolExecutor(1) as thread:  # the main one's event loop is for others
        count, agent = thread.submit(asyncio.run, run()).result()
    assert count == 1
    assert set(server.agents) == {agent}


def test_what_applications_import_is_small() -> None:
    code = (
        "import sys; import letta_ops.registry; "
        "print([m for m in ('typer', 'pulumi', 'letta_client', 'httpx', 'psycopg', 'boto3', 'pydantic',"
        " 'yaml', 'sqlite3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("url", ["", "mysql://x", "registry.db"])
def test_a_place_that_is_none_for_a_registry_is_refused(url: str) -> None:
    with pytest.raises(KeyRefused, match="no place"):
        Registry.open(url)


def test_an_agent_that_became_another_id_s_is_not_found_for_the_first(
    registry: Registry, server: FakeLetta
) -> None:
    agent = registry.ensure("c1").letta_agent_id
    registry.unlink("c1")
    registry.link("c2", agent)
    assert server.agents[agent]["tags"] == [Key("shop", "c2").tag]
    with pytest.raises(AgentClaimed, match="c2"):
        registry.ensure("c1")
    registry.unlink("c2")
    with pytest.raises(AgentClaimed, match="c2"):
        registry.ensure("c1")
    fresh = registry.ensure("c1", recreate=True)
    assert (fresh.outcome, fresh.letta_agent_id != agent) == ("created", True)
    assert registry.ensure("c2").letta_agent_id == agent
    other = server.make("other")
    registry.link("c2", other, move=True)
    registry.unlink("c2")
    assert registry.ensure("c2").letta_agent_id == other
    assert server.agents[agent]["tags"] == []


@pytest.mark.parametrize("wrong", ["", "agent-", "agent-1/../../health", "x\n"])
def test_what_is_no_agent_s_id_is_not_linked(registry: Registry, wrong: str) -> None:
    with pytest.raises(KeyRefused, match="no agent's id"):
        registry.link("one", wrong)
    with pytest.raises(NoLink):
        registry.get("one")


def test_an_agent_that_comes_in_pieces_is_nobody_s_until_it_is_whole(
    registry: Registry, server: FakeLetta, impatient: None
) -> None:
    """An import makes the agent first and its messages then; its maker may fail, and take it away."""
    key = Key.of("shop", "one")

    def comes_in_pieces(key: Key) -> str:
        half = server.make("half", key.unfinished_tag)
        with pytest.raises(StillMaking):
            registry.ensure(key.id)
        return half

    whole = registry.ensure("one", make=comes_in_pieces)
    assert server.agents[whole.letta_agent_id]["tags"] == [key.tag]

    def breaks_off(key: Key) -> str:
        server.make("half", key.unfinished_tag)
        raise ServerUnavailable("gone", "wait")

    with pytest.raises(ServerUnavailable):
        registry.ensure("two", make=breaks_off)
    row = registry.store.find(Key.of("shop", "two"))
    assert row is not None
    registry.store.replace(row.key, row, Row(row.key, None, "0:old"), None)
    with pytest.raises(AgentsDuplicated, match="half of an agent"):
        registry.ensure("two")
    assert len(server.agents) == 2


def test_a_dry_run_changes_nothing(registry: Registry, server: FakeLetta) -> None:
    with pytest.raises(NoLink):
        registry.ensure("one", dry_run=True)
    assert server.agents == {}
    agent = registry.ensure("one").letta_agent_id
    plan = Template.of({"system": "You are brief."})
    assert registry.ensure("one", template=plan, update=True, dry_run=True).differences
    assert server.agents[agent]["system"] is None
    assert registry.get("one").template is None
    registry.unlink("one")
    assert registry.ensure("one", dry_run=True).outcome == "found"
    with pytest.raises(NoLink):
        registry.get("one")


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "opened",
    [
        lambda: Registry.open(f"password={SECRET} host=db"),
        lambda: Registry.open(f"postgresql://shop:{SECRET}%ss@127.0.0.1:1/db").get("x", app="a"),
        lambda: Registry.open(f"postgresql://shop:{SECRET}@127.0.0.1:1/db").get("x", app="a"),
        lambda: Registry.open("sqlite:////nowhere/x", server="http://h", password=f"{SECRET}\n"),
        lambda: Registry.open("sqlite:///relative.sqlite3"),
    ],
)
def test_no_error_holds_a_secret(opened: Callable[[], object]) -> None:
    with pytest.raises(LettaOpsError) as told:
        opened()
    assert SECRET not in str(told.value)


def test_a_password_in_the_server_s_url_is_kept_out_of_links(
    server: FakeLetta, tmp_path: Path
) -> None:
    url = server.url.replace("//", f"//letta:{SECRET}@")
    with Registry.open(f"sqlite:///{tmp_path}/r", server=url, password=PASSWORD, app="a") as mine:
        assert SECRET not in mine.server_name
        assert mine.server_name == server.url
