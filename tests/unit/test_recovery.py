"""What is found in an exported Pulumi state."""

from __future__ import annotations

from infra.pulumi_cli.recovery import GENERATED, generated_values, ids_of, unfinished
from infra.targets.docker.target import KINDS


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


def test_containers_and_networks_are_known_by_their_ids() -> None:
    resources = [
        {"type": "docker:index/container:Container", "id": "c1"},
        {"type": "docker:index/network:Network", "id": "n1"},
        {"type": "docker:index/volume:Volume", "id": "v1"},
        {"type": "pulumi:pulumi:Stack"},
    ]
    assert ids_of({"deployment": {"resources": resources}}, KINDS) == {"c1", "n1"}
    assert ids_of({}, KINDS) == set()


def test_only_what_a_killed_run_was_making_is_unfinished() -> None:
    """Whatever else the state doesn't know may serve: the state may be another, or lost."""
    container = "docker:index/container:Container"
    pending = [
        {"type": "creating", "resource": {"type": container, "inputs": {"name": "half-made"}}},
        {"type": "deleting", "resource": {"type": container, "inputs": {"name": "half-gone"}}},
        {"type": "creating", "resource": {"type": "some:other:Thing", "inputs": {"name": "x"}}},
    ]
    assert unfinished({"deployment": {"pending_operations": pending}}, KINDS) == {"half-made"}
    assert unfinished({}, KINDS) == set()
