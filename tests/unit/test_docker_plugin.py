"""The pure parts of the docker stand-in: what it accepts, fills in, compares and shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "pulumi"))

from docker_plugin.check import failures, with_defaults
from docker_plugin.configuration import configuration
from docker_plugin.difference import difference
from docker_plugin.fields import duration, nanoseconds
from docker_plugin.properties import UNKNOWN, decode, encode
from docker_plugin.redaction import redacted
from docker_plugin.resource_types import TYPES
from docker_plugin.schema import CONTAINER, IMAGE, NETWORK

SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"


def test_secrets_arrive_plain_and_whole_numbers_whole() -> None:
    wrapped = {SIGNATURE: SECRET, "value": ["A=1"]}
    struct = encode({"envs": wrapped, "memory": 64.0, "user": None, "image": UNKNOWN})
    assert decode(struct) == {"envs": ["A=1"], "memory": 64, "user": None, "image": UNKNOWN}


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("", 0),
        ("0s", 0),
        ("250ms", 250_000_000),
        ("30s", 30 * 10**9),
        ("1.5s", 1_500_000_000),
        ("1m30s", 90 * 10**9),
        ("2h", 7200 * 10**9),
    ],
)
def test_a_duration_is_read_as_go_writes_it(text: str, amount: int) -> None:
    assert nanoseconds(text) == amount
    assert nanoseconds(duration(amount)) == amount


def test_every_input_of_the_sdk_is_either_supported_or_refused_by_name() -> None:
    import pulumi_docker

    for token, kind in TYPES.items():
        sdk = getattr(pulumi_docker, token.rpartition(":")[2] + "Args")
        names = {name for name, value in vars(sdk).items() if isinstance(value, property)}
        keys = {re.sub(r"_(\w)", lambda found: found.group(1).upper(), name) for name in names}
        assert keys == kind.schema.fields.keys() | (kind.schema.unsupported & keys), token


@pytest.mark.parametrize(
    ("inputs", "path"),
    [
        ({}, "image"),
        ({"image": 1}, "image"),
        ({"image": "x", "restart": "sometimes"}, "restart"),
        ({"image": "x", "privileged": 1}, "privileged"),
        ({"image": "x", "memory": True}, "memory"),
        ({"image": "x", "command": ["a", 1]}, "command[1]"),
        ({"image": "x", "healthcheck": {"interval": "soon"}}, "healthcheck.interval"),
        ({"image": "x", "ports": [{"external": 1}]}, "ports[0].internal"),
        ({"image": "x", "uploads": [{"file": "/x"}]}, "uploads[0]"),
        (
            {"image": "x", "uploads": [{"file": "/x", "content": "y", "permissions": "rw"}]},
            "uploads[0].permissions",
        ),
        (
            {"image": "x", "volumes": [{"containerPath": "/", "volumeName": "a", "hostPath": "b"}]},
            "volumes[0]",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(inputs: dict[str, Any], path: str) -> None:
    assert [found.path for found in failures(CONTAINER, inputs)] == [path]


def test_building_an_image_is_refused_in_words_of_its_own() -> None:
    (found,) = failures(IMAGE, {"name": "x", "build": {"context": "."}})
    assert "it does not build them" in found.reason


def test_what_is_not_known_yet_is_not_judged() -> None:
    unknown = {"image": UNKNOWN, "envs": UNKNOWN, "uploads": [UNKNOWN], "healthcheck": UNKNOWN}
    assert failures(CONTAINER, unknown) == []
    checked = with_defaults(CONTAINER, unknown, {}, "box", b"seed")
    assert checked["envs"] == UNKNOWN
    assert difference(CONTAINER, {"image": "sha256:1"}, {}, checked).changed


def test_a_made_up_name_stays_and_is_replaced_by_another() -> None:
    first = with_defaults(CONTAINER, {"image": "x"}, {}, "box", b"one")
    again = with_defaults(CONTAINER, {"image": "y"}, first, "box", b"two")
    assert re.fullmatch(r"box-[0-9a-f]{7}", first["name"])
    assert again["name"] == first["name"]
    found = difference(CONTAINER, {**first, "image": "x"}, first, again)
    assert (found.replacing, found.delete_first) == (("image",), False)


BOX = {"image": "sha256:1", "name": "box", "__defaults": []}


@pytest.mark.parametrize(
    ("state", "wanted", "changed"),
    [
        ({}, {}, []),
        ({"envs": ["A=1", "B=2"]}, {"envs": ["B=2", "A=1"]}, []),
        ({"command": ["a", "b"]}, {"command": ["b", "a"]}, ["command"]),
        ({"command": ["from", "the image"]}, {}, []),
        ({"restart": "no", "mustRun": True}, {}, []),
        ({"restart": "always"}, {}, ["restart"]),
        ({"memory": 64}, {}, ["memory"]),
        ({"memorySwap": 128}, {}, []),
        ({"readOnly": False, "privileged": False}, {}, []),
        ({"networkMode": "bridge"}, {"networkMode": "host"}, ["networkMode"]),
        ({"healthcheck": {"interval": "1m0s"}}, {"healthcheck": {"interval": "60s"}}, []),
        ({"healthcheck": {"retries": 3}}, {"healthcheck": {"retries": 4}}, ["healthcheck"]),
        (
            {"ports": [{"internal": 80, "external": 32768, "ip": "0.0.0.0", "protocol": "tcp"}]},
            {"ports": [{"internal": 80}]},
            [],
        ),
        ({"ports": []}, {"ports": [{"internal": 80}]}, ["ports"]),
        ({"tmpfs": {"/a": ""}}, {"tmpfs": {"/b": ""}}, ["tmpfs"]),
    ],
)
def test_only_what_means_something_else_is_a_difference(
    state: dict[str, Any], wanted: dict[str, Any], changed: list[str]
) -> None:
    found = difference(CONTAINER, {**BOX, **state}, BOX, {**BOX, **wanted})
    assert list(found.changed) == changed
    assert set(found.replacing) == {name for name in changed if not CONTAINER.fields[name].in_place}


def test_what_is_to_be_ignored_is_no_difference() -> None:
    wanted = {**BOX, "envs": ["A=2"], "memory": 1}
    found = difference(CONTAINER, BOX, BOX, wanted, frozenset({"envs"}))
    assert found.changed == ("memory",)


def test_a_name_that_an_image_was_asked_for_by_is_compared_with_that_name() -> None:
    state = {**BOX, "networkDatas": []}
    asked = {**BOX, "image": "debian:13"}
    assert not difference(CONTAINER, state, asked, asked).changed
    other = {**BOX, "image": "debian:12"}
    assert difference(CONTAINER, state, asked, other).replacing == ("image",)


def test_a_subnet_alone_does_not_differ_from_the_one_with_its_gateway() -> None:
    state = {"name": "n", "ipamConfigs": [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.1"}]}
    wanted = {"name": "n", "ipamConfigs": [{"subnet": "10.9.0.0/24"}]}
    assert not difference(NETWORK, state, {}, wanted).changed


def test_the_engine_is_told_what_was_asked_for_and_nothing_else() -> None:
    body = configuration({"image": "x", "name": "box", "init": False, "memory": 64, "cpus": "1.5"})
    assert body == {
        "Image": "x",
        "HostConfig": {
            "Init": False,
            "Memory": 64 * 1024**2,
            "NanoCpus": 1_500_000_000,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        },
    }


def test_values_of_variables_and_contents_of_files_are_not_shown() -> None:
    properties = {
        "envs": ["KEY=hunter2hunter2", "SHORT=1", "nameless-secret"],
        "uploads": [{"content": "private text"}],
    }
    said = "bad: KEY=hunter2hunter2, private text, nameless-secret, 1"
    shown = "bad: KEY=[redacted], [redacted], [redacted], 1"
    assert redacted(said, properties) == shown
