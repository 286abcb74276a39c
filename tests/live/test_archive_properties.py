"""Any agents, archived and restored under new ids, are equal under the map of ids."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from backups.archives.compare import compare, of_archive, of_live
from backups.archives.place import InFile
from backups.archives.restore import Choices, delete, restore
from backups.archives.write import archive
from backups.opening import Key
from infra.api import api
from tests.live.machine import Stack, wait_until

# What Postgres can hold; and what could be taken for an id, a part of JSON or of COPY.
letters = some.characters(exclude_categories=["Cs"], exclude_characters="\0")
words = some.text(letters, min_size=1, max_size=40) | some.sampled_from(
    ["\\N", "\\.", "a\tb\nc", '{"id": "agent-0"}', "\\u0000", "'; --", "e\u0301 \u202e 😀"]
)


@dataclass
class Drawn:
    """One agent: `shared` are numbers of blocks that several may have, `manages` says that it manages
    a group of all others."""

    system: str
    said: list[str]
    talks: list[str]
    passages: list[str]
    shared: list[int]
    tags: list[str]
    manages: bool = False
    named: bool = field(default=False)  # whether it is told the ids of all


drawn_agents = some.lists(
    some.builds(
        Drawn,
        system=words,
        said=some.lists(words, max_size=2),
        talks=some.lists(words, max_size=2),
        passages=some.lists(words, max_size=2),
        shared=some.lists(some.integers(0, 2), unique=True, max_size=3),
        tags=some.lists(some.text("abc", min_size=1, max_size=3), unique=True, max_size=2),
        manages=some.booleans(),
        named=some.booleans(),
    ),
    min_size=1,
    max_size=3,
)


def made(stack: Stack, drawn: list[Drawn], blocks_said: list[str]) -> list[str]:
    model = stack.deployment.model
    ids: list[str] = []
    with api(stack.deployment) as client:
        blocks = [
            client.blocks.create(label=f"shared_{number}", value=value).id
            for number, value in enumerate(blocks_said)
        ]
        for number, each in enumerate(drawn):
            agent = client.agents.create(
                name=f"drawn-{number}",
                system=each.system,
                model=model.handle,
                embedding=model.embedding,
                include_base_tools=False,
                block_ids=[blocks[shared] for shared in each.shared],
                memory_blocks=[{"label": "own", "value": f"of {number}"}],
                tags=each.tags,
            )
            ids.append(agent.id)
            for text in each.passages:
                client.agents.passages.create(agent.id, text=text)
        for agent_id, each in zip(ids, drawn, strict=True):
            # Ids in a text are text: they stay what they are, as words of somebody.
            told = [*each.said, *([" ".join(ids)] if each.named else [])]
            for text in told:
                client.agents.messages.create(
                    agent_id, messages=[{"role": "user", "content": text}]
                )
            for text in each.talks:
                talk = client.conversations.create(agent_id=agent_id)
                for _ in client.conversations.messages.create(
                    talk.id, messages=[{"role": "user", "content": text}]
                ):
                    pass
            others = [other for other in ids if other != agent_id]
            if each.manages and others:
                body = {
                    "agent_ids": others,
                    "description": "drawn",
                    "manager_config": {"manager_type": "supervisor", "manager_agent_id": agent_id},
                }
                client.post("/v1/groups/", cast_to=object, body=body)
    return ids


def rows_of(stack: Stack) -> dict[str, set[str]]:
    """Every row of Letta's tables."""
    found = {}
    with stack.administrator() as link:
        tables = link.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        for (table,) in tables:
            rows = link.execute(f"SELECT md5(t::text) FROM public.{table} t").fetchall()  # noqa: S608
            found[table] = {row[0] for row in rows}
    return found


# What the server writes down beside its answers: how long a run took, and what was sent in a step.
LATE = """
SELECT count(*) FROM runs r LEFT JOIN run_metrics m USING (id)
LEFT JOIN steps s ON s.run_id = r.id LEFT JOIN provider_traces t ON t.step_id = s.id
WHERE r.agent_id = ANY(%s) AND (m.run_ns IS NULL OR r.completed_at IS NULL OR t.id IS NULL)
"""


def until_written(stack: Stack, agents: list[str]) -> None:
    def all_there() -> bool:
        with stack.administrator() as link:
            row = link.execute(LATE, [agents]).fetchone()
        return row == (0,)

    wait_until("the server has written everything down", all_there)


@pytest.mark.long
@settings(
    derandomize=True,
    deadline=None,
    max_examples=12,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(drawn=drawn_agents, blocks_said=some.lists(words, min_size=3, max_size=3))
def test_whatever_the_agents_are_new_ids_change_nothing_but_ids(
    stack: Stack, drawn: list[Drawn], blocks_said: list[str]
) -> None:
    ids = made(stack, drawn, blocks_said)
    quiet: Callable[[str], Any] = lambda _: None  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        file = InFile(Path(folder) / "drawn.agents")
        archive(stack.deployment, ids, file, quiet)
        until_written(stack, ids)
        before = rows_of(stack)
        outcome = restore(
            stack.deployment, file, Key(), Choices(new_ids=True), lambda _: Path(), quiet
        )
        after = rows_of(stack)
        new = [agent["id"] for agent in outcome.agents]
        assert len({*new, *ids}) == 2 * len(ids)
        # Nothing that was there is another now, and what is new is what is told.
        assert {table: rows - after[table] for table, rows in before.items()} == {
            table: set() for table in before
        }
        assert {
            table: len(after[table] - rows) for table, rows in before.items() if after[table] - rows
        } == outcome.rows
        compared = compare(stack.deployment, of_archive(file, Key(), print), of_live(new))
        assert (compared.equal, compared.mapped) == (True, True), compared.differences
        again = InFile(Path(folder) / "again.agents")
        archive(stack.deployment, new, again, quiet)
        both = compare(
            stack.deployment, of_archive(file, Key(), print), of_archive(again, Key(), print)
        )
        assert both.equal, both.differences
    delete(stack.deployment, [*ids, *new], lambda _: Path())
    assert not {*ids, *new} & {agent["id"] for agent in stack.json("agent", "list")}
