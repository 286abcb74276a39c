"""The Pulumi program against Pulumi's mocks: what a local stack is made of, and what is secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import rpc
from pulumi.runtime.mocks import MockCallArgs, MockResourceArgs, Mocks

from infra.accounts import operator
from infra.stack.backup_settings import BackupSettings
from infra.stack.keys import keys_of
from infra.stack.locations import StackFolder
from infra.stack.profile import SECRET_PATHS, remember
from infra.targets import settings as parse
from infra.targets.docker.settings import docker_settings
from infra.targets.local.settings import local_settings
from infra.targets.providers.service import program

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
    from infra.targets.local import program as local

    monkeypatch.setenv("LETTA_OPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "ensure_possible", lambda folder, settings: None)
    pulumi.runtime.set_mocks(Recorder(), preview=False)
    made.clear()

    def run(values: dict[str, str]) -> dict[str, MockResourceArgs]:
        @pulumi.runtime.test  # type: ignore[untyped-decorator]  # Pulumi's own
        def program() -> None:
            chosen = local_settings(parse("demo", values, environment={}))
            local.declare(StackFolder(tmp_path, "demo"), chosen)

        program()
        return {name: args for name, args in made.items() if args.typ.startswith("pulumi-python")}

    return run


def test_a_local_stack_is_made_of_these_resources(build: Any) -> None:
    assert set(build({})) == {
        "server-password", "encryption-key", "database-owner-password",
        "database-reader-password", "deployment-id", "release", "cluster", "postgres", "database",
        "migration", "endpoints", "model", "valkey", "redis", "letta", "profile",
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
    given = [key for key, value in values.items() if value]
    assert not [key for key in given if "password" in key or "key" in key.rpartition(".")[2]]
    assert values["server.url"] == "http://127.0.0.1:8283"


def test_settings_of_backups_are_recorded_as_given_and_others_are_taken_out(build: Any) -> None:
    given = {"store.url": "s3://b/p", "backup.passphrase": "env:BACKUP_PASSPHRASE"}
    values = build(given)["profile"].inputs["values"]
    recorded = {key: values[key] for key in keys_of(BackupSettings)}
    assert recorded == {**dict.fromkeys(keys_of(BackupSettings), ""), **given}


SCHEDULED = {"backup.schedule": "30 2 * * *"}


def test_only_a_schedule_brings_a_scheduler_and_another_one_restarts_it(build: Any) -> None:
    assert "scheduler" not in build({"store.url": "s3://b"})
    inputs = build(SCHEDULED)["scheduler"].inputs
    assert inputs["command"][-3:] == ["backup", "schedule", "--run"]
    assert inputs["account"] == "operator"
    other = build({**SCHEDULED, "drill.schedule": "0 4 * * 0"})["scheduler"].inputs
    assert other["digest"] != inputs["digest"]


def test_the_scheduler_knows_where_things_are_and_no_secret(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:a-secret@proxy:1")
    monkeypatch.setenv("AWS_PROFILE", "backups")
    monkeypatch.setenv("DOCKER_HOST", "unix:///elsewhere.sock")
    variables = build(SCHEDULED)["scheduler"].inputs["variables"]
    assert variables["LETTA_OPS_STATE"] == str(tmp_path)
    assert variables["LETTA_OPS_CACHE"] == str(tmp_path / "cache")
    assert variables["DOCKER_HOST"] == "unix:///elsewhere.sock"
    assert variables["AWS_PROFILE"] == "backups"
    assert "a-secret" not in str(variables)


def test_the_schedulers_settings_have_one_order(build: Any, tmp_path: Path) -> None:
    """Pulumi gives back a mapping in an order of its own: that is no difference."""
    inputs = build(SCHEDULED)["scheduler"].inputs
    turned = {**inputs, "variables": dict(reversed(inputs["variables"].items()))}
    folder = StackFolder(tmp_path, "demo")
    assert program(operator(), folder, inputs) == program(operator(), folder, turned)


def test_pulumi_is_told_what_is_secret(build: Any) -> None:
    build({})
    assert "environment" in hidden["letta"]


def test_a_secret_providers_url_is_secret_for_pulumi_too(build: Any, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("http://user:secret@h/v1")
    build({"model": "none", "server.environment.OPENAI_BASE_URL": f"file:{tmp_path / 'url'}"})
    assert "urls" in hidden["endpoints"]


@pytest.fixture
def docker_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from infra.targets.docker import program as docker

    monkeypatch.setenv("LETTA_OPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(docker, "ensure_possible", lambda folder, settings, known: None)
    pulumi.runtime.set_mocks(Recorder(), preview=False)

    def run(values: dict[str, str]) -> dict[str, MockResourceArgs]:
        made.clear()

        @pulumi.runtime.test  # type: ignore[untyped-decorator]  # Pulumi's own
        def program() -> None:
            chosen = docker_settings(parse("docker", values, environment={}))
            docker.declare(StackFolder(tmp_path, "demo"), chosen)

        program()
        return dict(made)

    # The same secrets at every call: what a second run of a stack meets.
    values = {path: f"value-of-{path}" for path in SECRET_PATHS.values()} | {"id": "the-id"}
    remember(StackFolder(tmp_path, "demo").profile, values)
    return run


def test_a_docker_stack_has_its_scheduler_on_the_machine(docker_build: Any) -> None:
    resources = docker_build(SCHEDULED)
    assert resources["scheduler"].inputs["health"]["kind"] == "none"
    assert "scheduler" not in str(sorted(containers(resources)))


def containers(resources: dict[str, MockResourceArgs]) -> dict[str, dict[str, Any]]:
    kind = "docker:index/container:Container"
    return {args.inputs["name"]: args.inputs for args in resources.values() if args.typ == kind}


def test_every_container_is_hardened(docker_build: Any) -> None:
    found = containers(docker_build({"server.replicas": "2"}))
    assert len(found) == 6
    for name, inputs in found.items():
        assert inputs["readOnly"] is True, name
        assert inputs["capabilities"] == {"drops": ["ALL"]}, name
        assert inputs["securityOpts"] == ["no-new-privileges:true"], name
        assert inputs["memory"] == inputs["memorySwap"] > 0, name
        assert inputs["init"] is True, name
        assert inputs["logOpts"]["max-size"], name
        assert inputs["mustRun"] is False, name
        assert "privileged" not in inputs, name


def test_only_the_proxy_is_published_and_only_on_loopback(docker_build: Any) -> None:
    found = containers(docker_build({}))
    published = {name: inputs["ports"] for name, inputs in found.items() if inputs.get("ports")}
    port = {"internal": 8080, "external": 8283, "ip": "127.0.0.1"}
    assert published == {"letta-docker-proxy": [port]}


def test_the_database_has_no_way_out(docker_build: Any) -> None:
    resources = docker_build({})
    (network,) = containers(resources)["letta-docker-postgres"]["networksAdvanced"]
    assert network["name"] == "letta-docker-inner"
    assert resources["network-inner"].inputs["internal"] is True


def test_no_container_is_given_a_secret(docker_build: Any) -> None:
    for name, inputs in containers(docker_build({})).items():
        assert "value-of-" not in str(inputs), name


def servers(resources: dict[str, MockResourceArgs]) -> list[str]:
    return sorted(name for name in containers(resources) if "-letta-" in name[6:])


def test_a_server_is_named_after_its_configuration(docker_build: Any) -> None:
    """So its successor is made beside it, and takes over only when it has proven itself."""
    first, again = servers(docker_build({})), servers(docker_build({}))
    changed = servers(docker_build({"server.environment.LETTA_DEBUG": "true"}))
    larger = servers(docker_build({"server.memory": "4096"}))
    assert first == again
    assert len({*first, *changed, *larger}) == 3


def test_more_servers_leave_the_first_as_it_is(docker_build: Any) -> None:
    one = servers(docker_build({}))
    two = servers(docker_build({"server.replicas": "2"}))
    assert set(one) < set(two)


def test_data_has_volumes_of_its_own(docker_build: Any) -> None:
    resources = docker_build({})
    kinds = [name for name, args in resources.items() if args.typ == "docker:index/volume:Volume"]
    assert sorted(kinds) == ["volume-database", "volume-home", "volume-proxy", "volume-secrets"]


def test_pulumi_is_told_what_is_secret_on_docker_too(docker_build: Any) -> None:
    resources = docker_build({})
    (file,) = [name for name in resources if name.startswith("server-environment-")]
    assert "content" in hidden[file]
    assert {"owner_password", "reader_password"} <= hidden["database"]
    assert "server_uri" in hidden["migration"]
