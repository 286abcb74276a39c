"""Where the global options may stand, and which values are refused."""

from __future__ import annotations

import pytest
import typer

from ops_cli.options import hoist, pairs, stack_name, wants_json


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["status"], ["status"]),
        (["status", "--json"], ["--json", "status"]),
        (["--json", "status"], ["--json", "status"]),
        (["agent", "list", "--stack", "blue", "-v"], ["--stack", "blue", "-v", "agent", "list"]),
        (["agent", "list", "--stack=blue"], ["--stack=blue", "agent", "list"]),
        (["agent", "--profile", "a b.toml", "list"], ["--profile", "a b.toml", "agent", "list"]),
        (["agent", "export", "x", "-o", "f"], ["agent", "export", "x", "-o", "f"]),
        (["status", "--stack"], ["--stack", "status"]),
        (["agent", "export", "--", "--json"], ["agent", "export", "--", "--json"]),
        (["agent", "import", "--name=--json", "f"], ["agent", "import", "--name=--json", "f"]),
    ],
)
def test_global_options_are_moved_to_the_front_and_nothing_else_is(
    given: list[str], expected: list[str]
) -> None:
    assert hoist(given) == expected


def test_json_is_wanted_wherever_the_word_stands_but_not_after_the_double_dash() -> None:
    assert wants_json(["status", "--json"])
    assert not wants_json(["agent", "export", "--", "--json"])


def test_a_name_that_cannot_be_a_stack_is_a_usage_error() -> None:
    assert stack_name("blue-2") == "blue-2"
    with pytest.raises(typer.BadParameter, match="cannot be the name of a stack"):
        stack_name("../x")


def test_settings_keep_everything_after_the_first_equals_sign() -> None:
    assert pairs(["a.b=c=d", "e="]) == {"a.b": "c=d", "e": ""}


@pytest.mark.parametrize("pair", ["server.port", "=8283", " =1"])
def test_a_setting_without_a_key_or_a_value_is_refused(pair: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not KEY=VALUE"):
        pairs([pair])
