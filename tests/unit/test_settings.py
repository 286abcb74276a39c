"""Stack configuration: what it means, and every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from infra.sensitive import Sensitive
from infra.stack.server_environment import server_environment
from infra.targets import settings as parse
from infra.targets.docker.settings import docker_settings


def test_nothing_configured_is_a_local_stack_with_the_fake_model() -> None:
    settings = parse("local", {})
    assert (settings.target, settings.model) == ("local", "fake")
    assert settings.server_url == "http://127.0.0.1:8283"
    assert settings.ports == {"server.port": 8283, "database.port": 8285, "model_port": 8284}


def test_a_provider_replaces_the_fake_model() -> None:
    settings = parse("local", {"providers.ollama.base_url": "http://127.0.0.1:11434"})
    assert settings.model == "none"
    assert settings.environment == {"OLLAMA_BASE_URL": "http://127.0.0.1:11434"}
    assert "model_port" not in settings.ports


def test_a_secret_comes_from_its_reference_and_hides_itself() -> None:
    values = {"providers.anthropic.api_key": "env:KEY"}
    settings = parse("local", values, environment={"KEY": "sk-ant-secret"})
    assert settings.environment == {"ANTHROPIC_API_KEY": Sensitive("sk-ant-secret")}
    assert "sk-ant-secret" not in repr(settings)


def test_a_secret_that_pulumi_keeps_encrypted_may_be_given_as_it_is() -> None:
    key = "providers.openai.api_key"
    settings = parse("local", {key: "sk-openai"}, frozenset([key]))
    assert settings.environment == {"OPENAI_API_KEY": Sensitive("sk-openai")}


def test_a_further_variable_of_the_server_is_handed_on() -> None:
    settings = parse("local", {"server.environment.LETTA_DEBUG": "true"})
    assert settings.environment == {"LETTA_DEBUG": "true"}
    assert settings.model == "fake"


def test_programs_as_mcp_servers_are_allowed_on_purpose_only() -> None:
    assert parse("local", {}).environment == {}
    allowed = parse("local", {"server.mcp_stdio": "true"})
    assert allowed.environment == {"MCP_DISABLE_STDIO": "false"}
    made = server_environment("uri", "password", "key", Path("/home"), Path("/sandbox"))
    assert made["MCP_DISABLE_STDIO"] == "true"


PROBLEMS = [
    ({"server.prot": "1"}, "server.prot: unknown key, did you mean server.port?"),
    ({"server.port": "80"}, "server.port: must be a port between 1024 and 65535"),
    ({"server.port": "many"}, "server.port: must be a port"),
    ({"server.port": "8284"}, "model_port: 8284 is the port of server.port already"),
    ({"release": "0.1"}, "release: '0.1' is unknown; this letta-ops knows 0.16.8"),
    ({"target": "moon"}, "target: 'moon' is unknown"),
    ({"model": "parrot"}, "model: must be one of fake, smollm2, none"),
    (
        {"model": "fake", "providers.openai.base_url": "http://127.0.0.1:1/v1"},
        "model: fake is served as the OpenAI provider",
    ),
    ({"providers.openai.api_key": "sk-plain"}, "providers.openai.api_key: is in plain text"),
    ({"providers.openai.api_key": "env:NOPE"}, "the environment variable NOPE is not set"),
    ({"backup.passphrase": "sk-plain"}, "backup.passphrase: is in plain text"),
    ({"backup.schedule": "often"}, "backup.schedule: 'often' is no schedule"),
    ({"store.ulr": "x"}, "store.ulr: unknown key, did you mean store.url?"),
    ({"server.environment.LETTA_PG_URI": "x"}, "LETTA_PG_URI: is set by letta-ops itself"),
    ({"server.environment.TOOL_EXEC_DIR": "x"}, "TOOL_EXEC_DIR: is set by letta-ops itself"),
    (
        {"server.environment.MCP_DISABLE_STDIO": "x"},
        "MCP_DISABLE_STDIO: is set by letta-ops itself",
    ),
    ({"server.environment.HOME": ""}, "server.environment.HOME: is set by letta-ops itself"),
    ({"server.environment.": "x"}, "server.environment.: is not complete, a name is missing"),
    (
        {"server.environment.OLLAMA_BASE_URL": "http://a", "providers.ollama.base_url": "http://b"},
        "server.environment.OLLAMA_BASE_URL: is what providers.ollama.base_url sets",
    ),
]


@pytest.mark.parametrize(("values", "problem"), PROBLEMS, ids=[text for _, text in PROBLEMS])
def test_a_problem_is_named_with_its_key(values: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        parse("local", values, environment={})
    assert problem in failure.value.message
    assert "sk-plain" not in str(failure.value)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as failure:
        parse("local", {"target": "moon", "release": "0", "server.port": "x"}, environment={})
    assert len(failure.value.problems) == 3
    assert "3 problems" in failure.value.message


def test_a_default_in_the_place_of_a_wrong_key_contradicts_nobody() -> None:
    with pytest.raises(ConfigurationError) as failure:
        parse("local", {"server.port": "abc", "database.port": "8283"})
    assert [problem.partition(":")[0] for problem in failure.value.problems] == ["server.port"]


def test_a_variable_may_be_empty_on_purpose() -> None:
    assert parse("local", {"server.environment.NO_PROXY": ""}).environment == {"NO_PROXY": ""}


def test_what_is_for_an_external_database_is_not_even_read_without_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as failure:
        parse("docker", {"database.url": f"cmd:touch {tmp_path / 'ran'}"})
    (problem,) = failure.value.problems
    assert problem == "database.url: is set, but database.mode is not external"
    assert not (tmp_path / "ran").exists()


def test_recipients_are_split_at_blanks_and_commas_alike() -> None:
    settings = parse("local", {"backup.recipients": "age1x, age1y,\n"})
    assert settings.backup.recipients == ("age1x", "age1y")


@pytest.mark.parametrize("target", ["local", "docker"])
def test_settings_of_backups_are_kept_as_given_on_every_target(target: str) -> None:
    values = {
        "store.url": "s3://b/p",
        "backup.escrow": False,
        "backup.identity": "file:/offline",
        "backup.passphrase": "",
        "store.access_key_id": "kept-by-pulumi",
        "store.secret_access_key": "kept-by-pulumi",
    }
    hidden = frozenset(["store.access_key_id", "store.secret_access_key"])
    settings = parse(target, values, hidden, environment={})
    assert settings.backups == {
        "store.url": "s3://b/p",
        "backup.escrow": "false",
        "backup.identity": "file:/offline",
        **dict.fromkeys(hidden, Sensitive("kept-by-pulumi")),
    }


DOCKER_PROBLEMS = [
    ({"server.replicas": "0"}, "server.replicas: must be between 1 and 16"),
    ({"server.bind": "0.0.0.0"}, "server.bind: 0.0.0.0 is beyond loopback"),
    ({"server.bind": "here"}, "server.bind: must be an IP address"),
    ({"tls.mode": "files", "tls.host": "h"}, "files needs tls.certificate and tls.key"),
    ({"tls.mode": "acme"}, "tls.host: is missing"),
    ({"tls.mode": "acme", "tls.host": "a.b"}, "tls.email: is missing"),
    ({"tls.mode": "acme", "tls.host": "a b;c"}, "tls.host: 'a b;c' is none"),
    ({"tls.mode": "acme", "tls.host": "a", "tls.email": "x y"}, "tls.email: 'x y' is none"),
    ({"tls.host": "h"}, "tls.mode: is off, but other tls keys are set"),
    ({"database.mode": "external"}, "database.url: is missing"),
    (
        {"database.mode": "external", "database.url": "postgresql://u:hidden@h/db"},
        "database.url: is in plain text",
    ),
    ({"database.mode": "external", "database.url": "env:NOPE"}, "NOPE is not set"),
    ({"database.port": "5432"}, "database.port: is for the target local only"),
    ({"model": "smollm2"}, "model: smollm2 runs on this machine itself"),
    ({"containers.prefix": "No Good"}, "containers.prefix: use lower-case letters"),
    ({"image.ca_bundle": "/nowhere.pem"}, "image.ca_bundle: /nowhere.pem is not a file"),
]


@pytest.mark.parametrize(("values", "problem"), DOCKER_PROBLEMS)
def test_a_problem_of_the_docker_target_is_named(values: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        parse("docker", values, environment={})
    assert problem in failure.value.message
    assert "hidden" not in str(failure.value)


def test_a_stack_named_after_a_target_is_of_that_target() -> None:
    settings = parse("docker", {})
    assert settings.target == "docker"
    assert docker_settings(settings).names.prefix == "letta-docker"
    assert settings.ports == {"server.port": 8283}
    assert settings.model_url == "http://letta-docker-model:8284/v1"


def test_beyond_loopback_is_allowed_with_tls() -> None:
    settings = parse("docker", {"server.bind": "0.0.0.0", "tls.mode": "internal"})
    assert settings.server_url == "https://localhost:8283"


@pytest.mark.parametrize(
    ("bind", "url"), [("::1", "http://[::1]:8283"), ("127.0.0.2", "http://127.0.0.2:8283")]
)
def test_the_url_is_where_the_server_is_bound(bind: str, url: str) -> None:
    assert parse("docker", {"server.bind": bind}).server_url == url


@pytest.mark.parametrize("target", ["local", "docker"])
def test_a_key_that_is_no_more_is_told_so(target: str) -> None:
    with pytest.raises(
        ConfigurationError, match="redis: every stack has one now; take the key out"
    ):
        parse(target, {"redis": "true"})


def test_keys_of_the_docker_target_are_refused_elsewhere() -> None:
    with pytest.raises(
        ConfigurationError, match=r"server\.replicas: is for the target docker only"
    ):
        parse("local", {"server.replicas": "2"})


URLS = [
    ({}, {"openai": "http://127.0.0.1:8284/v1"}),
    ({"model": "none"}, {"openai": "https://api.openai.com/v1"}),
    ({"providers.openai.base_url": "http://h/v1/"}, {"openai": "http://h/v1"}),
    (
        {"providers.vllm.base_url": "http://h:8000"},
        {"openai": "https://api.openai.com/v1", "vllm": "http://h:8000/v1"},
    ),
]


@pytest.mark.parametrize(("values", "expected"), URLS)
def test_a_providers_url_is_what_letta_makes_of_it(
    values: dict[str, str], expected: dict[str, str]
) -> None:
    assert parse("local", values).provider_urls == expected
