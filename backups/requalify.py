"""Sending a dump's statements to another schema: names are found by a lexer, never by a pattern.

pg_dump names everything with its schema, so that a statement is for one place only. What it writes is
plain: names, strings, comments that begin with `--`, and code between dollars, which is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

TOKEN = re.compile(
    r"""(?P<blank>\s+|--[^\n]*|/\*.*?\*/)
    |(?P<string>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*')
    |(?P<code>\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
    |(?P<name>"(?:[^"]|"")*"|[^\W\d][\w$]*)
    |(?P<other>\d[\w.]*|.)""",
    re.DOTALL | re.VERBOSE,
)
QUALIFIED = re.compile(r'("(?:[^"]|"")*"|[^\W\d][\w$]*)\.("(?:[^"]|"")*"|[^\W\d][\w$]*)')
# Where a string is the name of something.
REGCLASS = ("::", "regclass")
SETVAL = "setval("


@dataclass(frozen=True)
class Homes:
    """Where named things go: `schema, name` to the schema that is theirs from now on."""

    homes: Mapping[tuple[str, str], str]

    def of(self, schema: str, name: str) -> str | None:
        return self.homes.get((bare(schema), bare(name)))


def quoted(name: str) -> str:
    """A name as it stands in statements."""
    return '"' + name.replace('"', '""') + '"'


def statements(script: str) -> Iterator[list[str]]:
    """Yield the tokens of each statement, without blanks ahead of it and the `;` at its end."""
    tokens: list[str] = []
    for found in TOKEN.finditer(script):
        if found[0] == ";":
            yield tokens
            tokens = []
        elif tokens or found.lastgroup != "blank":
            tokens.append(found[0])
    if tokens:
        yield tokens


def words_of(tokens: Iterable[str]) -> list[str]:
    """A statement without blanks."""
    return [token for token in tokens if token.strip()]


def requalified(tokens: Iterable[str], homes: Homes) -> str:
    """The statement, with the names that `homes` knows in their new schemas."""
    given = list(tokens)
    made: list[str] = []
    for at, token in enumerate(given):
        home = None
        if token.startswith("'"):
            made.append(_string(given, at, homes))
            continue
        if _is_name(token) and given[at + 1 : at + 2] == ["."] and given[at - 1 : at] != ["."]:
            home = homes.of(token, "".join(given[at + 2 : at + 3]))
        made.append(quoted(home) if home else token)
    return "".join(made)


def name_at(tokens: Iterable[str], at: int) -> tuple[str | None, str]:
    """The name at the token with this number: its schema, and what it is without quotes."""
    first, *rest = list(tokens)[at : at + 3]
    if rest[:1] == ["."]:
        return bare(first), bare(rest[1])
    return None, bare(first)


def _string(given: list[str], at: int, homes: Homes) -> str:
    """A string; where it is the name of a relation (`'public.s'::regclass`), with its new schema."""
    token = given[at]
    inside = QUALIFIED.fullmatch(token[1:-1].replace("''", "'"))
    home = homes.of(inside[1], inside[2]) if inside else None
    if inside is None or home is None:
        return token
    behind = "".join(given[at + 1 : at + 4]).lower()
    before = "".join(given[max(0, at - 2) : at]).lower()
    if not behind.startswith("".join(REGCLASS)) and not before.endswith(SETVAL):
        return token
    return "'" + f"{quoted(home)}.{inside[2]}".replace("'", "''") + "'"


def _is_name(token: str) -> bool:
    return token.startswith('"') or token[:1].isalpha() or token[:1] == "_"


def bare(name: str) -> str:
    """A name without its quotes."""
    if name.startswith('"'):
        return name[1:-1].replace('""', '"')
    return name.lower()
