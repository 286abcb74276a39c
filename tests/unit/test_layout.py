"""What is restored of a dump, into which database, and by whom: what needs no Postgres to be seen."""

from __future__ import annotations

import pytest

from backups.foresight import _says
from backups.layout import creation
from backups.manifest import Address, DatabaseRecord, Properties, Rights
from backups.restoring.journal import NAME_BYTES, Journal, beside
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


RIGHTS = Rights(
    "letta",
    policies={"3256 70": ("dashboard",), "3256 71": ("letta",)},
    privileged={
        "1255 80": Address("function", ("public", "plus"), ("integer",)),
        "6104 90": Address("publication", ("everything",)),
    },
)
LISTED = {
    "policy": "1; 3256 70 POLICY public notes of_the_dashboard letta",
    "its comment": "2; 0 0 COMMENT public POLICY of_the_dashboard ON notes letta",
    "other policy": "3; 3256 71 POLICY other notes own letta",
    "comment on that": "4; 0 0 COMMENT other POLICY own ON notes letta",
    "function": "5; 1255 80 FUNCTION public plus(integer) postgres",
    "comment of it": "6; 0 0 COMMENT public FUNCTION plus(integer) postgres",
    "another one": "7; 1255 81 FUNCTION public plus(bigint) letta",
    "comment of another": "8; 0 0 COMMENT public FUNCTION plus(bigint) letta",
    "publication": "9; 6104 90 PUBLICATION - everything postgres",
    "comment of that": "10; 0 0 COMMENT - PUBLICATION everything postgres",
    "event trigger": "11; 3466 95 EVENT TRIGGER - on_ddl postgres",
    "other wrapper": "12; 2328 96 FOREIGN DATA WRAPPER - files postgres",
}
OF_AN_ADMINISTRATOR = ["function", "comment of it", "publication", "comment of that"]


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("missing", [(), ("dashboard",)])
def test_what_needs_an_administrator_or_a_role_goes_with_its_comment(
    trusted: bool, missing: tuple[str, ...]
) -> None:
    record = DatabaseRecord(
        "letta", "public", None, "18", "0.8", "public", "UTF8", {}, {}, rights=RIGHTS
    )
    chosen, left_out = chosen_entries(LISTED.values(), record, missing, trusted=trusted)
    names = {line: name for name, line in LISTED.items()}
    without = ["event trigger"]
    without += ["policy", "its comment"] if missing else []
    without += [] if trusted else OF_AN_ADMINISTRATOR
    assert [names[each.line] for each in chosen] == [each for each in LISTED if each not in without]
    theirs = [names[each.line] for each in chosen if each.by_administrator]
    assert theirs == (OF_AN_ADMINISTRATOR if trusted else [])
    after = [names[each.line] for each in chosen if each.by_administrator and each.after_data]
    assert after == (OF_AN_ADMINISTRATOR[2:] if trusted else [])
    assert len(left_out) == bool(missing) + (0 if trusted else 2)


@pytest.mark.parametrize("name", ["letta", "L" * 53, "L" * 54, "L" * 63, "ä" * 31, 'a "b" c'])
def test_a_database_of_a_restore_has_a_name_of_its_own_however_long_the_live_one_is(
    name: str,
) -> None:
    made = Journal("id", "b", name, 0, had_database=True, had_memory=True, old_keys=None)
    names = {name, made.side, made.previous, made.older, made.undone}
    assert len(names) == 5
    assert all(len(each.encode()) <= NAME_BYTES for each in names)
    assert beside(name, "_previous").endswith("_previous")
    if len(name.encode()) > 53:
        other = beside(name[:-1] + "x", "_previous")
        assert other != made.previous


@pytest.mark.parametrize(
    ("source", "name", "behind", "says"),
    [
        ("RETURN app_shelf(title);", "app_shelf", "(", True),
        ("RETURN APP_SHELF (title);", "app_shelf", "(", True),
        ("RETURN public.app_shelf(title);", "app_shelf", "(", False),
        ("RETURN my_app_shelf(title);", "app_shelf", "(", False),
        ("RETURN app_shelf;", "app_shelf", "(", False),
        ("SELECT * FROM notes WHERE x", "notes", "", True),
        ("SELECT * FROM public.notes", "notes", "", False),
        ('SELECT * FROM public."notes"', "notes", "", False),
        ("SELECT denotes", "notes", "", False),
    ],
)
def test_a_name_without_its_schema_is_found_in_a_functions_source(
    source: str, name: str, behind: str, says: bool
) -> None:
    assert _says(source, name, behind) is says


def test_a_database_is_made_as_it_was_and_less_so_where_that_is_not_to_be_had() -> None:
    def shown(properties: Properties | None, *places: str) -> list[str]:
        return [each.as_string(None) for each in creation(properties, places)]

    icu = Properties("i", "de_DE", "de_DE", "de", "&a < b", "fast", -1)
    assert shown(None) == [""]
    locale = (
        " LOCALE_PROVIDER \"icu\" LC_COLLATE 'de_DE' LC_CTYPE 'de_DE' ICU_LOCALE 'de'"
        " ICU_RULES '&a < b'"
    )
    assert shown(icu) == [locale, locale, ""]
    assert shown(icu, "fast") == [locale + ' TABLESPACE "fast"', locale, ""]
    builtin = Properties("b", "C", "C", "C.UTF-8", None, "pg_default", -1)
    words = " LOCALE_PROVIDER \"builtin\" LC_COLLATE 'C' LC_CTYPE 'C' BUILTIN_LOCALE 'C.UTF-8'"
    assert shown(builtin, "pg_default")[0] == words
