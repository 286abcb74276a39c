"""The engine's failures, in words that a person can act on."""

from __future__ import annotations

import pytest

from infra.errors import LettaOpsError
from infra.targets.docker.engine.client import _ensure_new_enough, explain, unreachable

WORDS = [
    ("Bind for 127.0.0.1:8283 failed: port is already allocated", "port-taken"),
    ("listen tcp 127.0.0.1:8283: bind: address already in use", "port-taken"),
    ("write /var/lib/docker/x: no space left on device", "disk-full"),
    ("No such image: letta-ops/letta:1", "image-missing"),
    ("pull access denied for letta-ops/letta", "image-missing"),
    ("Pool overlaps with other one on this address space", "network-exhausted"),
    ("something that nobody has seen yet", "engine"),
]


@pytest.mark.parametrize(("words", "code"), WORDS)
def test_what_the_engine_says_becomes_our_error(words: str, code: str) -> None:
    error = explain(words)
    assert error.code == code
    assert words in error.message
    assert error.hint


def test_no_permission_is_told_apart_from_no_engine() -> None:
    denied = unreachable(PermissionError(13, "Permission denied"))
    absent = unreachable(ConnectionRefusedError(111, "Connection refused"))
    assert (denied.code, absent.code) == ("engine-permission", "no-engine")
    assert "group `docker`" in denied.hint


@pytest.mark.parametrize("version", ["1.40", "1.9", "0"])
def test_an_engine_that_is_too_old_is_refused(version: str) -> None:
    with pytest.raises(LettaOpsError) as failure:
        _ensure_new_enough({"ApiVersion": version, "Version": "19.03"})
    assert failure.value.code == "engine-too-old"
    assert "1.41" in failure.value.message


def test_a_new_enough_engine_is_taken() -> None:
    _ensure_new_enough({"ApiVersion": "1.41"})
    _ensure_new_enough({"ApiVersion": "1.50"})
