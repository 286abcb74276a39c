"""Which options of columns a dump's definitions set, and what is left without some of them."""

from __future__ import annotations

import pytest

from backups.column_options import STATEMENT, without_options

SCRIPT = rb"""SET client_encoding = 'UTF8';
CREATE TABLE public.agents (
    id text NOT NULL
);
ALTER TABLE ONLY public.agents ALTER COLUMN id SET (pg_attver=1);
ALTER TABLE ONLY public.agents ALTER COLUMN name SET (n_distinct=5, pg_attver=1);
ALTER TABLE ONLY public.agents ALTER COLUMN size SET (n_distinct=-0.5);
ALTER TABLE ONLY public.agents ALTER COLUMN size SET STORAGE EXTERNAL;
ALTER FOREIGN TABLE ONLY "an ""odd"" one"."of
two lines" ALTER COLUMN "a b" SET (pg_attver=2);
"""


@pytest.mark.parametrize(
    ("names", "gone", "left"),
    [
        ({"pg_attver"}, [b"pg_attver"], [b"name SET (n_distinct=5);", b"size SET (n_distinct=-0.5)"]),
        ({"pg_attver", "n_distinct"}, [b"pg_attver", b"n_distinct"], [b"SET STORAGE EXTERNAL"]),
        ({"other"}, [], [SCRIPT]),
    ],
)  # fmt: skip
def test_options_are_left_out_by_name(
    names: set[str], gone: list[bytes], left: list[bytes]
) -> None:
    made = without_options(SCRIPT, names)
    assert not [each for each in gone if each in made]
    assert not [each for each in left if each not in made]
    assert b"CREATE TABLE public.agents (\n    id text NOT NULL\n);\n" in made


def test_every_column_with_options_is_found_whatever_its_name() -> None:
    assert len(STATEMENT.findall(SCRIPT)) == 4
