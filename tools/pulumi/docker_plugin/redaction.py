"""Keeping values that may be secret out of what is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SHORTEST = 4  # shorter values are words of every sentence


def redacted(text: str, properties: Mapping[str, Any]) -> str:
    """`text` without the values of environment variables and the contents of uploads."""
    # The longest first: one may be a part of another.
    for value in sorted(_private(properties), key=len, reverse=True):
        if len(value) >= SHORTEST:
            text = text.replace(value, "[redacted]")
    return text


def _private(properties: Mapping[str, Any]) -> Iterator[str]:
    for variable in properties.get("envs") or []:
        name, separator, value = str(variable).partition("=")
        # What is no `NAME=VALUE` the engine refuses, and shows whole.
        yield value if name and separator else str(variable)
    for upload in properties.get("uploads") or []:
        if isinstance(upload, Mapping):
            yield str(upload.get("content") or "")
            yield str(upload.get("contentBase64") or "")
