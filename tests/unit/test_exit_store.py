"""A store: what is written is what V1 had, whoever interrupts; what is altered is found."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from infra.errors import LettaOpsError
from ops_cli.exit import export as exporting
from ops_cli.exit import layout, writing
from ops_cli.exit.export import Result, export, plan, verify
from ops_cli.exit.placing import staged
from ops_cli.exit.secrets import Secrets
from ops_cli.exit.v1 import File
from ops_cli.exit.verify import Verified
from tests.unit.exit_source import TALK, HandMade, agent_id, block, call, message, passage, result

OTHER_TALK = tuple({**each, "id": each["id"].replace("message-0", "message-9")} for each in TALK)


def talk(number: int) -> tuple[dict[str, Any], ...]:
    return tuple({**each, "id": each["id"].replace("-1111-", f"-{number:04d}-")} for each in TALK)


def source(agents: int = 3) -> HandMade:
    made = HandMade()
    for number in range(agents):
        made.add(
            number, talk(number), talks={f"conv-{number}": OTHER_TALK},
            passages=[passage(number) for number in range(3)],
            files=[File("f", "a.txt", "papers", "text")],
            tools=({"name": "roll", "tool_type": "custom", "source_code": "def roll(): ..."},),
        )  # fmt: skip
    return made


def exported(made: HandMade, store: Path, wanted: list[str] | None = None, **more: Any) -> Result:
    return export([lambda: nullcontext(made)], wanted, store, {}, lambda _: None, **more)


def verified(made: HandMade, store: Path, wanted: list[str] | None = None) -> list[Verified]:
    return list(verify([lambda: nullcontext(made)], wanted, store, lambda _: None))


def differences(made: HandMade, store: Path) -> set[tuple[str, str]]:
    return {(each.what, each.key) for agent in verified(made, store) for each in agent.differences}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def beside(store: Path) -> list[str]:
    return sorted(path.name for path in store.parent.iterdir() if path != store)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "here" / "store"


def test_what_is_exported_is_what_v1_had(store: Path) -> None:
    made = source()
    result = exported(made, store)
    assert [each.messages for each in result.agents] == [len(TALK) * 2] * 3
    found = verified(made, store)
    assert [(each.count, each.messages, each.passages, each.files) for each in found] == [
        (0, 18, 3, 1)
    ] * 3
    assert beside(store) == []
    modes = {path.stat().st_mode & 0o077 for path in store.rglob("*") if ".git" not in path.parts}
    assert modes == {0}


def test_a_plan_reads_all_and_writes_nothing(store: Path) -> None:
    made = source()
    found = list(plan([lambda: nullcontext(made)], None, {}, lambda _: None))
    assert not store.parent.exists()
    assert [each.as_json() for _, each in found] == [
        each.as_json() for each in exported(made, store).agents
    ]


def test_the_same_again_changes_nothing_and_more_is_added(store: Path) -> None:
    made = source()
    exported(made, store, [agent_id(0)])
    (store / "settings.json").write_text("the successor's own")
    before = contents(store)
    assert exported(made, store, [agent_id(0)]).unchanged == [agent_id(0)]
    assert contents(store) == before
    result = exported(made, store)
    assert (len(result.agents), len(result.unchanged)) == (2, 1)
    assert before.items() <= contents(store).items()
    assert differences(made, store) == set()


def test_an_agent_that_went_on_in_v1_is_only_replaced_when_told(store: Path) -> None:
    made = source(2)
    exported(made, store)
    made.add(0, [*talk(0), message(20, "user", "and on")])
    before = contents(store)
    with pytest.raises(LettaOpsError, match="of another state") as refused:
        exported(made, store)
    assert (refused.value.code, contents(store)) == ("agent-exists", before)
    result = exported(made, store, replace=True)
    assert result.replaced is not None
    kept = contents(result.replaced)
    assert kept.items() <= before.items()
    assert layout.agent_file(layout.local_id(agent_id(0))) in kept
    assert differences(made, store) == set()


Alter = Callable[[Path], None]


def in_log(old: str, new: str) -> Alter:
    def alter(store: Path) -> None:
        folder = layout.conversation_folder(layout.local_id(agent_id(0)), None)
        path = store / folder / layout.MESSAGES
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return alter


def in_json(name: str, change: Callable[[dict[str, Any]], None]) -> Alter:
    def alter(store: Path) -> None:
        folder = layout.conversation_folder(layout.local_id(agent_id(0)), None)
        path = store / (
            layout.agent_file(layout.local_id(agent_id(0)))
            if name == "agent"
            else f"{folder}/{name}"
        )
        value = json.loads(path.read_bytes())
        change(value)
        path.write_text(json.dumps(value))

    return alter


@pytest.mark.parametrize(
    ("alter", "what"),
    [
        (in_log("pernambuco", "mahogany"), "message"),
        (in_log('"d":6', '"d":7'), "message"),
        (in_log('"text":"4"', '"text":"5"'), "message"),
        (in_log("T10:04:00.123456Z\",\"updated", "T10:04:01.123456Z\",\"updated"), "message"),
        (in_log('"timestamp":1740823260123', '"timestamp":1740823260124'), "message"),
        (in_json(layout.CONVERSATION, lambda each: each["in_context_message_ids"].pop(0)), "context"),
        (in_json(layout.CONVERSATION, lambda each: each["in_context_message_ids"].reverse()), "context"),
        (in_json("agent", lambda each: each.update(system="You are new.")), "agent"),
    ],
)  # fmt: skip
def test_whatever_is_altered_is_found(alter: Alter, what: str, store: Path) -> None:
    made = source(1)
    exported(made, store)
    alter(store)
    assert {kind for kind, _ in differences(made, store)} == {what}


def cut(store: Path) -> None:
    path = next(store.glob(f"{layout.CONVERSATIONS}/*/{layout.MESSAGES}"))
    path.write_bytes(path.read_bytes()[:-20])


def without_a_line(store: Path) -> None:
    path = next(store.glob(f"{layout.CONVERSATIONS}/*/{layout.MESSAGES}"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))


@pytest.mark.parametrize(
    "alter",
    [
        cut,
        without_a_line,
        in_log('"role":"user"', '"role":"human"'),
        in_log('"type":"thinking","thinking"', '"type":"thinking","thought"'),
        in_json(layout.MANIFEST, lambda each: each.update(message_format="other")),
        in_json("agent", lambda each: each.pop("model")),
    ],
)
def test_what_the_format_has_no_place_for_is_an_error(alter: Alter, store: Path) -> None:
    made = source(1)
    exported(made, store)
    alter(store)
    with pytest.raises(LettaOpsError) as refused:
        verified(made, store)
    assert refused.value.code == "store-damaged"


def test_what_is_missing_is_found(store: Path) -> None:
    made = source(1)
    exported(made, store)
    made.add(
        0, [*talk(0), message(30, "user", "later")], talks={"conv-0": OTHER_TALK},
        blocks=(block("human", "likes coffee"), block("new", "x")),
        passages=[passage(0, "another"), passage(7)],
        tools=({"name": "other", "tool_type": "custom", "source_code": "def other(): ..."},),
        files=[File("f", "a.txt", "papers", "other text")],
    )  # fmt: skip
    assert differences(made, store) == {
        ("message", message(30, "user")["id"]), ("block", "human"), ("block", "new"),
        ("passage", "passage-0"), ("passage", "passage-7"), ("passage", "passage-1"),
        ("passage", "passage-2"), ("vector", "passage-7"), ("vector", "letta-v1-vectors.jsonl"),
        ("tool", "other"), ("file", "a.txt"), ("agent", "reference/letta-v1.json"),
    }  # fmt: skip


def test_what_the_successor_adds_is_counted_and_no_difference(store: Path) -> None:
    made = source(1)
    exported(made, store)
    folder = store / layout.conversation_folder(layout.local_id(agent_id(0)), None)
    with (folder / layout.MESSAGES).open("a") as log:
        row = {
            "id": "ui-msg-1",
            "role": "user",
            "content": [{"type": "text", "text": "x"}],
            "timestamp": 1,
        }
        entry = {
            "type": "message",
            "id": "new",
            "parentId": "00000008",
            "timestamp": "t",
            "message": row,
        }
        log.write(json.dumps(entry) + "\n")
    in_json(layout.CONVERSATION, lambda each: each["in_context_message_ids"].append("ui-msg-1"))(
        store
    )
    (found,) = verified(made, store)
    assert (found.count, found.added) == (0, {"messages": 1, "messages in context": 1})


class Killed(BaseException):
    """Nothing that anybody catches."""


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of renames that are still done, before one of them kills the run."""
    left = [1_000_000]
    rename = Path.rename

    def counted(self: Path, target: Path) -> Path:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", counted)
    return left


@pytest.mark.parametrize("kind", ["new", "added", "replaced"])
def test_whoever_is_killed_goes_on_and_nothing_half_made_looks_whole(
    kind: str, tmp_path: Path, killing: list[int]
) -> None:
    for number in range(1_000):
        made, store = source(2), tmp_path / str(number) / "store"
        if kind != "new":
            exported(made, store, [agent_id(0)])
        if kind == "replaced":
            made.add(0, [*talk(0), message(20, "user", "and on")])
        before = contents(store) if store.exists() else {}
        killing[0] = number
        try:
            exported(made, store, replace=kind == "replaced")
        except Killed:
            killing[0] = 1_000_000
        else:
            return
        for agent in layout.agent_ids(store):
            identifier = next(each for each in made.kept if layout.local_id(each) == agent)
            if before.get(layout.agent_file(agent)) is None or kind == "added":
                assert not verified(made, store, [identifier])[0].count
        exported(made, store, replace=kind == "replaced")
        assert differences(made, store) == set()
        asides = [contents(each) for each in store.parent.glob("store.replaced-*")]
        places = [contents(store), *asides]
        assert all(any(each.get(name) == data for each in places) for name, data in before.items())
        assert [name for name in beside(store) if name.startswith(".")] == []
    raise AssertionError("it never came to its end")


def test_a_run_that_fails_half_way_has_changed_nothing_and_the_next_goes_on(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, written = source(3), list[str]()
    write = writing.write_agent

    def failing(store: Path, source: Any, agent: Any, models: Any) -> Any:
        written.append(agent.id)
        if len(written) == 3:
            raise LettaOpsError("disk-full", "no room", "free some")
        return write(store, source, agent, models)

    monkeypatch.setattr(exporting, "write_agent", failing)
    with pytest.raises(LettaOpsError, match="no room"):
        exported(made, store)
    assert not store.exists()
    result = exported(made, store)
    assert written == [agent_id(0), agent_id(1), agent_id(2), agent_id(2)]
    assert len(result.agents) == 3
    assert differences(made, store) == set()


def test_a_full_disk_is_told(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(writing, "_write_json", full)
    with pytest.raises(LettaOpsError) as refused:
        exported(source(1), store)
    assert refused.value.code == "disk-full"
    assert not store.exists()


def test_two_at_once_are_told_apart(store: Path) -> None:
    with staged(store), pytest.raises(LettaOpsError, match="another export"):
        exported(source(1), store)


def test_what_is_no_store_is_left_alone(store: Path) -> None:
    store.mkdir(parents=True)
    (store / "letter.txt").write_text("dear")
    for action in (exported, verified):
        with pytest.raises(LettaOpsError) as refused:
            action(source(1), store)
        assert refused.value.code == "not-a-store"
    assert contents(store) == {"letter.txt": b"dear"}
    with pytest.raises(LettaOpsError) as refused:
        exported(source(1), store / "letter.txt")
    assert refused.value.code == "not-a-store"


def test_a_newer_format_is_refused(store: Path) -> None:
    made = source(1)
    exported(made, store)
    in_json(layout.MANIFEST, lambda each: each.update(schema_version=3))(store)
    before = contents(store)
    for action in (exported, verified):
        with pytest.raises(LettaOpsError) as refused:
            action(made, store)
        assert refused.value.code == "store-newer"
    assert contents(store) == before


@pytest.mark.parametrize("identifier", ["agent-../../x", "agent-", "x", "agent-a/b"])
def test_ids_that_lead_elsewhere_are_refused(identifier: str, store: Path) -> None:
    made = HandMade()
    agent = made.add(1)
    made.kept = {
        identifier: agent.__class__(**{**agent.__dict__, "row": {**agent.row, "id": identifier}})
    }
    made.talks[identifier, None] = TALK
    with pytest.raises(LettaOpsError) as refused:
        exported(made, store)
    assert refused.value.code == "agent-refused"


def test_strange_messages_survive(store: Path) -> None:
    made = HandMade()
    large = "x" * 5_000_000
    made.add(1, [
        message(1, "user", "lone \ud800 surrogate, nul \x00, line \u2028 ends\r\n"),
        message(2, "assistant", large),
        {**message(3, "user"), "content": None, "text": "of old"},
    ])  # fmt: skip
    made.add(2, [])
    exported(made, store)
    assert [(each.count, each.messages) for each in verified(made, store)] == [(0, 3), (0, 0)]


def test_secrets_come_along_on_request_only_and_beside_those_that_are_there(store: Path) -> None:
    made = source(1)
    made.add(0, talk(0), talks={"conv-0": OTHER_TALK}, secrets=("TOKEN", "other", "a b"))
    exported(made, store)
    assert not any(b"value of" in data for data in contents(store).values())
    path = store / layout.SECRETS
    path.parent.mkdir(mode=0o700)
    path.write_text(json.dumps({"secrets": {"theirs": "x"}}))
    result = exported(made, store, secrets=Secrets())
    local = layout.local_id(agent_id(0))
    assert json.loads(path.read_bytes())["secrets"] == {
        "theirs": "x",
        f"agent:{local}:secrets:TOKEN": "value of TOKEN",
        f"agent:{local}:secrets:OTHER": "value of other",
        f"agent:{local}:secrets:index": '["OTHER", "TOKEN"]',
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert (result.secrets, len(result.notes), result.unchanged) == (2, 1, [agent_id(0)])


def test_replace_mends_whatever_was_damaged(store: Path) -> None:
    made = source(1)
    for alter in (
        cut,
        in_log("pernambuco", "mahogany"),
        in_json("agent", lambda each: each.pop("model")),
    ):
        exported(made, store)
        alter(store)
        exported(made, store, replace=True)
        assert differences(made, store) == set()


def test_what_lies_in_memory_is_what_was_committed(store: Path) -> None:
    made = source(1)
    exported(made, store)
    (store / layout.memory_folder(layout.local_id(agent_id(0))) / "system/human.md").unlink()
    assert differences(made, store) == {("memory file", "system/human.md")}


def test_an_agent_that_is_not_there_is_a_difference_and_no_damage(store: Path) -> None:
    made = source(2)
    exported(made, store, [agent_id(0)])
    assert differences(made, store) == {("agent", agent_id(1))}


def test_what_a_failed_run_has_written_is_not_placed_by_another(store: Path) -> None:
    made = source(3)
    exported(made, store, [agent_id(0)])
    made.add(0, [*talk(0), message(20, "user", "and on")])
    before = contents(store)
    with pytest.raises(LettaOpsError, match="no agent 'typo'"):
        exported(made, store, [agent_id(0), "typo"], replace=True)
    made_now = exported(made, store, [agent_id(1)])
    assert ([each.v1_id for each in made_now.agents], made_now.replaced) == ([agent_id(1)], None)
    assert before.items() <= contents(store).items()


def test_a_conversation_of_another_agent_is_not_taken(store: Path) -> None:
    made = source(1)
    exported(made, store)
    made.add(7, [], talks={"conv-0": OTHER_TALK})
    before = contents(store)
    with pytest.raises(LettaOpsError, match="a conversation of"):
        exported(made, store, [agent_id(7)])
    assert contents(store) == before


def test_numbers_that_json_does_not_have_stay_text(store: Path) -> None:
    made = HandMade()
    calls = [
        {"id": f"c{number}", "function": {"name": "f", "arguments": raw}}
        for number, raw in enumerate(('{"x": NaN}', '{"x": 1e999}', '{"x": -Infinity}'))
    ]
    made.add(1, [message(1, "assistant", tool_calls=calls)])
    exported(made, store)
    (found,) = verified(made, store)
    assert found.count == 0
    log = next(store.glob(f"{layout.CONVERSATIONS}/*/{layout.MESSAGES}")).read_text()
    json.loads(log.splitlines()[1], parse_constant=pytest.fail)


def test_calls_of_which_some_need_an_approval_stay_together_with_their_results(store: Path) -> None:
    made = HandMade()
    made.add(1, [
        message(1, "user", "do both"),
        message(2, "assistant", None, tool_calls=[call("c1", "look")]),
        message(3, "approval", None, tool_calls=[call("c2", "remove")]),
        message(4, "approval", approvals=[{"type": "approval", "tool_call_id": "c2", "approve": True}]),
        message(5, "tool", None, tool_returns=[result("c1", "seen"), result("c2", "removed")]),
    ])  # fmt: skip
    exported(made, store)
    (found,) = verified(made, store)
    assert (found.count, found.messages) == (0, 5)
    record = json.loads(
        next(store.glob(f"{layout.CONVERSATIONS}/*/{layout.CONVERSATION}")).read_bytes()
    )
    assert len(record["in_context_message_ids"]) == 4


def test_an_error_of_what_was_said_is_kept(store: Path) -> None:
    made = HandMade()
    made.add(1, [
        message(1, "assistant", None, tool_calls=[call("c1", "send_message", message="Hi")]),
        message(2, "tool", None, tool_returns=[result("c1", "rule violated", "error")]),
    ])  # fmt: skip
    exported(made, store)
    assert verified(made, store)[0].count == 0
    assert b"rule violated" in b"".join(contents(store).values())


def test_a_store_on_a_disk_of_its_own_is_written_inside(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.mkdir(parents=True)
    monkeypatch.setattr("ops_cli.exit.placing.is_mounted", lambda _: True)
    made = source(2)
    exported(made, store, [agent_id(0)])
    exported(made, store)
    assert differences(made, store) == set()
    assert [each.name for each in store.iterdir() if each.name.startswith(".")] == []
