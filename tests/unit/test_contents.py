"""How contents differ, in words; what a real Postgres says of itself is in tests/live/test_layout.py."""

from __future__ import annotations

import pytest

from backups.contents import _sequences_differ, _tables_differ
from backups.manifest import Table

THERE = {"public.agents": Table(3, "aa"), "public.block": Table(0, "00")}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (THERE, []),
        (dict(reversed(THERE.items())), []),
        ({}, ["table public.agents is missing", "table public.block is missing"]),
        ({**THERE, "public.agents": Table(3, "ab")}, ["the content of table public.agents differs"]),
        ({**THERE, "public.agents": Table(4, "aa")}, ["table public.agents has 4 rows, the backup 3"]),
        ({**THERE, "own.agents": Table(3, "aa")}, ["table own.agents is not in the backup"]),
    ],
)  # fmt: skip
def test_every_table_that_differs_is_named(found: dict[str, Table], words: list[str]) -> None:
    assert list(_tables_differ(THERE, found)) == words


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"public.seq": 41}, []),
        ({"public.seq": 99, "public.more": 1}, []),
        ({"public.seq": 40}, ["sequence public.seq stands at 40, in the backup at 41"]),
        ({}, ["sequence public.seq is missing"]),
    ],
)
def test_a_sequence_may_have_gone_on_and_never_back(
    found: dict[str, int], words: list[str]
) -> None:
    assert list(_sequences_differ({"public.seq": 41}, found)) == words
