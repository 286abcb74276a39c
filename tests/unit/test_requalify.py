"""Sending statements to another schema: only names of what is known go there."""

from __future__ import annotations

import pytest

from backups.requalify import Homes, name_at, requalified, statements

KNOWN = Homes(
    {
        ("public", "agents"): "side",
        ("public", "s"): "side",
        ("Odd one", 'a"b'): 'the "side"',
        ("public", "mood"): "side",
    }
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ALTER TABLE ONLY public.agents ADD x int", 'ALTER TABLE ONLY "side".agents ADD x int'),
        ('SELECT "public"."agents".id', 'SELECT "side"."agents".id'),
        # Of others, of a column, of another schema.
        ("REFERENCES public.app(id)", "REFERENCES public.app(id)"),
        ("SELECT t.public.agents", "SELECT t.public.agents"),
        ("SELECT other.agents", "SELECT other.agents"),
        ("kind public.mood DEFAULT 'x'::public.mood", "kind \"side\".mood DEFAULT 'x'::\"side\".mood"),
        # Strings and code are data, unless they name a relation.
        ("DEFAULT 'public.agents'::text", "DEFAULT 'public.agents'::text"),
        ("COMMENT ON TABLE x IS 'it''s public.agents'", "COMMENT ON TABLE x IS 'it''s public.agents'"),
        ("IS E'\\' public.agents'", "IS E'\\' public.agents'"),
        ("AS $x$ public.agents $$ $x$", "AS $x$ public.agents $$ $x$"),
        ("-- public.agents\nSELECT 1", "SELECT 1"),
        ("nextval('public.s'::regclass)", "nextval('\"side\".s'::regclass)"),
        ("pg_catalog.setval('public.s', 7, true)", "pg_catalog.setval('\"side\".s', 7, true)"),
        ("nextval('public.t'::regclass)", "nextval('public.t'::regclass)"),
        ('FROM "Odd one"."a""b"', 'FROM "the ""side"""."a""b"'),
        ("CHECK ((a)::text = ANY (ARRAY['public.agents'::text]))",
         "CHECK ((a)::text = ANY (ARRAY['public.agents'::text]))"),
    ],
)  # fmt: skip
def test_names_go_along_and_all_else_stays(given: str, expected: str) -> None:
    (tokens,) = statements(given)
    assert requalified(tokens, KNOWN) == expected


def test_statements_end_where_they_do() -> None:
    script = "SELECT ';' ;\n-- a; b\nSELECT $$;$$;  SELECT \";\" , E'\\';'"
    assert ["".join(each).strip() for each in statements(script)] == [
        "SELECT ';'",
        "SELECT $$;$$",
        "SELECT \";\" , E'\\';'",
    ]


def test_a_name_is_taken_apart_where_it_stands() -> None:
    (tokens,) = statements('ALTER TABLE "A ""b""".c')
    assert name_at(tokens, 4) == ('A "b"', "c")
    (tokens,) = statements("ALTER TABLE Plain ADD x int")
    assert name_at(tokens, 4) == (None, "plain")
