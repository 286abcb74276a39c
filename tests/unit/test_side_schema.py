"""What pg_restore writes is taken apart into statements and rows, however the pieces come."""

from __future__ import annotations

import pytest

from backups.dump_script import copies
from backups.requalify import statements
from backups.side_schema import _is_index, _subject
from infra.errors import LettaOpsError

SCRIPT = (
    b"\\restrict abc\nSET x = 1;\n\nCOPY public.a (id, text) FROM stdin;\n1\tone\\\\.\n2\t\\N\n\\.\n"
    b"\n-- c\nCOPY public.empty (id) FROM stdin;\n\\.\n\nSELECT pg_catalog.setval('public.s', 5);\n"
    b"\\unrestrict abc\n"
)


def taken_apart(script: bytes, size: int) -> list[tuple[bytes, bytes | None]]:
    pieces = (script[at : at + size] for at in range(0, len(script), size))
    return [(line, None if rows is None else b"".join(rows)) for line, rows in copies(pieces)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 10_000])
def test_rows_come_as_they_were_written(size: int) -> None:
    assert taken_apart(SCRIPT, size) == [
        (b"SET x = 1;\n\n", None),
        (b"COPY public.a (id, text) FROM stdin;\n", b"1\tone\\\\.\n2\t\\N\n"),
        (b"\n-- c\n", None),
        (b"COPY public.empty (id) FROM stdin;\n", b""),
        (b"\nSELECT pg_catalog.setval('public.s', 5);\n", None),
    ]


@pytest.mark.parametrize("at", range(SCRIPT.index(b"1\tone"), SCRIPT.index(b"\n-- c") - 1))
def test_rows_that_are_cut_are_an_error(at: int) -> None:
    with pytest.raises(LettaOpsError) as caught:
        taken_apart(SCRIPT[:at], 5)
    assert caught.value.code == "restore-failed"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CREATE UNIQUE INDEX i ON public.a USING btree (x)", True),
        ("ALTER TABLE ONLY public.a\n    ADD CONSTRAINT k PRIMARY KEY (id)", True),
        ("ALTER TABLE ONLY public.a\n    ADD CONSTRAINT u UNIQUE (id)", True),
        (
            "ALTER TABLE ONLY public.a\n    ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES b(id)",
            False,
        ),
        ("ALTER TABLE public.a CLUSTER ON k", False),
        ("CREATE TABLE public.a (id int)", False),
    ],
)
def test_indexes_are_made_side_by_side(statement: str, expected: bool) -> None:
    (tokens,) = statements(statement)
    assert _is_index(tokens) is expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CREATE TABLE public.agents (id int)", ("public", "agents")),
        ('CREATE TABLE public."agents of the app" (id int)', ("public", "agents of the app")),
        ("ALTER TABLE ONLY public.agents ADD x int", ("public", "agents")),
        ("COMMENT ON COLUMN public.agents.name IS 'x'", ("public", "agents")),
        ("COPY public.agents (id) FROM stdin", ("public", "agents")),
        ("SELECT pg_catalog.setval('public.s', 5, true)", ("public", "s")),
        ('CREATE UNIQUE INDEX "a b" ON ONLY public.agents USING btree (x)', ("public", "agents")),
        ("CREATE INDEX i ON public.docs USING hnsw (e public.vector_ops)", ("public", "docs")),
        # What no dump of a table holds.
        ("DROP TABLE public.agents", None),
        ("CREATE FUNCTION public.agents() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$", None),
        ("SELECT pg_catalog.lo_unlink(1)", None),
        ("DO $$ BEGIN END $$", None),
        ("ALTER ROLE letta SUPERUSER", None),
        ("/* */ DELETE FROM public.agents", None),
    ],
)
def test_a_statement_is_about_a_table_or_is_refused(
    statement: str, expected: tuple[str, str] | None
) -> None:
    (tokens,) = statements(statement)
    assert _subject([token for token in tokens if token.strip()]) == expected
