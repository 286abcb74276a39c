"""Agents with everything that is theirs: into a file, out of it, out of a backup, and nobody else's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import letta_client
import pytest

from backups.archives.file import open_archive
from backups.archives.place import InFile
from backups.opening import Key
from infra.api import api
from tests.live.agents import ANOTHER, SECRET, Rich, asked, rich_agent, say
from tests.live.machine import LETTA_OPS, ROOT, Stack, kill_tree, wait_until

# What every agent of `rich_agent` has, by table: at least so many rows.
EVERYTHING = {
    "agents": 1, "agents_tags": 2, "agent_environment_variables": 1, "archival_passages": 2,
    "archives": 1, "block": 2, "conversations": 1, "conversation_messages": 2, "file_contents": 1,
    "files": 1, "files_agents": 1, "identities": 1, "identities_agents": 1, "identities_blocks": 1,
    "messages": 5, "organizations": 1, "run_metrics": 1, "runs": 1, "source_passages": 1, "sources": 1,
    "step_metrics": 1, "steps": 1, "tools": 1, "tools_agents": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def house(stack: Stack) -> Iterator[Stack]:
    """The shared stack; agents, blocks and folders that these tests leave are deleted."""
    yield stack
    with api(stack.deployment) as client:
        for agent in stack.json("agent", "list"):
            with suppress(letta_client.NotFoundError):  # it went with the one that manages it
                client.agents.delete(agent["id"])
        for folder in list(client.folders.list()):
            client.folders.delete(folder.id)


@pytest.fixture
def rich(house: Stack) -> Rich:
    return rich_agent(house)


def archived(house: Stack, agent: str, folder: Path) -> Path:
    path = folder / "one.agents"
    house.json("agent", "archive", agent, "-o", str(path), "--force")
    return path


def equal(house: Stack, left: str | Path, right: str | Path) -> dict[str, Any]:
    answer: dict[str, Any] = house.json("agent", "diff", str(left), str(right))
    assert answer["equal"] is True
    return answer


def others(house: Stack, but: str) -> dict[str, tuple[int, str]]:
    """Every table of the database but the audit trail, without the rows of one agent: count and hash."""
    found = {}
    with house.administrator() as link:
        tables = link.execute(
            "SELECT c.relname, EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid"
            " AND a.attname = 'agent_id') FROM pg_class c WHERE c.relkind = 'r'"
            " AND c.relnamespace = 'public'::regnamespace"
        ).fetchall()
        for table, has_agent in tables:
            mine = (
                f"agent_id = '{but}'"
                if has_agent
                else f"id = '{but}'"
                if table == "agents"
                else "false"
            )
            row = link.execute(
                f"SELECT count(*), coalesce(md5(string_agg(t::text, '' ORDER BY t::text)), '')"  # noqa: S608
                f" FROM public.{table} t WHERE ({mine}) IS NOT TRUE"
            ).fetchone()
            assert row is not None
            found[table] = row
    return found


def test_an_agent_is_archived_deleted_and_brought_back_to_the_letter(
    house: Stack, rich: Rich, tmp_path: Path
) -> None:
    neighbour = rich_agent(house)
    path = archived(house, rich.id, tmp_path)
    rows = house.json("agent", "archive", rich.id, "-o", str(path), "--force")["rows"]
    assert {
        table: rows.get(table, 0) for table in EVERYTHING if rows.get(table, 0) < EVERYTHING[table]
    } == {}
    before = others(house, rich.id)
    first = house.json("agent", "delete", rich.name, "--yes")
    with api(house.deployment) as client:
        assert rich.id not in {agent.id for agent in client.agents.list()}
        assert neighbour.id in {agent.id for agent in client.agents.list()}
    assert Path(first["archive"]).stat().st_mode & 0o777 == 0o600
    answer = house.json("agent", "restore", str(path))
    assert answer["agents"] == [{"id": rich.id, "archived_id": rich.id, "name": rich.name}]
    assert answer["notes"] == []
    assert equal(house, path, rich.id)["mapped"] is False
    equal(house, first["archive"], rich.id)
    assert others(house, rich.id) == before
    with api(house.deployment) as client:
        assert say(client, rich.id, "Still there?")
        assert client.agents.passages.list(rich.id)
    assert SECRET not in path.read_bytes().decode("latin-1")


@pytest.mark.long
def test_agent_files_come_along_and_out_again_while_the_server_is_down(
    house: Stack, rich: Rich, tmp_path: Path
) -> None:
    path, folder = tmp_path / "with.agents", tmp_path / "out"
    made = house.json("agent", "archive", rich.name, "--agent-files", "-o", str(path))
    assert made["agent_files"] == len(made["agents"])
    house.json("agent", "export", rich.id, "-o", str(tmp_path / "now.af"))
    house.stop("letta")
    words = ("agent", "export", "--archive", str(path), rich.id, "-o", str(folder))
    (taken,) = house.json(*words)["agents"]
    assert house.json(*words, code=1)["error"]["code"] == "output-refused"
    equal(house, taken["file"], tmp_path / "now.af")
    equal(house, path, rich.id)
    house.json("up", "--no-smoke")


def test_an_archive_in_the_store_is_listed_restored_compared_and_deleted(
    house: Stack, rich: Rich
) -> None:
    made = house.json("agent", "archive", rich.name, "--store")
    name = made["file"].removeprefix("store:")
    (held,) = [each for each in house.json("agent", "archives")["archives"] if each["name"] == name]
    assert (held["bytes"], made["agents"][0]["id"]) == (made["bytes"], rich.id)
    listing = [each["id"] for each in house.json("backup", "list", "--all")]
    house.json("agent", "delete", rich.id, "--yes")
    restored = house.json("agent", "restore", "store:latest")
    assert [agent["id"] for agent in restored["agents"]] == [rich.id]
    equal(house, "store:latest", rich.id)
    # It is no backup, and no rubbish of one.
    assert [each["id"] for each in house.json("backup", "list", "--all")] == listing
    assert name not in str(house.json("backup", "prune"))
    refused = house.run("--json", "agent", "archives", "--delete", name)
    assert refused.json["error"]["code"] == "not-confirmed"
    kept = house.json("agent", "archive", rich.name, "--store")
    house.json("agent", "archives", "--delete", name, "--yes")
    for word in ("", kept["file"].removeprefix("store:")[:8]):
        unsaid = house.run("--json", "agent", "archives", "--delete", word, "--yes")
        assert (unsaid.code, unsaid.json["error"]["code"]) == (1, "no-archive")
    gone = house.run("--json", "agent", "restore", f"store:{name}")
    assert (gone.code, gone.json["error"]["code"]) == (1, "no-archive")


@pytest.mark.long
def test_an_agent_that_is_replaced_stays_in_the_groups_of_others(
    house: Stack, rich: Rich, tmp_path: Path
) -> None:
    boss = rich_agent(house)
    with api(house.deployment) as client:
        config = {"manager_type": "supervisor", "manager_agent_id": boss.id}
        body = {"agent_ids": [rich.id], "description": "of the boss", "manager_config": config}
        group: Any = client.post("/v1/groups/", cast_to=object, body=body)
    path = archived(house, rich.id, tmp_path)
    house.json("agent", "restore", str(path), "--on-conflict", "replace", "--yes")
    with house.administrator() as link:
        members = link.execute(
            "SELECT agent_id FROM groups_agents WHERE group_id = %s", [group["id"]]
        ).fetchall()
    assert members == [(rich.id,)]
    deleted = house.json("agent", "delete", rich.id, "--yes")
    assert "1 membership(s) in groups that other agents manage" in str(deleted["notes"])
    house.json("agent", "delete", boss.id, "--yes")


def test_what_reaches_the_model_next_is_the_same_byte_by_byte(
    house: Stack, rich: Rich, tmp_path: Path
) -> None:
    path = archived(house, rich.id, tmp_path)
    with api(house.deployment) as client:
        say(client, rich.id, ANOTHER)
    before = asked(house, rich.id, ANOTHER, 1)
    house.json("agent", "restore", str(path), "--on-conflict", "replace", "--yes")
    equal(house, path, rich.id)
    with api(house.deployment) as client:
        say(client, rich.id, ANOTHER)
    assert json.dumps(asked(house, rich.id, ANOTHER, 2)) == json.dumps(before)


@pytest.mark.long
def test_an_agent_that_is_there_is_only_replaced_when_told_and_archived_first(
    house: Stack, rich: Rich, tmp_path: Path
) -> None:
    later = archived(house, rich.id, tmp_path)
    answer = house.run("--json", "agent", "restore", str(later))
    assert answer.code == 1
    assert answer.json["error"]["code"] == "agent-exists"
    assert rich.id in answer.json["error"]["message"]
    refused = house.run("--json", "agent", "restore", str(later), "--on-conflict", "replace")
    assert refused.json["error"]["code"] == "not-confirmed"
    skipped = house.json("agent", "restore", str(later), "--on-conflict", "skip")
    assert (skipped["skipped"], skipped["rows"]) == ([rich.id], {})
    equal(house, later, rich.id)
    planned = house.json("agent", "restore", str(later), "--on-conflict", "replace", "--dry-run")
    assert planned["replaced"] == [rich.id]
    assert planned["set_aside"] is None
    with api(house.deployment) as client:
        say(client, rich.id, "And this later still.")
    replaced = house.json("agent", "restore", str(later), "--on-conflict", "replace", "--yes")
    equal(house, later, rich.id)
    # What was replaced can come back in its turn.
    house.json("agent", "restore", replaced["set_aside"], "--on-conflict", "replace", "--yes")
    equal(house, replaced["set_aside"], rich.id)


@pytest.mark.long
def test_a_copy_under_new_ids_is_equal_under_a_map_of_them_and_lives_on_its_own(
    house: Stack, rich: Rich, tmp_path: Path
) -> None:
    path = archived(house, rich.id, tmp_path)
    (copy,) = house.json("agent", "restore", str(path), "--new-ids")["agents"]
    assert copy["id"] != rich.id
    assert equal(house, rich.id, copy["id"])["mapped"] is True
    with house.administrator() as link:
        row = link.execute(
            "SELECT count(*) FROM agents a, json_array_elements_text(a.message_ids) m(id)"
            " JOIN messages USING (id) WHERE a.id = %s AND messages.agent_id = a.id",
            [copy["id"]],
        ).fetchone()
        ids = link.execute(
            "SELECT json_array_length(message_ids) FROM agents WHERE id = %s", [copy["id"]]
        ).fetchone()
    assert row == ids
    with api(house.deployment) as client:
        assert say(client, copy["id"], "Who are you?")
        client.agents.blocks.update("human", agent_id=copy["id"], value="Somebody else.")
        mine = {block.label: block.value for block in client.agents.blocks.list(rich.id)}
    assert mine["human"] == "Now it is coffee."
    equal(house, path, rich.id)


def test_one_agent_comes_out_of_a_backup_while_the_server_serves(house: Stack, rich: Rich) -> None:
    neighbour = rich_agent(house)
    backup = house.json("backup", "create")["id"]
    place = f"backup:{backup}:{rich.id}"
    equal(house, place, rich.id)
    house.json("agent", "delete", rich.id, "--yes")
    pid = house.pid("letta")
    before = others(house, rich.id)
    answer = house.json("agent", "restore", "--backup", "latest", "--agent", rich.name)
    assert answer["agents"][0]["id"] == rich.id
    equal(house, place, rich.id)
    after = others(house, rich.id)
    for table in ("agents", "messages", "conversations", "runs", "steps", "blocks_agents", "tools"):
        assert after[table] == before[table], table
    equal(house, f"backup:{backup}:{neighbour.name}", neighbour.id)
    assert house.pid("letta") == pid
    with api(house.deployment) as client:
        assert say(client, rich.id, "Back again?")


@pytest.mark.parametrize("light", ["0", "3"])
def test_out_of_a_large_backup_only_rows_with_the_right_keys_are_taken(
    house: Stack, rich: Rich, light: str
) -> None:
    """What is large is read by its keys: here everything is."""
    rich_agent(house)
    backup = house.json("backup", "create")["id"]
    script = (
        "import sys; from backups.archives import from_backup; from_backup.LIGHT = int(sys.argv[1]);"
        " from ops_cli.main import run; sys.exit(run(sys.argv[2:]))"
    )
    done = house.machine.run(
        sys.executable, "-c", script, light, "--stack", house.name,
        "--json", "agent", "diff", f"backup:{backup}:{rich.id}", rich.id,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert done.json["equal"] is True


def test_what_other_agents_use_stays_as_it_is(house: Stack, rich: Rich, tmp_path: Path) -> None:
    """A block of two agents: it changes for neither when one of them is brought back."""
    sharer = rich_agent(house)
    with api(house.deployment) as client:
        client.agents.blocks.attach(rich.block, agent_id=_without_label(client, sharer.id, "house"))
    path = archived(house, rich.id, tmp_path).rename(tmp_path / "rich.agents")
    with api(house.deployment) as client:
        client.blocks.update(rich.block, value="We moved.")
    before = archived(house, sharer.id, tmp_path)
    answer = house.json("agent", "restore", str(path), "--on-conflict", "replace", "--yes")
    assert any("other agents use" in note for note in answer["notes"])
    equal(house, before, sharer.id)
    with api(house.deployment) as client:
        assert client.blocks.retrieve(rich.block).value == "We moved."


def _without_label(client: Any, agent: str, label: str) -> str:
    for block in client.agents.blocks.list(agent):
        if block.label == label:
            client.agents.blocks.detach(block.id, agent_id=agent)
    return agent


@pytest.mark.long
def test_several_agents_and_all_of_them_go_into_one_archive(house: Stack, tmp_path: Path) -> None:
    pair = [rich_agent(house), rich_agent(house)]
    path = tmp_path / "pair.agents"
    answer = house.json("agent", "archive", *(each.id for each in pair), "-o", str(path))
    assert {agent["id"] for agent in answer["agents"]} == {each.id for each in pair}
    every = house.json("agent", "archive", "--all", "-o", str(tmp_path / "all.agents"))
    assert len(every["agents"]) == len(house.json("agent", "list"))
    house.json("agent", "delete", *(each.id for each in pair), "--yes")
    house.json("agent", "restore", str(path))
    for each in pair:
        assert house.json("agent", "show", each.id)["counts"]["passages"] == 2


def test_show_and_messages_need_no_server(house: Stack, rich: Rich) -> None:
    shown = house.json("agent", "show", rich.name)
    assert {block["label"]: block["value"] for block in shown["blocks"]}[
        "human"
    ] == "Now it is coffee."
    counts = shown["counts"]
    assert (counts["passages"], counts["conversations"], counts["secrets"]) == (2, 1, 1)
    assert shown["context"]["tokens_estimated"] is True
    with api(house.deployment) as client:
        window: Any = client.get(f"/v1/agents/{rich.id}/context", cast_to=object)
    estimated = sum(shown["context"]["tokens"].values())
    assert 0.5 < estimated / window["context_window_size_current"] < 2
    told = house.json("agent", "messages", rich.id)
    assert len(told) == counts["messages"]
    assert {message["conversation"] for message in told} == {None, rich.conversation}
    assert "Another talk" in [message["text"] for message in told]
    only = house.json("agent", "messages", rich.id, "--conversation", rich.conversation)
    assert {message["conversation"] for message in only} == {rich.conversation}
    assert len(house.json("agent", "messages", rich.id, "--last", "1")) == 1
    assert house.json("agent", "messages", rich.id, "--since", "2999-01-01T00:00") == []
    assert SECRET not in json.dumps(shown)
    away = {"LETTA_OPS_SERVER_URL": "http://127.0.0.1:9"}
    assert house.run("agent", "show", rich.id, environment=away).code == 0
    assert house.run("agent", "messages", rich.id, environment=away).code == 0
    assert house.run("agent", "messages", rich.id, "--since", "soon").code == 1


@pytest.mark.long
def test_an_archive_that_was_changed_or_cut_changes_nothing(
    house: Stack, rich: Rich, tmp_path: Path
) -> None:
    path = archived(house, rich.id, tmp_path)
    data = path.read_bytes()
    house.json("agent", "delete", rich.id, "--yes")
    for spoiled in (data[: len(data) // 2], data[:-1], data[:500] + b"\0" + data[501:]):
        path.write_bytes(spoiled)
        answer = house.run("--json", "agent", "restore", str(path))
        assert answer.code == 1
        assert answer.json["error"]["code"] == "archive-damaged"
    assert house.run("agent", "show", rich.id).code == 1
    path.write_bytes(data)
    house.json("agent", "restore", str(path))
    equal(house, path, rich.id)


@pytest.mark.long
def test_secrets_of_another_key_are_refused_and_can_be_left_out(
    house: Stack, rich: Rich, tmp_path: Path
) -> None:
    path = archived(house, rich.id, tmp_path)
    house.json("agent", "delete", rich.id, "--yes")
    other = {"LETTA_OPS_SERVER_ENCRYPTION_KEY": "another-key-another-key-another-key"}
    answer = house.run("--json", "agent", "restore", str(path), environment=other)
    assert answer.json["error"]["code"] == "other-encryption-key"
    answer = house.run(
        "--json", "agent", "restore", str(path), "--without-secrets", environment=other
    )
    assert answer.code == 0, answer.out
    assert house.json("agent", "show", rich.id)["counts"]["secrets"] == 0


def test_two_restores_at_once_bring_one_agent(house: Stack, rich: Rich, tmp_path: Path) -> None:
    path = archived(house, rich.id, tmp_path)
    house.json("agent", "delete", rich.id, "--yes")
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(lambda _: house.run("--json", "agent", "restore", str(path)), range(2))
        )
    codes = sorted(answer.code for answer in answers)
    assert codes == [0, 1], [answer.out for answer in answers]
    (failed,) = (answer for answer in answers if answer.code == 1)
    assert failed.json["error"]["code"] in ("locked", "agent-exists", "restore-refused")
    equal(house, path, rich.id)


def test_a_restore_that_is_killed_changed_nothing(house: Stack, rich: Rich, tmp_path: Path) -> None:
    before = archived(house, rich.id, tmp_path)
    with house.administrator() as link:
        # Somebody holds what the restore must wait for, so that it is killed in the middle.
        link.execute("BEGIN")
        link.execute("SELECT FROM agents WHERE id = %s FOR UPDATE", [rich.id])
        log = tmp_path / "log"
        words = ("agent", "restore", str(before), "--on-conflict", "replace", "--yes")
        child = house.machine.start(LETTA_OPS, "--stack", house.name, *words, log=log)
        wait_until("the restore waits", lambda: _waiting(house))
        kill_tree(child)
        link.execute("ROLLBACK")
    wait_until("its session is gone", lambda: not _waiting(house))
    equal(house, before, rich.id)
    house.json(*words)
    equal(house, before, rich.id)


def _waiting(house: Stack) -> bool:
    with house.administrator() as link:
        row = link.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'letta-ops'"
            " AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
        ).fetchone()
    return bool(row and row[0])


# Of the table in docs/agents.md: what the count of a loss is called, and the tables of an archive.
FEATURES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "name, system prompt, model, settings, tool rules, tags": ("tags", ("agents", "agents_tags")),
    "memory blocks": ("blocks", ("block", "blocks_agents")),
    "history of blocks": (None, ("block_history",)),
    "messages in context": (None, ("messages",)),
    "messages no longer in context": (None, ("messages",)),
    "other conversations and their messages": (
        "conversations",
        ("conversations", "conversation_messages"),
    ),
    "steps and runs": (None, ("steps", "runs", "step_metrics", "run_metrics")),
    "archival passages with their vectors": ("passages", ("archives", "archival_passages")),
    "files and folders": ("files", ("files", "file_contents", "source_passages", "sources")),
    "custom tools": ("tools", ("tools", "tools_agents")),
    "MCP servers": (None, ("mcp_server", "mcp_tools")),
    "secrets": ("secrets", ("agent_environment_variables",)),
    "identities": ("identities", ("identities", "identities_agents")),
    "group that it manages, with its members": (None, ("groups", "groups_agents")),
    "what was sent to models (traces)": (None, ("provider_traces",)),
    "sessions with other services (OAuth)": (None, ("mcp_oauth",)),
    "git memory": (None, ()),
}
# What `rich_agent` has none of.
WITHOUT_ROWS = {"block_history", "mcp_server", "mcp_tools", "groups", "groups_agents"}


def test_the_table_of_what_comes_along_is_true(house: Stack, rich: Rich, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "agents.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    table = {name: (file, archive) for name, file, archive in rows[1:]}
    assert table.keys() == FEATURES.keys()
    exported = house.json("agent", "export", rich.id, "-o", str(tmp_path / "rich.af"))
    losses = {each["what"]: each for each in exported["loss"]}
    archive = house.json("agent", "archive", rich.id, "-o", str(tmp_path / "rich.agents"))
    for name, (file, carried) in table.items():
        what, tables = FEATURES[name]
        if what is not None:
            lost = losses[what]["lost"]
            assert (lost == 0) is (file == "carried" or name.startswith("files")), name
        for each in tables:
            expected = carried == "carried" and each not in WITHOUT_ROWS
            assert (each in archive["rows"]) is expected, (name, each)
    with open_archive(InFile(tmp_path / "rich.agents"), Key()) as opened:
        known = set(opened.header.tables)
        for _, pieces in opened.tables():
            assert sum(map(len, pieces)) > 0
    assert known >= WITHOUT_ROWS
    assert archive["left_out"]["provider_traces"] > 0


def test_a_group_comes_with_its_members_and_goes_back_together(
    house: Stack, rich: Rich, tmp_path: Path
) -> None:
    """A sleeptime agent is another one that the first one manages: alone, neither works."""
    model = house.deployment.model
    with api(house.deployment) as client:
        made = client.agents.create(
            name="sleeper",
            model=model.handle,
            embedding=model.embedding,
            enable_sleeptime=True,
            agent_type="memgpt_v2_agent",
            memory_blocks=[{"label": "human", "value": "Sleeps."}],
        )
    path = tmp_path / "sleeper.agents"
    answer = house.json("agent", "archive", made.id, "-o", str(path))
    assert len(answer["agents"]) == 2
    assert answer["rows"]["groups"] == 1
    assert answer["rows"]["groups_agents"] == 1
    exported = house.json("agent", "export", made.id, "-o", str(tmp_path / "sleeper.af"))
    assert [each["has"] for each in exported["loss"] if each["what"] == "groups"] == [1]
    house.json("agent", "delete", made.id, "--yes")
    house.json("agent", "restore", str(path))
    equal(house, path, made.id)
    copies = house.json("agent", "restore", str(path), "--new-ids")["agents"]
    ids = {copy["archived_id"]: copy["id"] for copy in copies}
    with house.administrator() as link:
        row = link.execute(
            "SELECT g.manager_agent_id, m.agent_id, g.agent_ids FROM groups g JOIN groups_agents m"
            " ON m.group_id = g.id WHERE g.manager_agent_id = %s",
            [ids[made.id]],
        ).fetchone()
    assert row is not None
    assert {row[0], row[1]} == set(ids.values())
    assert row[2] == [row[1]]


@pytest.fixture(scope="module")
def elsewhere(second_stack: Stack) -> Stack:
    """Another server, with another database and another key."""
    second_stack.up("--no-smoke")
    return second_stack


@pytest.mark.long
def test_secrets_are_encrypted_anew_where_the_old_key_is_given(
    house: Stack, rich: Rich, elsewhere: Stack, tmp_path: Path
) -> None:
    path = archived(house, rich.id, tmp_path)
    old = house.deployment.server.encryption_key
    assert old is not None
    key = tmp_path / "old.key"
    key.write_text(old.reveal())
    for words in (["--secrets-key", "file:/nowhere"], ["--secrets-key", old.reveal()]):
        refused = elsewhere.run("--json", "agent", "restore", str(path), *words)
        assert refused.code in (1, 2)
        assert old.reveal() not in refused.out + refused.err
    answer = elsewhere.json("agent", "restore", str(path), "--secrets-key", f"file:{key}")
    assert "1 secret(s) were encrypted with this server's key" in answer["notes"]
    with api(elsewhere.deployment) as client:
        found = client.agents.retrieve(rich.id, include=["agent.secrets"])
    assert SECRET in found.model_dump_json()
    elsewhere.json("agent", "delete", rich.id, "--yes")


def test_an_agent_moves_to_another_server_with_everything_but_its_secrets(
    house: Stack, rich: Rich, elsewhere: Stack, tmp_path: Path
) -> None:
    path = archived(house, rich.id, tmp_path)
    refused = elsewhere.run("--json", "agent", "restore", str(path))
    assert refused.json["error"]["code"] == "other-encryption-key"
    elsewhere.json("agent", "restore", str(path), "--without-secrets")
    there = elsewhere.json("agent", "show", rich.id)
    here = house.json("agent", "show", rich.id)
    assert there["counts"] == {**here["counts"], "secrets": 0}
    assert there["blocks"] == here["blocks"]
    with elsewhere.administrator() as link:
        row = link.execute(
            "SELECT nextval('message_seq_id') > (SELECT max(sequence_id) FROM messages)"
        ).fetchone()
    assert row == (True,)
    with api(elsewhere.deployment) as client:
        assert say(client, rich.id, "Where am I?")
        listed = {model.handle: model.api_model_endpoint for model in client.models.list()}
        configured = client.agents.retrieve(rich.id).llm_config
        assert configured.api_model_endpoint == listed[configured.handle]  # not where it comes from
    # Once more, where all of it is: nothing is there twice.
    elsewhere.json("agent", "delete", rich.id, "--yes")
    elsewhere.json("agent", "restore", str(path), "--without-secrets")
    assert elsewhere.json("agent", "show", rich.id)["counts"] == there["counts"]
    elsewhere.json("agent", "delete", rich.id, "--yes")


@pytest.mark.long
def test_a_fleet_moves_by_the_api_alone(
    house: Stack, rich: Rich, elsewhere: Stack, tmp_path: Path
) -> None:
    def by_api(stack: Stack) -> dict[str, str]:
        server = stack.deployment.server
        assert server.password is not None
        return {
            "LETTA_OPS_SERVER_URL": server.url,
            "LETTA_OPS_SERVER_PASSWORD": server.password.reveal(),
            "LETTA_OPS_STATE": str(tmp_path / "state"),
        }

    def run(stack: Stack, *words: str) -> Any:
        answer = stack.machine.run(LETTA_OPS, "--json", *words, environment=by_api(stack))
        assert answer.code == 0, answer.out + answer.err
        return answer.json

    words = ("agent", "export", "--name", rich.name, "-o", str(tmp_path / "out"))
    (row,) = run(house, *words)["agents"]
    assert row["lost"]["passages"] == 2
    taken = run(elsewhere, "agent", "import", str(tmp_path / "out"))
    (made,) = taken["agents"]
    shown = run(elsewhere, "agent", "show", made["id"])
    assert shown["context"]["tokens_estimated"] is False
    assert min(shown["context"]["tokens"][part] for part in ("system", "blocks", "messages")) > 0
    assert {block["label"] for block in shown["blocks"]} == {"human", "house"}
    assert "Hello" in [
        message["text"] for message in run(elsewhere, "agent", "messages", made["id"])
    ]
    with api(elsewhere.deployment) as client:
        assert say(client, made["id"], "Where am I?")
        client.agents.delete(made["id"])
