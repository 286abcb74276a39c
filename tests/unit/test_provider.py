"""The embedded providers: what makes a difference, what drifted, and how failures are kept."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

import dill
import pytest
from pulumi.dynamic.dynamic import serialize_provider

from infra.errors import LettaOpsError
from infra.providers.provider import MODULES, provider_named
from infra.stack.locations import StackFolder
from infra.stack.profile import SECRET_PATHS, remember, remembered
from infra.stack.secrets import stack_secrets
from infra.targets.providers.generated import GeneratedValue
from infra.targets.providers.provider import Properties, Provider
from infra.targets.providers.record import ProfileRecord


class Thing(Provider):
    compared: ClassVar[tuple[str, ...]] = ("port",)
    found: ClassVar[str | None] = None
    failure: ClassVar[Exception | None] = None

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        if self.failure:
            raise self.failure
        return "id", {"made": inputs["port"]}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        return self.found


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    return {"state": str(tmp_path), "stack": "demo", "port": 8283.0, "name": "a", "__provider": "x"}


CASES = [
    ({}, None, False),
    ({"port": 8283}, None, False),  # Pulumi knows no whole numbers
    ({"port": 9000.0}, None, True),
    ({"unrelated": 1}, None, False),
    ({}, "it is not running", True),
]


@pytest.mark.parametrize(("changed", "drift", "expected"), CASES)
def test_a_difference_is_a_changed_input_or_a_changed_reality(
    inputs: dict[str, Any],
    changed: dict[str, Any],
    drift: str | None,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Thing, "found", drift)
    result = Thing().diff("id", inputs, {**inputs, **changed})
    assert result.changes is expected


def test_outputs_are_the_inputs_and_what_was_made_without_pulumis_own(
    inputs: dict[str, Any],
) -> None:
    outs = Thing().create(inputs).outs
    assert outs is not None
    assert outs["made"] == 8283
    assert isinstance(outs["made"], int)
    assert "__provider" not in outs


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (LettaOpsError("some-code", "it broke", "mend it"), "some-code"),
        (OSError(28, "No space left on device", "/x"), "disk-full"),
        (OSError(13, "Permission denied", "/x"), "system"),
    ],
)
def test_a_failure_is_kept_for_whoever_started_the_run(
    inputs: dict[str, Any], failure: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Thing, "failure", failure)
    with pytest.raises(LettaOpsError):
        Thing().create(inputs)
    kept = json.loads(StackFolder(Path(inputs["state"]), "demo").last_error.read_text())
    assert kept["code"] == code
    assert kept["message"]
    assert kept["hint"]


def test_a_provider_is_pickled_by_reference_and_holds_no_secret() -> None:
    """So its pickle never changes with its code, and needs no encryption in the state."""
    pickled = base64.b64decode(serialize_provider(GeneratedValue()))
    assert len(pickled) < 200
    assert isinstance(dill.loads(pickled), GeneratedValue)  # noqa: S301  # our own bytes
    assert GeneratedValue.serialize_as_secret_always is False


def value(tmp_path: Path, key: str = "server.password") -> dict[str, Any]:
    proposed = stack_secrets(StackFolder(tmp_path, "demo")).values
    names = {path: name for name, path in SECRET_PATHS.items()}
    return {
        "state": str(tmp_path),
        "stack": "demo",
        "key": key,
        "proposed": proposed[names[key]].reveal(),
    }


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_provider_that_a_state_may_name_is_found(name: str) -> None:
    assert type(provider_named(name)).__name__ == name


def test_a_state_names_a_provider_by_what_never_moves() -> None:
    """`kept` is what an earlier letta-ops has pickled."""
    kept = b"\x80\x04cinfra.providers.provider\nprovider_named\n(VGeneratedValue\ntR."
    assert isinstance(pickle.loads(kept), GeneratedValue)  # noqa: S301
    assert b"infra.providers.provider" in pickle.dumps(GeneratedValue())


def test_a_provider_of_another_package_is_not_taken_for_ours() -> None:
    other = type("Route", (Provider,), {"__module__": __name__})
    assert other().__reduce__() == (other, ())


def test_a_value_is_generated_once_and_comes_back(tmp_path: Path) -> None:
    """After a `destroy`, Pulumi's state knows nothing: the profile does."""
    first = GeneratedValue().create(value(tmp_path)).outs
    again = GeneratedValue().create(value(tmp_path)).outs
    assert first is not None
    assert first == again
    assert len(first["value"]) >= 43  # 256 bits
    assert remembered(StackFolder(tmp_path, "demo").profile, "server.password") == first["value"]


def test_two_values_differ(tmp_path: Path) -> None:
    outs = [
        GeneratedValue().create(value(tmp_path, key)).outs or {}
        for key in ("server.password", "server.encryption_key")
    ]
    assert outs[0]["value"] != outs[1]["value"]


def test_old_data_never_gets_a_new_key(tmp_path: Path) -> None:
    data = StackFolder(tmp_path, "demo").postgres_data
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18")
    with pytest.raises(LettaOpsError) as failure:
        GeneratedValue().create(value(tmp_path, "server.encryption_key"))
    assert failure.value.code == "profile-lost"


def test_a_password_changed_by_hand_wins_and_the_encryption_key_does_not(tmp_path: Path) -> None:
    profile = StackFolder(tmp_path, "demo").profile
    for key in ("server.password", "server.encryption_key"):
        old = {**value(tmp_path, key), "value": "old-value"}
        remember(profile, {key: "chosen-by-hand"})
        assert GeneratedValue().diff(key, old, value(tmp_path, key)).changes is True
        if key == "server.password":
            outs = GeneratedValue().update(key, old, value(tmp_path, key)).outs
            assert outs is not None
            assert outs["value"] == "chosen-by-hand"
        else:
            with pytest.raises(LettaOpsError, match="is not the one"):
                GeneratedValue().update(key, old, value(tmp_path, key))


def test_a_lost_profile_gets_its_values_back(tmp_path: Path) -> None:
    old = {**value(tmp_path), "value": "from-the-state"}
    assert GeneratedValue().diff("x", old, value(tmp_path)).changes is True
    GeneratedValue().update("x", old, value(tmp_path))
    assert remembered(StackFolder(tmp_path, "demo").profile, "server.password") == "from-the-state"


def test_the_profile_record_drifts_with_the_file_and_drops_what_is_empty(tmp_path: Path) -> None:
    values = {"server.url": "http://a", "model.handle": ""}
    props = {"state": str(tmp_path), "stack": "demo", "values": values}
    profile = StackFolder(tmp_path, "demo").profile
    remember(profile, {"model.handle": "old/handle"})
    ProfileRecord().create(props)
    assert remembered(profile, "model.handle") is None
    assert ProfileRecord().diff("x", props, props).changes is False
    remember(profile, {"server.url": "http://b"})
    assert ProfileRecord().diff("x", props, props).changes is True
