"""What an input of a resource may be, and when two values of it mean the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from docker_plugin.properties import has_unknown

Kind = Literal["text", "whole", "flag", "duration", "list", "set", "map", "object"]

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


@dataclass(frozen=True)
class Field:
    """One input.

    `default` is written by Check. `implied` is what absence means otherwise. `computed`: when absent
    the engine decides, and whatever it decided is no difference. `in_place`: a change updates the
    resource instead of replacing it. `item` is an element of a list or set, `fields` an object's.
    """

    kind: Kind
    default: Any = None
    implied: Any = None
    computed: bool = False
    in_place: bool = False
    required: bool = False
    choices: tuple[str, ...] = ()
    item: Field | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)


def differs(known: Field, new: Any, old: Any) -> bool:
    """Whether the input `new` asks for something else than the state `old` has."""
    if has_unknown(new):
        return True
    if new is None:
        return not known.computed and bool(_canonical(known, None) != _canonical(known, old))
    if known.kind == "object":
        there = old if isinstance(old, Mapping) else {}
        return any(
            differs(inner, new.get(name), there.get(name)) for name, inner in known.fields.items()
        )
    if known.kind == "list" and known.item:
        others = old if isinstance(old, list) else []
        if len(new) != len(others):
            return True
        pairs = zip(new, others, strict=True)
        return any(differs(known.item, mine, other) for mine, other in pairs)
    return bool(_canonical(known, new) != _canonical(known, old))


def is_given(value: Any) -> bool:
    """Whether a value says anything: the protocol's zero values say as little as absence."""
    return value not in (None, "", 0, False, [], {})


def nanoseconds(text: str) -> int:
    """Parse a duration as Go writes it (`1m30s`, `500ms`). Raises ValueError for anything else."""
    if text in ("", "0"):
        return 0
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration")
    return round(sum(float(number) * _UNITS[unit] for number, unit in parts))


def duration(amount: int) -> str:
    """Write nanoseconds as Go does: `0s`, `250ms`, `1m30s`, `1h0m0s`."""
    if amount < _UNITS["s"]:
        return "0s" if amount == 0 else f"{amount / _UNITS['ms']:g}ms"
    minutes, rest = divmod(amount, _UNITS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / _UNITS['s']:g}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _canonical(known: Field, value: Any) -> Any:
    """A hashable form that is the same for values that mean the same; None for what says nothing."""
    if value is None:
        value = known.implied
    if known.kind == "object":
        there = value if isinstance(value, Mapping) else {}
        parts = [(name, _canonical(inner, there.get(name))) for name, inner in known.fields.items()]
        return tuple(part for part in parts if part[1] is not None) or None
    if not is_given(value):
        return None
    if known.kind in ("list", "set"):
        inner = known.item or Field("text")
        items = [_canonical(inner, item) for item in value]
        return tuple(sorted(items, key=repr) if known.kind == "set" else items)
    if known.kind == "map":
        return tuple(sorted((name, str(item)) for name, item in value.items()))
    return nanoseconds(value) or None if known.kind == "duration" else value
