"""JSON Schema of what a person writes: for the editor in which it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from infra.stack.profile_keys import Profile
from infra.stack.settings import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PROJECT = "letta-ops:"
ENVIRONMENT = f"^{PROJECT}server\\.environment\\."


def profile_schema() -> dict[str, Any]:
    """That of a profile, which is written in tables."""
    return {"$schema": DIALECT, **_plain(Profile.model_json_schema()), "title": "A profile"}


def stack_schema(kinds: Iterable[type[Settings]]) -> dict[str, Any]:
    """That of a stack file of Pulumi's, where each key stands with the name of the project.

    It takes the keys of every target: which of them a target has, `up` says.
    """
    keys: dict[str, Any] = {}
    for kind in kinds:
        for name, about in _flat(_plain(kind.model_json_schema())):
            found = keys.setdefault(
                f"{PROJECT}{name}", {"description": about.pop("description"), "anyOf": []}
            )
            found["anyOf"] += [about] if about not in found["anyOf"] else []
    for about in keys.values():
        about["anyOf"].append({"type": "object", "required": ["secure"]})  # what Pulumi encrypts
    paths = [name.split(".") for name in keys]
    tables = {".".join(path[:depth]) for path in paths for depth in range(1, len(path))}
    keys |= {
        table: {"type": "object"} for table in (*sorted(tables), f"{PROJECT}server.environment")
    }
    config = {
        "type": "object",
        "properties": keys,
        "patternProperties": {ENVIRONMENT: {"type": ["string", "number", "boolean", "object"]}},
        "propertyNames": {
            "anyOf": [
                {"not": {"pattern": f"^{PROJECT}"}},
                {"pattern": ENVIRONMENT},
                {"enum": list(keys)},
            ]
        },
    }
    return {
        "$schema": DIALECT,
        "title": "The configuration of a stack",
        "type": "object",
        "properties": {"config": config},
    }


def as_text(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, indent=1) + "\n"


def _flat(schema: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key of a model with its schema; tables are followed, and what isn't a person's left out."""
    pending = [("", schema)]
    while pending:
        path, table = pending.pop(0)
        for name, about in table["properties"].items():
            if "$ref" in about:
                followed = schema["$defs"][about["$ref"].rpartition("/")[2]]
                pending.append((f"{path}{name}.", followed))
            elif "description" in about and f"{path}{name}" != "server.environment":
                yield f"{path}{name}", dict(about)


def _plain(schema: Any) -> Any:
    """Without what pydantic adds for programs: titles, and null for what is not there."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema if each != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: _plain(each)
        for name, each in schema.items()
        if not (name == "title" and isinstance(each, str))
        and not (name == "default" and (each is None or isinstance(each, dict | list)))
    }
    if len(only := found.get("anyOf", ())) == 1:
        return {**{name: each for name, each in found.items() if name != "anyOf"}, **only[0]}
    return found
