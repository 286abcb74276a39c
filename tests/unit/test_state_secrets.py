"""Which secrets are found in an exported Pulumi state."""

from __future__ import annotations

from infra.engine.state_secrets import GENERATED, generated_values


def test_generated_values_are_found_by_their_key_secret_or_not() -> None:
    secret = {"4dabf18193072939515e22adb298388d": "1b47", "plaintext": '"the-key"'}
    resources = [
        {"type": GENERATED, "outputs": {"key": "server.encryption_key", "value": secret}},
        {"type": GENERATED, "outputs": {"key": "id", "value": "an-id"}},
        {"type": "docker:index/volume:Volume", "outputs": {"key": "x", "value": "y"}},
        {"type": GENERATED},
    ]
    found = generated_values({"deployment": {"resources": resources}})
    assert found == {"server.encryption_key": "the-key", "id": "an-id"}


def test_an_empty_state_has_none() -> None:
    assert generated_values({}) == {}
    assert generated_values({"deployment": {}}) == {}
