"""Rows in Postgres' binary form: counted by reading them to their end, and nothing else passes."""

from __future__ import annotations

import struct

import pytest

from backups.sources.rows import SIGNATURE, TableName, count_rows
from backups.streams import ChunkSource
from backups.verify import tables_in

HEAD = SIGNATURE + struct.pack(">ii", 0, 0)
EXTENDED = SIGNATURE + struct.pack(">ii", 0, 3) + b"any"
END = struct.pack(">h", -1)


def row(*fields: bytes | None) -> bytes:
    words = [struct.pack(">h", len(fields))]
    for field in fields:
        words += [struct.pack(">i", -1 if field is None else len(field)), field or b""]
    return b"".join(words)


ROWS = row(b"one", None) + row(b"", b"two" * 100) + row(None, None)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize(
    ("data", "rows"),
    [(HEAD + END, 0), (HEAD + ROWS + END, 3), (EXTENDED + ROWS + END, 3), (HEAD + row() + END, 1)],
)
def test_rows_are_counted_however_they_come(data: bytes, rows: int, size: int) -> None:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert count_rows(ChunkSource(pieces)) == rows


def test_what_is_cut_anywhere_is_refused() -> None:
    data = HEAD + ROWS + END
    for size in range(len(data)):
        with pytest.raises(ValueError, match="cut"):
            count_rows(ChunkSource([data[:size]]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (HEAD + ROWS + END + b"\0", "behind its end"),
        (b"1\tone\n2\ttwo\n and more of it", "does not begin"),
    ],
)
def test_what_is_something_else_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        count_rows(ChunkSource([data]))


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("public.archival_passages", '"public"."archival_passages"'),
        ("Tables of Letta.of.all", '"Tables of Letta"."of.all"'),
        ('odd "one".a*b', '"odd ""one"""."a*b"'),
    ],
)
def test_a_table_is_named_for_pg_dump_whatever_it_is_called(text: str, pattern: str) -> None:
    table = TableName.parse(text)
    assert str(table) == text
    assert table.pattern == pattern


def test_tables_are_found_in_the_list_of_a_dump_whatever_they_are_called() -> None:
    listing = [
        ";     dbname: letta",
        "3412; 0 16388 TABLE DATA public agents letta",
        "3413; 0 16389 TABLE DATA Tables of Letta of all letta",
        "3414; 0 16390 TABLE DATA my.own block letta",
        "215; 1259 16388 TABLE public block letta",
    ]
    names = ["public.agents", "public.agent", "Tables of Letta.of all", "Tables.of", "my.own.block"]
    assert tables_in(listing, names) == {"public.agents", "Tables of Letta.of all", "my.own.block"}
