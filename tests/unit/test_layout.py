"""Which lines of pg_restore's list are left out: what was made already, and nothing else."""

from __future__ import annotations

import pytest

from backups.manifest import DatabaseRecord
from backups.table_of_contents import chosen_entries

HEAD = [";", "; Archive created at 2026-11-21 20:59:21 UTC", ";     dbname: letta"]


@pytest.mark.parametrize(
    ("line", "home", "restored"),
    [
        ("3412; 0 16388 TABLE DATA public agents letta", "public", True),
        ("215; 1259 16388 TABLE public agents letta", "public", True),
        ("2; 3079 16389 EXTENSION - vector ", "public", False),
        ("3800; 0 0 COMMENT - EXTENSION vector ", "public", False),
        ("5; 2615 2200 SCHEMA - public pg_database_owner", "public", False),
        ("3801; 0 0 COMMENT - SCHEMA public pg_database_owner", "own", False),
        ("6; 2615 16400 SCHEMA - letta_ops postgres", "public", True),
        ("7; 2615 16401 SCHEMA - own letta", "own", False),
        ("8; 2615 16402 SCHEMA - own_too letta", "own", True),
        ("9; 2615 16403 SCHEMA - Tables of Letta letta", "Tables of Letta", False),
        ("10; 2615 16404 SCHEMA - Tables letta", "Tables of Letta", True),
        ("3802; 0 0 COMMENT - SCHEMA own letta", "own", True),
        ("300; 1259 17000 SEQUENCE SET public message_seq_id letta", "public", True),
        ("301; 1259 17001 INDEX public extension_idx letta", "public", True),
    ],
)
def test_only_what_was_made_already_is_left_out(line: str, home: str, restored: bool) -> None:
    record = DatabaseRecord("letta", "public", None, "18", "0.8", home, "UTF8", {}, {})
    chosen, left_out = chosen_entries([*HEAD, line], record, (), trusted=False)
    assert [entry.line for entry in chosen] == ([line] if restored else [])
    assert left_out == []
