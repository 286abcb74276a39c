"""Pulumi's property values: between the structs of the protocol and plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import (  # type: ignore[import-untyped]  # protobuf carries no types
    json_format,
    struct_pb2,
)

Properties = dict[str, Any]

# What stands in a preview for a value that is not known yet. Fixed by Pulumi's protocol
# (sdk/go/common/resource/plugin/rpc.go): one for text, which Python sends for everything, and one
# each for a boolean, a number, an array, an asset, an archive and an object.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
UNKNOWNS = frozenset({
    UNKNOWN,
    "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
    "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
    "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
    "030794c1-ac77-496b-92df-f27374a8bd58",
    "e48ece36-62e2-4504-bad9-02848725956a",
    "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
})  # fmt: skip
# The key that marks an object as something special, and the mark of a secret.
SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105  # a constant of the protocol
OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"

# What Check filled in; kept with the inputs, as the official plugin does.
DEFAULTS = "__defaults"


def decode(struct: struct_pb2.Struct) -> Properties:
    """Return the properties of a struct; secrets as their plain values, whole numbers as `int`."""
    plain = _decoded(json_format.MessageToDict(struct))
    assert isinstance(plain, dict)  # noqa: S101  # for the type checker: a struct is a mapping
    return plain


def encode(properties: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return `properties` as a struct; None becomes null."""
    return json_format.ParseDict(dict(properties), struct_pb2.Struct())


def is_unknown(value: Any) -> bool:
    """Whether this value itself is not known yet."""
    return isinstance(value, str) and value in UNKNOWNS


def has_unknown(value: Any) -> bool:
    """Whether any part of this value is not known yet."""
    if isinstance(value, Mapping):
        return any(has_unknown(item) for item in value.values())
    if isinstance(value, list):
        return any(has_unknown(item) for item in value)
    return is_unknown(value)


def public(value: Any) -> Any:
    """`value` without the keys that belong to the bookkeeping (`__defaults`), at every depth."""
    if isinstance(value, Mapping):
        return {name: public(item) for name, item in value.items() if not name.startswith("__")}
    if isinstance(value, list):
        return [public(item) for item in value]
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get(SIGNATURE) == SECRET:
            return _decoded(value.get("value"))
        if value.get(SIGNATURE) == OUTPUT:
            return _decoded(value["value"]) if "value" in value else UNKNOWN
        return {name: _decoded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
