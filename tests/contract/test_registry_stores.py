"""One body for every place of a registry: SQLite, and a real Postgres."""

from __future__ import annotations

import datetime as dt
import shutil
import stat
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from infra.embedded.throwaway import throwaway_folder
from infra.embedded.throwaway_postgres import start_postgres
from infra.errors import LettaOpsError
from letta_ops.registry import AgentClaimed, RegistryUnavailable
from letta_ops.registry.carrying import carry, has_registry
from letta_ops.registry.links import Event, Key, Link, Row
from letta_ops.registry.postgres import SCHEMA, PostgresStore
from letta_ops.registry.sqlite import SqliteStore
from letta_ops.registry.store import Store

NOW = dt.datetime(2026, 11, 29, 12, 0, tzinfo=dt.UTC)
# Everything that an application may call its agents, compared exactly as given.
IDS = (
    "plain", "PLAIN", "a/b\\c", "it's \"quoted\"", "two\nlines\r\n", "tab\t", "e\u0301", "\u00e9",
    "\U0001f9d1\u200d\U0001f680", "%s ? :x $1", "'; DROP TABLE agents; --", " blank ", "x" * 512,
    "\U0001f600" * 512,
)  # fmt: skip


@pytest.fixture(scope="module")
def postgres() -> Iterator[Callable[[], str]]:
    """Makes databases, each by its URL."""
    parent = Path(tempfile.mkdtemp(prefix="letta-ops-registry-"))
    parent.chmod(0o755)  # the server has an account of its own
    with throwaway_folder(parent, print) as folder:
        server = start_postgres(folder)

        def make() -> str:
            name = f"registry_{uuid.uuid4().hex[:8]}"
            with server.access.connect("postgres") as link:
                link.execute(f"CREATE DATABASE {name} OWNER {server.database.owner.name}")
            owner = server.database.owner
            password = owner.password.reveal() if owner.password else ""
            return (
                f"postgresql://{owner.name}:{password}@127.0.0.1:{server.database.port}/{name}"
                "?sslmode=disable"
            )

        yield make
    shutil.rmtree(parent)


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the same registry again and again, as other processes would."""
    opened: list[Store] = []
    url = request.getfixturevalue("postgres")() if request.param == "postgres" else ""

    def open_again() -> Store:
        store: Store = PostgresStore(url) if url else SqliteStore(tmp_path / "registry.sqlite3")
        opened.append(store)
        return store

    yield open_again
    for store in opened:
        store.close()


@pytest.fixture
def store(opener: Callable[[], Store]) -> Store:
    return opener()


def agent() -> str:
    return f"agent-{uuid.uuid4()}"


def link_of(key: Key, identifier: str | None = None) -> Link:
    made = identifier or agent()
    return Link(key.app, key.id, made, "here", NOW, "somebody", "why", {"system": "{}", "n": [1]})


def event_of(link: Link, what: str = "linked", before: str | None = None) -> Event:
    at = NOW + dt.timedelta(seconds=len(what))
    return Event(
        str(uuid.uuid4()), at, "somebody", link.app, link.app_agent_id, what, link.letta_agent_id,
        before, "why",
    )  # fmt: skip


def put(store: Store, key: Key) -> Link:
    link = link_of(key)
    assert store.replace(key, None, Row(key, link), event_of(link))
    return link


def test_every_id_comes_back_exactly_as_it_was_given(store: Store) -> None:
    links = {each: put(store, Key.of("shop", each)) for each in IDS}
    for each, link in links.items():
        row = store.find(Key("shop", each))
        assert row is not None
        assert row.link == link
        assert row.link is not None
        assert row.link.template == {"system": "{}", "n": [1]}
    assert {row.key.id for row in store.rows("shop")} == set(IDS)
    assert store.find(Key("shop", "Plain")) is None
    assert store.find(Key("Shop", "plain")) is None
    assert list(store.rows("other")) == []


def test_what_another_has_changed_meanwhile_is_not_written_over(store: Store) -> None:
    key = Key.of("shop", "one")
    link = put(store, key)
    seen = store.find(key)
    assert not store.replace(key, None, Row(key, link_of(key)), None)
    newer = replace(link, letta_agent_id=agent())
    assert store.replace(key, seen, Row(key, newer), event_of(newer, "moved", link.letta_agent_id))
    assert not store.replace(key, seen, Row(key, link_of(key)), None)
    assert not store.replace(key, seen, None, None)
    now = store.find(key)
    assert now is not None
    assert now.agent == newer.letta_agent_id
    assert [each.what for each in store.events("shop", "one")] == ["linked", "moved"]


def test_an_agent_has_one_id_only(store: Store) -> None:
    link = put(store, Key.of("shop", "one"))
    for other in (Key.of("shop", "two"), Key.of("bank", "one")):
        theirs = link_of(other, link.letta_agent_id)
        with pytest.raises(AgentClaimed):
            store.replace(other, None, Row(other, theirs), event_of(theirs))
        assert store.find(other) is None
        assert list(store.events(other.app, other.id)) == []
    (row,) = store.rows(agent=link.letta_agent_id)
    assert row.key == Key("shop", "one")


def test_a_lease_is_one_caller_s_and_grows_old_by_the_store_s_clock(store: Store) -> None:
    key = Key.of("shop", "one")
    mine = Row(key, None, "mine")
    assert store.replace(key, None, mine, None)
    assert not store.replace(key, None, Row(key, None, "theirs"), None)
    row = store.find(key)
    assert row is not None
    assert (row.link, row.lease) == (None, "mine")
    assert 0 <= row.lease_seconds < 30
    link = link_of(key)
    assert not store.replace(key, Row(key, None, "theirs"), Row(key, link), None)
    assert store.replace(key, row, Row(key, link), event_of(link))
    after = store.find(key)
    assert after is not None
    assert (after.link, after.lease) == (link, None)


def test_what_is_unlinked_is_gone_and_stays_in_the_history(store: Store) -> None:
    key = Key.of("shop", "one")
    link = put(store, key)
    gone = replace(event_of(link, "unlinked", link.letta_agent_id), letta_agent_id=None)
    assert store.replace(key, store.find(key), None, gone)
    assert store.find(key) is None
    first, *_ = store.events("shop", "one")
    assert (first.what, first.letta_agent_id, first.before) == (
        "unlinked",
        None,
        link.letta_agent_id,
    )
    assert first.at.tzinfo is not None


def test_ids_that_look_the_same_are_found(store: Store) -> None:
    for each in ("Anna", "anna", "\uff41\uff4e\uff4e\uff41", "anne"):
        put(store, Key.of("shop", each))
    put(store, Key.of("bank", "ANNA"))
    key = Key.of("shop", "ANNA")
    assert {row.key.id for row in store.rows("shop", folded=key.folded)} == {
        "Anna", "anna", "\uff41\uff4e\uff4e\uff41",
    }  # fmt: skip


def test_of_many_who_come_at_once_one_is_first(opener: Callable[[], Store]) -> None:
    """Also at making the tables: each has opened it for itself."""
    key, won = Key.of("shop", "one"), []
    start = threading.Barrier(12)

    def run(number: int) -> None:
        mine = opener()
        start.wait()
        if mine.replace(key, None, Row(key, None, f"caller {number}"), None):
            won.append(number)

    callers = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert len(won) == 1


def test_pages_of_many_links_hold_each_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("letta_ops.registry.postgres.PAGE", 7)
    for app in ("a", "b"):
        for number in range(20):
            put(store, Key.of(app, f"{number}"))
    assert len({row.key for row in store.rows()}) == len(list(store.rows())) == 40
    assert len(list(store.rows("b"))) == 20


def test_a_registry_of_a_newer_letta_ops_is_left_alone(
    opener: Callable[[], Store], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import sqlite3

    first = opener()
    put(first, Key.of("shop", "one"))
    if isinstance(first, PostgresStore):
        with psycopg.connect(str(first._settings), autocommit=True) as link:
            link.execute("UPDATE letta_ops.registry_version SET version = 99")
    else:
        with sqlite3.connect(tmp_path / "registry.sqlite3") as file:
            file.execute("PRAGMA user_version = 99")
    with pytest.raises(RegistryUnavailable, match="version 99"):
        opener().find(Key("shop", "one"))


def test_a_postgres_that_was_restarted_is_found_again(postgres: Callable[[], str]) -> None:
    url = postgres()
    store = PostgresStore(url)
    try:
        link = put(store, Key.of("shop", "one"))
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        row = store.find(Key("shop", "one"))
        assert row is not None
        assert row.link == link
    finally:
        store.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.replace(":", ":wrong", 2).replace(":wrong//", "://"), "password"),
        (lambda url: url.replace("/registry_", "/no_"), "does not exist"),
        (lambda url: "postgresql://127.0.0.1:1/x", "refused"),
    ],
)
def test_why_it_cannot_be_reached_is_told_at_once(
    postgres: Callable[[], str], change: Callable[[str], str], said: str
) -> None:
    url = change(postgres())
    with pytest.raises(RegistryUnavailable, match=said) as told:
        PostgresStore(url).find(Key("shop", "one"))
    assert "letta:" not in str(told.value)


def test_a_role_that_may_only_read_is_told_what_to_do(postgres: Callable[[], str]) -> None:
    url = postgres()
    with psycopg.connect(url, autocommit=True) as link:
        link.execute(f"CREATE SCHEMA {SCHEMA}")
        link.execute("SET default_transaction_read_only = on")
    with pytest.raises(LettaOpsError) as told:
        PostgresStore(f"{url}&options=-cdefault_transaction_read_only%3Don").find(Key("a", "b"))
    assert told.value.code == "registry-unavailable"


def test_a_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    store = SqliteStore(path)
    put(store, Key.of("shop", "one"))
    store.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["no-folder/x.sqlite3", "", "text"])
def test_a_file_that_is_none_is_told(tmp_path: Path, what: str) -> None:
    if what == "text":
        (tmp_path / what).write_text("this is no database, whatever its name says\n" * 50)
    with pytest.raises(RegistryUnavailable, match="registry"):
        SqliteStore(tmp_path / what).find(Key("shop", "one"))


# Taking a registry along. `then` is the database of a backup, `now` the one that it replaces: what each
# says of an id, and when it was linked; which agents the backup has; what is right afterwards.
EARLY, LATE = NOW, NOW + dt.timedelta(hours=1)
Says = tuple[str, dt.datetime] | None


@pytest.mark.parametrize(
    ("then", "now", "there", "after"),
    [
        (("a", EARLY), ("a", EARLY), "a", "a"),
        (("a", EARLY), None, "a", "a"),
        (None, ("b", LATE), "", "b"),  # its agent is gone: that is told, and not forgotten
        (None, ("b", LATE), "b", "b"),
        (("a", EARLY), ("b", LATE), "a", "a"),
        (("a", EARLY), ("b", LATE), "ab", "b"),
        (("a", EARLY), ("b", LATE), "", "b"),
        (("b", LATE), ("a", EARLY), "ab", "b"),
        (("b", LATE), ("a", EARLY), "a", "a"),
    ],
)
def test_the_newest_link_whose_agent_is_there_wins(
    postgres: Callable[[], str], then: Says, now: Says, there: str, after: str
) -> None:
    new, old = postgres(), postgres()
    key = Key.of("shop", "one")
    for url, says in ((new, then), (old, now)):
        store = PostgresStore(url)
        assert store.find(key) is None
        if says is not None:
            link = replace(link_of(key, f"agent-{says[0]}"), linked_at=says[1])
            store.replace(key, None, Row(key, link), event_of(link))
        store.replace(Key.of("shop", "making"), None, Row(Key("shop", "making"), None, "x"), None)
        store.close()
    with psycopg.connect(new, autocommit=True) as to, psycopg.connect(old, autocommit=True) as of:
        to.execute("CREATE TABLE agents (id text, is_deleted boolean)")
        for each in there:
            to.execute("INSERT INTO agents VALUES (%s)", [f"agent-{each}"])
        for _ in range(2):
            carry(of, to, ("public", "agents"), "there", fresh=True)
    store = PostgresStore(new)
    row = store.find(key)
    assert row is not None
    assert row.link is not None
    assert (row.agent, row.link.server) == (f"agent-{after}", "there")
    assert store.find(Key("shop", "making")) is None
    said = {each.letta_agent_id for each in store.events("shop", "one") if each.what == "linked"}
    assert said == {f"agent-{says[0]}" for says in (then, now) if says}
    store.close()


def test_what_was_unlinked_since_comes_not_back_when_a_restore_is_undone(
    postgres: Callable[[], str],
) -> None:
    previous, restored = postgres(), postgres()
    key = Key.of("shop", "one")
    for url in (previous, restored):
        store = PostgresStore(url)
        link = link_of(key, "agent-a")
        store.replace(key, None, Row(key, link), event_of(link))
        if url == previous:
            gone = replace(event_of(link, "unlinked"), at=LATE, letta_agent_id=None)
            store.replace(key, store.find(key), None, gone)
        store.close()
    with (
        psycopg.connect(previous, autocommit=True) as to,
        psycopg.connect(restored, autocommit=True) as of,
    ):
        to.execute("CREATE TABLE agents AS SELECT 'agent-a' AS id")
        carry(of, to, ("public", "agents"), "here")
    store = PostgresStore(previous)
    assert store.find(key) is None
    store.close()


def test_a_key_whose_agent_was_given_to_another_stays_with_the_newer(
    postgres: Callable[[], str],
) -> None:
    new, old = postgres(), postgres()
    for url, name, at in ((new, "before", EARLY), (old, "after", LATE)):
        store = PostgresStore(url)
        key = Key.of("shop", name)
        link = replace(link_of(key, "agent-a"), linked_at=at)
        store.replace(key, None, Row(key, link), event_of(link))
        store.close()
    with psycopg.connect(new, autocommit=True) as to, psycopg.connect(old, autocommit=True) as of:
        to.execute("CREATE TABLE agents AS SELECT 'agent-a' AS id")
        carry(of, to, ("public", "agents"), "here")
    store = PostgresStore(new)
    assert [row.key.id for row in store.rows(agent="agent-a")] == ["after"]
    store.close()


def test_whether_an_agent_is_there_is_asked_of_its_index(postgres: Callable[[], str]) -> None:
    """With another collation than Letta's column has, every look would read all agents."""
    url = postgres()
    with psycopg.connect(url, autocommit=True) as link:
        link.execute("CREATE TABLE agents (id varchar PRIMARY KEY, is_deleted boolean)")
        link.execute("CREATE TABLE alembic_version (version_num varchar)")
    store = PostgresStore(url)
    link_made = put(store, Key.of("shop", "one"))
    row = store.find(Key("shop", "one"))
    assert row is not None
    assert row.link == replace(link_made, there=False)
    with psycopg.connect(url, autocommit=True) as link:
        link.execute("SET enable_seqscan = off")
        plan = link.execute(f"EXPLAIN {store._find}", ["shop", "one"]).fetchall()
    assert not [line for (line,) in plan if "Seq Scan" in line], plan
    store.close()


def test_what_gave_way_to_a_link_that_gave_way_itself_is_not_lost(
    postgres: Callable[[], str],
) -> None:
    """Since the backup, the first id was given the agent of the second, which got a new one."""
    new, old = postgres(), postgres()
    for url, says in (
        (new, {"one": ("a", EARLY), "two": ("b", EARLY)}),
        (old, {"one": ("b", LATE), "two": ("c", LATE)}),
    ):
        store = PostgresStore(url)
        for name, (each, at) in says.items():
            key = Key.of("shop", name)
            link = replace(link_of(key, f"agent-{each}"), linked_at=at)
            store.replace(key, None, Row(key, link), event_of(link))
        store.close()
    with psycopg.connect(new, autocommit=True) as to, psycopg.connect(old, autocommit=True) as of:
        to.execute("CREATE TABLE agents AS SELECT unnest(ARRAY['agent-a', 'agent-b']) AS id")
        carry(of, to, ("public", "agents"), "here")
    store = PostgresStore(new)
    assert {row.key.id: row.agent for row in store.rows()} == {"one": "agent-b", "two": "agent-c"}
    store.close()


def test_a_registry_that_may_not_be_read_is_not_passed_over(postgres: Callable[[], str]) -> None:
    url = postgres()
    with closing(PostgresStore(url)) as store:
        store.find(Key("a", "b"))
    with psycopg.connect(url, autocommit=True) as link:
        assert has_registry(link)
        link.execute(f"REVOKE ALL ON {SCHEMA}.registry_links FROM CURRENT_USER")
        with pytest.raises(RegistryUnavailable, match="may not read"):
            has_registry(link)
