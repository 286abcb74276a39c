"""Memory as files: names that can't lead out, values to the byte, passages that can be read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_cli.exit.memory import (
    INDEX,
    OTHER,
    SINGLE_FILES,
    MemoryNote,
    Told,
    blocks_of,
    memory_files,
    passage_entry,
    passages_in,
    value_of,
)  # fmt: skip
from ops_cli.exit.names import Names, plain
from ops_cli.exit.repository import Memory, write_repository
from ops_cli.exit.v1 import Agent, File
from tests.unit.exit_source import HandMade, block, passage


def files_of(source: HandMade, agent: Agent) -> tuple[dict[str, bytes], Told, list[bytes]]:
    told, vectors = Told(), list[bytes]()
    made = memory_files(agent, source.passages(agent), source.files(agent), told, vectors.append)
    return dict(made), told, vectors


@given(st.text())
def test_no_name_leads_out_or_can_not_be_kept(text: str) -> None:
    name = Names().of(text, ".md")
    parts = name.split("/")
    assert name.isascii()
    assert all(part not in ("", ".", "..") and not part.startswith(".") for part in parts)
    assert all(len(part) <= 120 for part in parts)
    assert plain(plain(text)) == plain(text)


def test_labels_that_collide_keep_apart() -> None:
    names = Names()
    given = ("Ümlaut", "umlaut", "UMLAUT", "東京", "大阪", "../../etc", "con", "")
    assert [names.of(each, ".md") for each in given] == [
        "Umlaut.md", "umlaut-2.md", "UMLAUT-3.md", "u130016b2.md", "u6df97746.md", "etc.md",
        "_con.md", "unnamed.md",
    ]  # fmt: skip


def test_blocks_stand_where_the_successor_looks() -> None:
    agent = HandMade().add(blocks=(
        block("human", "  likes tea \n", description="about\n the: human", limit=100),
        block("system/persona", "P", read_only=True, shared_with=["agent-2"]),
        block("東京", "\ud800x"),
        block("plans", "later", conversation_id="conv-1"),
    ))  # fmt: skip
    files, told, _ = files_of(HandMade(), agent)
    assert (
        files["system/human.md"]
        == b"---\ndescription: about the: human\nlimit: 100\n---\n  likes tea \n"
    )
    assert b"read_only: true" in files["system/persona.md"]
    assert "description: 東京: ".encode() in files[blocks_of(agent)[2].path]
    assert [each.path for each in blocks_of(agent)][3] == "reference/conversations/conv-1/plans.md"
    assert value_of(files["system/human.md"]) == b"  likes tea \n"
    assert told.notes[MemoryNote.SHARED] == told.notes[MemoryNote.RENAMED] == 1
    assert told.notes[MemoryNote.SURROGATES] == 1


@pytest.mark.parametrize("count", [3, SINGLE_FILES + 40])
def test_passages_are_read_back_from_their_files(count: int) -> None:
    source = HandMade()
    text = "<!-- letta-v1 passage {} -->\n---\n\r\n -->"
    given = [passage(number, text if number == 1 else "") for number in range(count)]
    files, told, vectors = files_of(source, source.add(passages=given))
    found = [
        (head["id"], read.decode())
        for path, content in files.items()
        if path.startswith("reference/archival/") and path != INDEX
        for head, read in passages_in(content)
    ]
    assert found == [(each.id, each.text) for each in given]
    assert (INDEX in files) is (count > SINGLE_FILES)
    assert (told.passages, len(vectors)) == (count, count)
    assert json.loads(vectors[0]) == {
        "id": "passage-0", "dimensions": 2, "embedding": "AAAAPwAAgL4=",
    }  # fmt: skip


@given(st.text())
def test_any_text_of_a_passage_is_read_back(text: str) -> None:
    entry = passage_entry(passage(1, text or "x"))
    ((head, read),) = passages_in(b"---\ndescription: x\n---\n" + entry + b"")
    assert read == (text or "x").encode()
    assert head["id"] == "passage-1"


def test_what_is_cut_or_altered_is_no_passage() -> None:
    entry = passage_entry(passage(1))
    for wrong in (entry[:-3], entry + b"x", b"x" + entry, entry.replace(b"Passage 1", b"Passage")):
        with pytest.raises(ValueError, match="passage"):
            list(passages_in(wrong))


def test_tools_files_and_what_has_no_place_are_there() -> None:
    source = HandMade()
    tool = {"name": "Roll ../dice", "tool_type": "custom", "source_code": "def roll(): ...",
            "pip_requirements": [{"name": "numpy", "version": "2.0"}]}  # fmt: skip
    agent = source.add(
        tools=(tool, {"name": "send_message", "tool_type": "letta_core"}),
        files=(
            File("f1", "../notes.md", "papers", "# notes"),
            File("f2", "notes.md", "papers", "x"),
        ),
        other={"identities": [{"id": "identity-1"}]},
        secrets=("TOKEN",),
        row={"tool_rules": [{"type": "x"}]},
    )
    files, told, _ = files_of(source, agent)
    assert files["skills/Roll-..-dice/tool.py"] == b"def roll(): ..."
    assert b"numpy==2.0" in files["skills/Roll-..-dice/SKILL.md"]
    assert files["reference/files/papers/-notes.md.txt".replace("/-", "/")] == b"# notes"
    assert (
        files["reference/files/papers/notes-2.md.txt".replace("notes-2.md", "notes.md-2")] == b"x"
    )
    other = json.loads(files[OTHER])
    assert (other["identities"], other["secrets"]) == ([{"id": "identity-1"}], ["TOKEN"])
    assert {MemoryNote.RULES, MemoryNote.IDENTITIES, MemoryNote.SECRETS, MemoryNote.TOOLS} <= set(
        told.notes
    )


def test_a_repository_is_one_that_git_knows_and_goes_on_where_v1s_was(tmp_path: Path) -> None:
    from dulwich.repo import Repo

    first = write_repository(
        tmp_path / "first", [("system/a.md", b"old"), ("skills/x/SKILL.md", b"kept")], 1_700_000_000, None
    )  # fmt: skip
    bare = tmp_path / "bare"
    (tmp_path / "first" / ".git").rename(bare)
    config = bare / "config"
    config.write_text(config.read_text().replace("bare = false", "bare = true"))
    (bare / "objects" / "info").mkdir()
    second = write_repository(tmp_path / "second", [("system/a.md", b"new")], 1_700_000_001, bare)
    with Repo(str(tmp_path / "second")) as repo:
        assert [step.commit.id.decode() for step in repo.get_walker()] == [second, first]
        assert repo.get_config().get((b"core",), b"quotePath") == b"false"
    memory = Memory(tmp_path / "second")
    assert (memory.read("system/a.md"), memory.read("skills/x/SKILL.md")) == (b"new", b"kept")
    assert (tmp_path / "second" / "skills/x/SKILL.md").read_bytes() == b"kept"
    assert memory.lacks(bare, {"system/a.md"}) is None
    memory.close()
