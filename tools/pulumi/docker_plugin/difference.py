"""Diff: what of the wanted differs from the state, and whether that means a replacement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker_plugin.fields import differs
from docker_plugin.properties import DEFAULTS, Properties, public
from docker_plugin.schema import Schema


@dataclass(frozen=True)
class Difference:
    """The inputs that differ, those of them that replace, and in which order that is done."""

    changed: tuple[str, ...]
    replacing: tuple[str, ...]
    delete_first: bool


def difference(
    schema: Schema,
    state: Mapping[str, Any],
    old_inputs: Mapping[str, Any],
    new_inputs: Mapping[str, Any],
    ignored: frozenset[str] = frozenset(),
) -> Difference:
    """Compare wanted inputs with a resource's state (its outputs, as last made or read)."""
    wanted = public(new_inputs)
    changed = tuple(
        name
        for name, known in schema.fields.items()
        if name not in ignored
        and differs(known, wanted.get(name), state.get(name))
        and not _same_image(name, wanted, state, old_inputs)
    )
    replacing = tuple(name for name in changed if not schema.fields[name].in_place)
    # With a name that was made up anew, both can be there at once.
    named = schema.autonamed and "name" not in new_inputs.get(DEFAULTS, [])
    same_name = wanted.get("name") == state.get("name")
    return Difference(changed, replacing, bool(replacing) and named and same_name)


def updated(schema: Schema, state: Mapping[str, Any], new_inputs: Mapping[str, Any]) -> Properties:
    """The outputs after an update: what was asked for, and of the rest what the engine decided."""
    wanted = public(new_inputs)
    kept = {
        name: value
        for name, value in state.items()
        if name not in schema.fields or schema.fields[name].computed
    }
    return {**kept, **wanted}


def drifted_inputs(
    schema: Schema, inputs: Mapping[str, Any], state: Mapping[str, Any]
) -> Properties:
    """`inputs` as they would have to be for what was read: so that a refresh shows the drift."""
    asked = public(inputs)
    found = {
        name: state.get(name)
        for name, known in schema.fields.items()
        if differs(known, asked.get(name), state.get(name))
        and not _same_image(name, asked, state, inputs)
    }
    return {**inputs, **found}


def _same_image(
    name: str, wanted: Mapping[str, Any], state: Mapping[str, Any], old_inputs: Mapping[str, Any]
) -> bool:
    # The state of a container has the image's id, whatever name it was asked for by.
    return (
        name == "image" and "networkDatas" in state and wanted["image"] == old_inputs.get("image")
    )
