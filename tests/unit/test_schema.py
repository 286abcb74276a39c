"""JSON Schema for editors: it takes what we take, refuses what we refuse, and is in the checkout."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from infra.errors import ConfigurationError
from infra.stack.keys import keys_of
from infra.stack.locations import StackFolder
from infra.stack.profile import nested, parse
from infra.stack.profile_keys import Profile
from infra.stack.schema import as_text, profile_schema, stack_schema
from infra.targets import OURS, all_settings, named, settings

ROOT = Path(__file__).parents[2]
STACKS = ROOT / "infra" / "stacks"
OURS_ONLY = [named(name).settings for name in OURS]


def takes(schema: dict[str, Any], document: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(document)


def stack_takes(**values: Any) -> bool:
    config = {f"letta-ops:{name}": value for name, value in values.items()}
    return takes(stack_schema(OURS_ONLY), {"config": config})


def test_the_schema_beside_the_stack_files_is_of_this_release() -> None:
    """After a change of keys: `letta-ops profile schema --stack-file > infra/stacks/schema.json`."""
    assert (STACKS / "schema.json").read_text() == as_text(stack_schema(OURS_ONLY))


@pytest.mark.parametrize("name", OURS)
def test_the_stack_files_name_their_schema_and_keep_to_it(name: str) -> None:
    text = (STACKS / f"Pulumi.{name}.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    assert takes(stack_schema(OURS_ONLY), yaml.safe_load(text))


def test_both_are_schemas_and_explain_every_key() -> None:
    for schema in (profile_schema(), stack_schema(OURS_ONLY)):
        jsonschema.Draft202012Validator.check_schema(schema)
    properties = stack_schema(OURS_ONLY)["properties"]["config"]["properties"]
    for kind in OURS_ONLY:
        for name, about in keys_of(kind).items():
            assert about.description
            if not name.endswith("."):
                assert properties[f"letta-ops:{name}"]["description"]
    for name, about in keys_of(Profile).items():
        assert about.description, name


GOOD: list[dict[str, Any]] = [
    {"server.port": 8283},
    {"server.port": "8283", "tls.mode": "internal"},
    {"server.environment.ANY": "x"},
    {"backup.escrow": False, "store.timeout": 5},
    {"providers.openai.api_key": {"secure": "v1:abc"}},
    {"server.environment": {"ANY": "x"}, "providers.openai": {"base_url": "http://h"}},
]
BAD: list[dict[str, Any]] = [
    {"redis": True},
    {"server.prot": 1},
    {"server.port": 0},
    {"tls.mode": "some"},
    {"backup.escrow": "perhaps"},
    {"release": "0.1"},
    {"store.timeout": 0},
]


@pytest.mark.parametrize("values", GOOD)
def test_it_takes_what_is_right(values: dict[str, Any]) -> None:
    assert stack_takes(**values)


@pytest.mark.parametrize("values", BAD)
def test_it_refuses_what_is_refused(values: dict[str, Any]) -> None:
    assert not stack_takes(**values)
    with pytest.raises(ConfigurationError):
        settings("docker", values, environment={})


def test_the_profiles_in_the_documents_keep_to_their_schema(tmp_path: Path) -> None:
    found = 0
    for document in (ROOT / "docs").glob("*.md"):
        for block in document.read_text().split("```toml\n")[1:]:
            assert takes(profile_schema(), tomllib.loads(block.partition("```")[0])), document
            found += 1
    assert found >= 2
    values = {"server.url": "http://a", "placement.anything": "x", "database.host": "h"}
    assert parse(values, "test", StackFolder(tmp_path, "local")).placement
    assert takes(profile_schema(), nested(values))
    assert not takes(profile_schema(), {"server": {"ulr": "x"}})


def test_targets_of_other_packages_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "live" / "toy"))
    assert "letta-ops:toy.colour" in as_text(stack_schema(all_settings().values()))
