"""Values that must not be seen: a type that redacts itself, and a redactor for text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

REDACTED = "[redacted]"


class Sensitive:
    """A secret string. `str`, `repr`, `format` and JSON show `[redacted]`; only `reveal` shows it.

    Call `reveal` at the adapter that needs the value (a connection, a request header, a file of
    mode 0600), never earlier.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __str__(self) -> str:
        return REDACTED

    def __repr__(self) -> str:
        return f"Sensitive({REDACTED})"

    def __format__(self, specification: str) -> str:
        return format(REDACTED, specification)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sensitive) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Sensitive, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled: pass it by environment or by a file of mode 0600")


def revealed(value: Any) -> Any:
    """Return the value itself, whether it is a secret or not. For adapters only."""
    return value.reveal() if isinstance(value, Sensitive) else value


def redact(text: str, secrets: Iterable[Sensitive]) -> str:
    """Return `text` with every value of `secrets` replaced, longest first.

    Values shorter than six characters are left alone: replacing every "a" tells more than it hides.
    """
    values = sorted({secret.reveal() for secret in secrets}, key=len, reverse=True)
    for value in values:
        if len(value) >= 6:
            text = text.replace(value, REDACTED)
    return text
