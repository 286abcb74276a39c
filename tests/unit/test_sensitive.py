"""Secrets hide themselves wherever they could be printed."""

from __future__ import annotations

import json
import pickle

import pytest

from infra.sensitive import Sensitive, redact

SECRET = Sensitive("hunter2-hunter2")


@pytest.mark.parametrize("shown", [str(SECRET), repr(SECRET), f"{SECRET}", f"{SECRET:>20}"])
def test_a_secret_shows_only_that_it_is_one(shown: str) -> None:
    assert "hunter2" not in shown
    assert "[redacted]" in shown


def test_a_secret_is_neither_pickled_nor_made_json() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(SECRET)
    with pytest.raises(TypeError):
        json.dumps({"password": SECRET})


def test_equal_secrets_are_equal_and_no_text_is_equal_to_one() -> None:
    assert Sensitive("hunter2-hunter2") == SECRET
    assert len({SECRET, Sensitive("hunter2-hunter2")}) == 1
    assert SECRET != "hunter2-hunter2"


CASES = [
    ("password is hunter2-hunter2!", "password is [redacted]!"),
    ("nothing here", "nothing here"),
    ("hunter2-hunter2hunter2-hunter2", "[redacted][redacted]"),
    ("abc", "abc"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_text_is_redacted(text: str, expected: str) -> None:
    assert redact(text, [SECRET, Sensitive("abc")]) == expected


def test_the_longer_of_two_secrets_goes_first() -> None:
    uri = Sensitive("postgresql://u:hunter2-hunter2@h/d")
    assert redact(f"uri {uri.reveal()}", [SECRET, uri]) == "uri [redacted]"
