"""The Pulumi program against Pulumi's mocks: what a local stack is made of, and what is secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import rpc
from pulumi.runtime.mocks import MockCallArgs, MockResourceArgs, Mocks

from infra.locations import StackFolder
from infra.settings import parse

SECRET = rpc._special_sig_key
made: dict[str, MockResourceArgs] = {}
hidden: dict[str, set[str]] = {}  # the inputs of each resource that Pulumi was told to encrypt


class Recorder(Mocks):
    def new_resource(self, args: MockResourceArgs) -> tuple[str, dict[str, Any]]:
        hidden[args.name] = {name for name, value in args.inputs.items() if _is_secret(value)}
        args.inputs = {name: _plain(value) for name, value in args.inputs.items()}
        made[args.name] = args
        outputs = dict(args.inputs)
        for name in (
            "value",
            "digest",
            "interpreter",
            "binaries",
            "configuration",
            "python",
            "venv",
        ):
            outputs[name] = f"{args.name}.{name}"
        return args.name, outputs

    def call(self, args: MockCallArgs) -> Any:
        raise AssertionError(f"the program calls nothing: {args.token}")


def _is_secret(value: Any) -> bool:
    return isinstance(value, dict) and SECRET in value


def _plain(value: Any) -> Any:
    """What Pulumi sends for a secret is a wrapper around its value."""
    return value["value"] if _is_secret(value) else value


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from infra.targets import local

    monkeypatch.setenv("LETTA_OPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "ensure_possible", lambda folder, settings: None)
    pulumi.runtime.set_mocks(Recorder(), preview=False)
    made.clear()

    def run(values: dict[str, str]) -> dict[str, MockResourceArgs]:
        @pulumi.runtime.test  # type: ignore[untyped-decorator]  # Pulumi's own
        def program() -> None:
            local.build(StackFolder(tmp_path, "demo"), parse("demo", values, environment={}))

        program()
        return {name: args for name, args in made.items() if args.typ.startswith("pulumi-python")}

    return run


def test_a_local_stack_is_made_of_these_resources(build: Any) -> None:
    assert set(build({})) == {
        "server-password", "encryption-key", "database-owner-password",
        "database-reader-password", "deployment-id", "release", "cluster", "postgres", "database",
        "migration", "endpoints", "model", "letta", "profile",
    }  # fmt: skip


def test_a_provider_leaves_out_the_model(build: Any) -> None:
    resources = build({"providers.ollama.base_url": "http://127.0.0.1:11434"})
    assert "model" not in resources
    assert resources["letta"].inputs["environment"]["OLLAMA_BASE_URL"] == "http://127.0.0.1:11434"


def test_smollm2_stands_behind_the_fake_model(build: Any) -> None:
    resources = build({"model": "smollm2"})
    assert "smollm2=http://127.0.0.1:8286/v1" in resources["model"].inputs["command"]
    assert resources["smollm2"].inputs["port"] == 8286


def test_the_server_is_authenticated_encrypted_pooled_and_on_loopback(build: Any) -> None:
    inputs = build({})["letta"].inputs
    environment = inputs["environment"]
    assert environment["LETTA_SERVER_PASSWORD"] == "server-password.value"
    assert environment["LETTA_ENCRYPTION_KEY"] == "encryption-key.value"
    assert environment["LETTA_DISABLE_SQLALCHEMY_POOLING"] == "false"
    assert environment["LETTA_PG_URI"].endswith("@127.0.0.1:8285/letta?ssl=disable")
    assert "--secure" in inputs["command"]
    assert inputs["command"][inputs["command"].index("--host") + 1] == "127.0.0.1"


def test_no_command_holds_a_secret(build: Any) -> None:
    for name, args in build({}).items():
        assert ".value" not in str(args.inputs.get("command", "")), name


def test_a_literal_secret_in_the_profile_record_would_be_seen(build: Any) -> None:
    values = build({})["profile"].inputs["values"]
    assert not [key for key in values if "password" in key or "key" in key.rpartition(".")[2]]
    assert values["server.url"] == "http://127.0.0.1:8283"


def test_pulumi_is_told_what_is_secret(build: Any) -> None:
    build({})
    assert "environment" in hidden["letta"]


def test_a_secret_providers_url_is_secret_for_pulumi_too(build: Any, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("http://user:secret@h/v1")
    build({"model": "none", "server.environment.OPENAI_BASE_URL": f"file:{tmp_path / 'url'}"})
    assert "urls" in hidden["endpoints"]
