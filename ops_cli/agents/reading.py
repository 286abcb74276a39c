"""Agent files as people have them: bytes in some encoding -> one JSON object, or a clear refusal."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from infra.errors import LettaOpsError

LFS_MARK = b"version https://git-lfs.github.com/spec/"
DEEPEST = 200  # the server's own files have about 12; its JSON and its database give up somewhere
SHOWN = 100  # letters of a broken line
SHOWN_PROBLEMS = 50
PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$-]*")
REFUSED = re.compile("[\x00\ud800-\udfff]")
REPLACEMENT = "\ufffd"

Path = tuple[str | int, ...]


def parse(data: bytes, source: str) -> dict[str, Any]:
    """Return the JSON object that `data`, read from `source`, holds.

    A byte-order mark, UTF-16 and UTF-32 are read; so is a document that was encoded twice, which
    some tools write and the server accepts.

    Raises LettaOpsError: `agent-file-pointer` (Git LFS), `agent-file-broken`.
    """
    if data.startswith(LFS_MARK):
        raise LettaOpsError(
            "agent-file-pointer",
            f"{source} is a Git LFS pointer, not the agent file itself",
            "fetch the file with `git lfs pull` in the repository that it comes from",
        )
    encoding = json.detect_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise broken(
            source, f"is not text in {encoding.upper()}: {error.reason} at byte {error.start}"
        ) from None
    return _parsed(text, source)


def broken(source: str, reason: str) -> LettaOpsError:
    return LettaOpsError(
        "agent-file-broken",
        f"{source} {reason}",
        "correct the file, or get it again from where it comes from; nothing was sent to the server",
    )


def refusal(source: str, problems: list[str]) -> LettaOpsError:
    """`agent-file-broken` with every problem."""
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    return broken(source, f"can't be imported: {count}{listing(problems)}")


def listing(problems: Sequence[str]) -> str:
    """The first of many, each on a line of its own."""
    shown = [f"\n  - {problem}" for problem in problems[:SHOWN_PROBLEMS]]
    left = len(problems) - len(shown)
    return "".join(shown) + (f"\n  and {left} more" if left else "")


def where(path: Path) -> str:
    """`agents[0].messages[3].id`"""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part)}]"
    return text


def walk(content: Any) -> Iterator[tuple[Path, Any]]:
    """Every value below `content` with its path; a container comes before what it holds."""
    left: list[tuple[Path, Any]] = [((), content)]
    while left:
        path, value = left.pop()
        yield path, value
        if isinstance(value, dict):
            left += [((*path, key), child) for key, child in reversed(value.items())]
        elif isinstance(value, list):
            left += [((*path, number), value[number]) for number in reversed(range(len(value)))]


def refused_characters(content: Any) -> list[str]:
    """Say where characters stand that Postgres can't hold, in keys too."""
    found = []
    for path, value in walk(content):
        texts = value if isinstance(value, dict) else [value] if isinstance(value, str) else []
        for text in texts:
            hit = REFUSED.search(text)
            if hit:
                which = "NUL" if hit[0] == "\0" else f"the lone surrogate U+{ord(hit[0]):04X}"
                what = "a key" if isinstance(value, dict) else f"character {hit.start() + 1}"
                place = where(path).encode("ascii", "backslashreplace").decode() or "the file"
                found.append(
                    f"{place} has {which} ({what}), which no Postgres holds:"
                    f" --replace-nul puts {REPLACEMENT} there"
                )
    return found


def with_replacements(content: Any) -> tuple[Any, int]:
    """Return `content` with U+FFFD for every character that Postgres can't hold, and their count."""
    # In ASCII, a character beyond the first plane is a pair of surrogates; two backslashes are one.
    pair = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    lone = r"\\u0000|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
    every = re.compile(rf"(\\\\|{pair})|{lone}")
    text = json.dumps(content)
    count = sum(1 for hit in every.finditer(text) if not hit[1])
    return json.loads(every.sub(lambda hit: hit[1] or "\\ufffd", text)), count


def _parsed(text: str, source: str) -> dict[str, Any]:
    twice: list[tuple[dict[str, Any], str]] = []

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            twice.extend((made, name) for name in made if names.count(name) > 1)
        return made

    try:
        content = json.loads(
            text, object_pairs_hook=object_of, parse_constant=_no_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        raise broken(source, f"is not JSON: {error.msg}, {_line(text, error)}") from None
    except RecursionError:
        raise broken(source, "is not an agent file: it is nested too deeply") from None
    except ValueError as error:  # a number with thousands of digits; NaN
        raise broken(source, f"is not JSON: {error}") from None
    if isinstance(content, str):
        return parse(content.encode(errors="surrogatepass"), source)
    if not isinstance(content, dict):
        raise broken(source, f"holds a JSON {_kind(content)}, not an object")
    problems = list(_too_deep(content)) or list(_twice(content, twice))
    if problems:
        raise refusal(source, problems)
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} stands where a number is wanted")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is larger than a number can be")
    return number


def _too_deep(content: dict[str, Any]) -> Iterator[str]:
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, (dict, list))
        ]
    if level:
        yield f"it is nested deeper than {DEEPEST} levels"


def _twice(content: dict[str, Any], twice: list[tuple[dict[str, Any], str]]) -> Iterator[str]:
    if not twice:
        return
    for path, value in walk(content):
        for made, name in twice:
            if made is value:
                yield f"{where((*path, name))} stands twice: which of them is meant?"


def _line(text: str, error: json.JSONDecodeError) -> str:
    """Where it breaks, and the line that it breaks in with a mark below."""
    start = text.rfind("\n", 0, error.pos) + 1
    end = text.find("\n", error.pos)
    line = text[start : end if end >= 0 else len(text)].rstrip("\r")
    column = error.pos - start
    first = max(0, column - SHOWN // 2)
    part = line[first : first + SHOWN].replace("\t", " ")
    mark = " " * (column - first) + "^"
    return f"line {error.lineno}, column {error.colno}:\n    {part}\n    {mark}"


def _kind(value: Any) -> str:
    return {list: "list", bool: "boolean", type(None): "null"}.get(type(value), "number")
