"""Check: what may be asked for, and what is filled in where nothing was said."""

from __future__ import annotations

import base64
import binascii
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from docker_plugin.fields import Field, is_given, nanoseconds
from docker_plugin.properties import DEFAULTS, Properties, is_unknown
from docker_plugin.schema import Schema

_PYTHON = {"text": str, "duration": str, "whole": int, "flag": bool, "list": list, "set": list}


@dataclass(frozen=True)
class Failure:
    """One input that is refused: its path (`uploads[0].owner`), and why."""

    path: str
    reason: str


def failures(schema: Schema, inputs: Mapping[str, Any]) -> list[Failure]:
    """Return everything that is wrong with `inputs`; an input that is not known yet is not judged."""
    found = list(_of_fields(schema, schema.fields, inputs, ""))
    if not found:
        found += _of_uploads(inputs.get("uploads"))
        found += _of_volumes(inputs.get("volumes"))
    return found


def with_defaults(
    schema: Schema, inputs: Mapping[str, Any], old: Mapping[str, Any], name: str, seed: bytes
) -> Properties:
    """Return `inputs` with what Check fills in; `old` are the inputs of the last run, or {}.

    A name that was made up for the resource stays its name.
    """
    result = _filled(schema.fields, inputs)
    if schema.autonamed and result.get("name") is None:
        made_up = "name" in old.get(DEFAULTS, []) and old.get("name")
        result["name"] = made_up or f"{name}-{_suffix(seed)}"
        result[DEFAULTS] = sorted([*result[DEFAULTS], "name"])
    return result


def _suffix(seed: bytes) -> str:
    # The engine's seed makes the name of a preview that of the run after it.
    source = random.Random(seed) if seed else random.SystemRandom()  # noqa: S311  # no secret
    return "".join(source.choice("0123456789abcdef") for _ in range(7))


def _filled(fields: Mapping[str, Field], values: Mapping[str, Any]) -> Properties:
    result: Properties = {}
    for name, value in values.items():
        known = fields.get(name)
        if known is None or value is None or is_unknown(value):
            result[name] = value
        elif known.kind == "object":
            result[name] = _filled(known.fields, value)
        elif known.item is not None and known.item.kind == "object":
            inner = known.item.fields
            result[name] = [item if is_unknown(item) else _filled(inner, item) for item in value]
        else:
            result[name] = value
    defaults = {
        name: known.default
        for name, known in fields.items()
        if known.default is not None and result.get(name) is None
    }
    return {**result, **defaults, DEFAULTS: sorted(defaults)}


def _of_fields(
    schema: Schema, fields: Mapping[str, Field], values: Mapping[str, Any], prefix: str
) -> Iterator[Failure]:
    for name, value in values.items():
        path = prefix + name
        if name.startswith("__") or value is None or is_unknown(value):
            continue
        if name in fields:
            yield from _of_value(schema, fields[name], value, path)
        elif name == "build" and name in schema.unsupported:
            reason = "this stand-in finds and pulls images, it does not build them"
            yield Failure(path, f"{reason}: build the image first, and name it")
        elif name in schema.unsupported:
            reason = "the official docker plugin knows this input, our stand-in for it does not"
            yield Failure(path, f"{reason}: leave it out, or install the official plugin")
        else:
            yield Failure(path, "there is no such input")
    for name, known in fields.items():
        if known.required and values.get(name) is None:
            yield Failure(prefix + name, "this input is required")


def _of_value(schema: Schema, known: Field, value: Any, path: str) -> Iterator[Failure]:
    wanted: Any = _PYTHON.get(known.kind, dict)
    # To Python a boolean is a number as well.
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        words = {str: "text", int: "a whole number", bool: "true or false", list: "a list"}
        yield Failure(path, f"this must be {words.get(wanted, 'a mapping')}")
    elif known.choices and value not in known.choices:
        yield Failure(path, f"this must be one of: {', '.join(known.choices)}")
    elif known.kind == "duration":
        try:
            nanoseconds(value)
        except ValueError:
            yield Failure(path, "this must be a duration, such as 30s or 1m30s")
    elif known.kind == "object":
        yield from _of_fields(schema, known.fields, value, f"{path}.")
    elif known.item is not None:
        items = value.items() if known.kind == "map" else enumerate(value)
        for key, item in items:
            if not is_unknown(item):
                yield from _of_value(schema, known.item, item, f"{path}[{key}]")


def _of_uploads(uploads: Any) -> Iterator[Failure]:
    for number, upload in enumerate(uploads if isinstance(uploads, list) else []):
        if is_unknown(upload):
            continue
        path = f"uploads[{number}]"
        if is_given(upload.get("content")) == is_given(upload.get("contentBase64")):
            yield Failure(path, "exactly one of content and contentBase64 must be set")
        for name in ("owner", "group"):
            # The official plugin takes numbers only, too: names would be those of another machine.
            if is_given(text := upload.get(name)) and not is_unknown(text) and not text.isdecimal():
                yield Failure(f"{path}.{name}", "this must be a numeric id")
        mode = upload.get("permissions")
        if is_given(mode) and not is_unknown(mode) and not re.fullmatch(r"[0-7]{3,4}", mode):
            yield Failure(f"{path}.permissions", "this must be an octal mode, such as 0640")
        encoded = upload.get("contentBase64")
        if is_given(encoded) and not is_unknown(encoded) and not _is_base64(encoded):
            yield Failure(f"{path}.contentBase64", "this is not base64")


def _of_volumes(volumes: Any) -> Iterator[Failure]:
    for number, volume in enumerate(volumes if isinstance(volumes, list) else []):
        both = not is_unknown(volume) and volume.get("volumeName") and volume.get("hostPath")
        if both:
            yield Failure(f"volumes[{number}]", "only one of volumeName and hostPath can be set")


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        return False
    return True
