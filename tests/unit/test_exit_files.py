"""Agents out of agent files: of both formats, always under the same ids, and no two alike."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from infra.errors import LettaOpsError
from ops_cli.exit.export import export, verify
from ops_cli.exit.from_files import FileSource

EXAMPLE = Path(__file__).parents[2] / "docs" / "example.af"


def test_a_file_is_exported_and_verified(tmp_path: Path) -> None:
    source = FileSource(EXAMPLE)
    given = json.loads(EXAMPLE.read_text())["agents"][0]
    sources, store = [lambda: nullcontext(source)], tmp_path / "store"
    (made,) = export(sources, None, store, {}, lambda _: None).agents
    assert (made.messages, made.name) == (len(given["messages"]), given["name"])
    (found,) = verify(sources, None, store, lambda _: None)
    assert (found.count, found.messages) == (0, len(given["messages"]))


def test_the_same_file_gives_the_same_ids_and_another_one_others(tmp_path: Path) -> None:
    document = json.loads(EXAMPLE.read_text())
    document["agents"][0]["name"] = "another"
    other = tmp_path / "other.af"
    other.write_text(json.dumps(document))
    ids = [FileSource(path).agents(None) for path in (EXAMPLE, EXAMPLE, other)]
    assert ids[0] == ids[1] != ids[2]


def test_an_agent_is_found_by_its_name_or_told_to_be_unknown() -> None:
    source = FileSource(EXAMPLE)
    (identifier,) = source.agents(None)
    assert source.agents([source.agent(identifier).name]) == [identifier]
    with pytest.raises(LettaOpsError) as refused:
        source.agents(["nobody"])
    assert refused.value.code == "agent-unknown"
