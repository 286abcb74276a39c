"""A value as SQLite holds it -> what Postgres takes in its place, or why it takes none.

SQLite keeps any value in any column, so each is looked at as the type that Postgres will ask for.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REPLACEMENT = "\ufffd"
DIMENSION = 4096  # of Letta's vectors: shorter ones are padded
TRUE, FALSE = (1, "1", "t", "true", "TRUE"), (0, "0", "f", "false", "FALSE")
NOW = ("now()", "CURRENT_TIMESTAMP")  # 0.11.7 writes the word, where it means the moment
STAGED = {
    "bool": "bool", "timestamptz": "timestamptz", "timestamp": "timestamptz", "float4": "float8",
    "float8": "float8", "vector": "vector",
}  # fmt: skip
INTEGERS = {"int2": 15, "int4": 31, "int8": 63}
ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
LONE = re.compile("[\ud800-\udfff]")


class RefusedError(ValueError):
    """Postgres does not take the value; `mended` is what it would take instead (None: nothing)."""

    def __init__(self, why: str, mended: Any = None) -> None:
        super().__init__(why)
        self.mended = mended


@dataclass(frozen=True)
class Kind:
    """What a column takes: `type` as Postgres calls it, `length` in characters, and the words of an
    enumeration."""

    type: str
    length: int | None = None
    words: tuple[str, ...] = ()

    @property
    def staged(self) -> str:
        """The type of a column that takes everything that this one does, and more."""
        return "int8" if self.type in INTEGERS else STAGED.get(self.type, "text")


def converted(value: Any, kind: Kind, moment: dt.datetime) -> Any:
    """Return the value for Postgres: str, bool, int, float, datetime in UTC, or a list of floats.

    `moment` stands for one that was never written down. Raises RefusedError.
    """
    if value is None:
        return None
    if kind.type in ("timestamptz", "timestamp"):
        return _moment(value, moment)
    if kind.type in INTEGERS:
        return _integer(value, INTEGERS[kind.type])
    convert = CONVERSIONS.get(kind.type)
    if convert is not None:
        return convert(value)
    return _text(value, kind)


def _text(value: Any, kind: Kind) -> str:
    text = _as_text(value)
    whole = LONE.sub(REPLACEMENT, text).replace("\0", REPLACEMENT)
    if "\0" in text:
        raise RefusedError("has a NUL character", whole)
    if whole != text:
        raise RefusedError("is no UTF-8", whole)
    if kind.length is not None and len(text) > kind.length:
        raise RefusedError(f"has {len(text)} characters, of {kind.length}")
    if kind.words and text not in kind.words:
        raise RefusedError(f"is {text!r}, which is none of {', '.join(kind.words)}")
    return text


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else str(value)


def _json(value: Any) -> str:
    text = _text(value, Kind("text"))

    def refuse(word: str) -> None:
        raise RefusedError(f"is JSON with {word}, which no other reads")

    try:
        json.loads(text, parse_constant=refuse)
    except RefusedError:
        raise
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"is no JSON: {error}") from None
    if ESCAPED_NUL.search(text):
        raise RefusedError("has a NUL character", ESCAPED_NUL.sub(r"\1\\ufffd", text))
    return text


def _bool(value: Any) -> bool:
    if value in TRUE:
        return True
    if value in FALSE:
        return False
    raise RefusedError(f"is {value!r}, and neither true nor false")


def _moment(value: Any, moment: dt.datetime) -> dt.datetime:
    if value in NOW:
        return moment
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seen = dt.datetime.fromtimestamp(value, dt.UTC)
        except (ValueError, OverflowError, OSError):
            seen = None
        raise RefusedError(f"is {value!r}, and no date", seen)
    try:
        found = dt.datetime.fromisoformat(_as_text(value).strip())
    except ValueError:
        raise RefusedError(f"is {value!r}, and no date") from None
    # SQLite has no zones, and Letta writes the time of Greenwich.
    return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found.astimezone(dt.UTC)


def _integer(value: Any, bits: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise RefusedError(f"is {value!r}, and no whole number") from None
    if isinstance(value, float) and number != value:
        raise RefusedError(f"is {value!r}, and no whole number", number)
    if not -(1 << bits) <= number < 1 << bits:
        raise RefusedError(f"is {number}, which is too large")
    return number


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RefusedError(f"is {value!r}, and no number") from None


def _vector(value: Any) -> list[float]:
    """Letta packs 32-bit floats one after the other, the lowest byte first."""
    if isinstance(value, str):
        try:
            numbers = [float(each) for each in json.loads(value)]
            found = list(
                struct.unpack(f"{len(numbers)}f", struct.pack(f"{len(numbers)}f", *numbers))
            )
        except (ValueError, TypeError, OverflowError, struct.error):
            raise RefusedError("is a text, and no vector") from None
    elif len(value) % 4 or not value:
        raise RefusedError(f"has {len(value)} bytes, which are no 32-bit floats")
    else:
        found = list(struct.unpack(f"<{len(value) // 4}f", value))
    if len(found) > DIMENSION:
        raise RefusedError(f"has {len(found)} dimensions, of {DIMENSION}")
    if not all(map(math.isfinite, found)):
        raise RefusedError("is a vector with numbers that are none")
    return found + [0.0] * (DIMENSION - len(found))


CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "float4": _float,
    "float8": _float,
    "json": _json,
    "jsonb": _json,
    "vector": _vector,
}
