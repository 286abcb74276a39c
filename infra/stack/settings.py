"""Stack configuration -> Settings: what a person wants provisioned, every problem named at once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from infra.embedded.release import RELEASES
from infra.errors import ConfigurationError
from infra.sensitive import Sensitive, revealed
from infra.stack import backup_settings
from infra.stack.deployment import LOOPBACK, SERVICE_MODEL, Model
from infra.stack.references import is_reference, resolve
from infra.targets.docker import settings as container_settings
from infra.targets.docker.names import MODEL_PORT, Names
from infra.targets.docker.settings import ContainerSettings, parse_containers

ModelChoice = Literal["fake", "smollm2", "none"]

DEFAULTS: Mapping[str, Any] = {
    "target": "local",  # a stack that is called `docker` is of that target by default
    "release": "0.16.8",
    "server.port": 8283,
    "model_port": 8284,
    "database.port": 8285,
    "smollm2_port": 8286,
}
PORTS = ("server.port", "model_port", "database.port", "smollm2_port")
PROVIDERS: Mapping[str, tuple[str, str]] = {
    # key -> (environment variable of the Letta server, does it hold a secret)
    "providers.openai.api_key": ("OPENAI_API_KEY", "secret"),
    "providers.openai.base_url": ("OPENAI_BASE_URL", "plain"),
    "providers.anthropic.api_key": ("ANTHROPIC_API_KEY", "secret"),
    "providers.ollama.base_url": ("OLLAMA_BASE_URL", "plain"),
    "providers.vllm.base_url": ("VLLM_API_BASE", "plain"),
}
OPENAI_URL = "https://api.openai.com/v1"
ENVIRONMENT = "server.environment."
KNOWN = (
    *DEFAULTS,
    "model",
    *PROVIDERS,
    *container_settings.DEFAULTS,
    *backup_settings.DEFAULTS,
)
# More than one worker would each start without what `embedded/launch.py` prepares.
RESERVED = (
    "LETTA_PG_", "LETTA_SERVER_", "LETTA_ENCRYPTION_KEY", "LETTA_DISABLE_SQLALCHEMY",
    "LETTA_UVICORN_", "LETTA_DIR", "MEMGPT_CONFIG_PATH", "HOME",
)  # fmt: skip
TARGETS = ("local", "docker")

FAKE_MODEL = Model("openai-proxy/fake", "openai/text-embedding-3-small")


@dataclass(frozen=True)
class Settings:
    """What the stack is to be. `environment` goes to the server's process, secrets among it."""

    stack: str
    target: str
    release: str
    server_port: int
    database_port: int
    model_port: int
    smollm2_port: int
    model: ModelChoice
    environment: Mapping[str, str | Sensitive] = field(default_factory=dict)
    containers: ContainerSettings | None = None  # of the docker target
    backups: Mapping[str, str | Sensitive] = field(default_factory=dict)  # as given, by key

    @property
    def docker(self) -> ContainerSettings:
        """The docker target's part, for whoever is about that target."""
        assert self.containers is not None, f"stack '{self.stack}' is of target {self.target}"  # noqa: S101
        return self.containers

    @property
    def server_url(self) -> str:
        if self.containers is None:
            return f"http://{LOOPBACK}:{self.server_port}"
        scheme = "https" if self.containers.tls.on else "http"
        return f"{scheme}://{self.containers.host}:{self.server_port}"

    @property
    def model_url(self) -> str:
        if self.containers is None:
            return f"http://{LOOPBACK}:{self.model_port}/v1"
        return f"http://{self.containers.names.container(SERVICE_MODEL)}:{MODEL_PORT}/v1"

    @property
    def provider_urls(self) -> Mapping[str, str | Sensitive]:
        """Where each provider with a URL is, by the name that Letta gives it."""
        openai = self.environment.get("OPENAI_BASE_URL", OPENAI_URL)
        found = {
            "openai": openai if self.model == "none" else self.model_url,
            "ollama": self.environment.get("OLLAMA_BASE_URL"),
            "vllm": self.environment.get("VLLM_API_BASE"),
        }
        return {name: _as_letta(name, url) for name, url in found.items() if url}

    @property
    def ports(self) -> Mapping[str, int]:
        """The ports of this machine that the stack listens on, by their key in the configuration."""
        if self.containers is not None:
            return {"server.port": self.server_port}
        ports = {"server.port": self.server_port, "database.port": self.database_port}
        if self.model != "none":
            ports["model_port"] = self.model_port
        if self.model == "smollm2":
            ports["smollm2_port"] = self.smollm2_port
        return ports


def parse(
    stack: str,
    values: Mapping[str, Any],
    secret_keys: frozenset[str] = frozenset(),
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Turn flat configuration (`{"server.port": "8283"}`) into Settings.

    `secret_keys` are those that Pulumi keeps encrypted; `environment` is where `env:` looks.
    Raises ConfigurationError with every problem, each with its key path.
    """
    problems = list(_unknown(values))
    chosen = {**DEFAULTS, "target": stack if stack in TARGETS else "local", **values}
    least = 1 if chosen["target"] == "docker" else 1024  # the engine may publish any port
    ports = {name: _port(name, chosen[name], problems, least) for name in PORTS}
    problems += _collisions(ports)
    if chosen["release"] not in RELEASES:
        known = ", ".join(RELEASES)
        problems.append(f"release: {chosen['release']!r} is unknown; this letta-ops knows {known}")
    if chosen["target"] not in TARGETS:
        known = ", ".join(TARGETS)
        problems.append(f"target: {chosen['target']!r} is unknown; this letta-ops knows {known}")
    server = dict(_environment(values, secret_keys, environment, problems))
    model = _model(values, problems)
    backups = dict(_backups(values, secret_keys, problems))
    containers = None
    if chosen["target"] == "docker":
        containers = parse_containers(stack, values, secret_keys, environment, problems)
        problems += _not_on_docker(values)
    else:
        problems += _only_on_docker(values)
    if problems:
        raise ConfigurationError(
            f"configuration of stack '{stack}'",
            problems,
            f"correct it with `letta-ops --stack {stack} up --config KEY=VALUE`, or in"
            f" infra/stacks/Pulumi.{stack}.yaml; docs/configuration.md lists every key",
        )
    return Settings(
        stack=stack,
        target=chosen["target"],
        release=chosen["release"],
        server_port=ports["server.port"],
        database_port=ports["database.port"],
        model_port=ports["model_port"],
        smollm2_port=ports["smollm2_port"],
        model=model,
        environment=server,
        containers=containers,
        backups=backups,
    )


def container_names(stack: str, values: Mapping[str, Any]) -> Names | None:
    """What a stack's containers are called, however wrong the rest of `values` is; None: it has none."""
    target = values.get("target", stack if stack in TARGETS else "local")
    return (
        Names(str(values.get("containers.prefix") or f"letta-{stack}"))
        if target == "docker"
        else None
    )


def _only_on_docker(values: Mapping[str, Any]) -> Iterator[str]:
    for name in values:
        if name in container_settings.DEFAULTS:
            yield f"{name}: is for the target docker only"


def _not_on_docker(values: Mapping[str, Any]) -> Iterator[str]:
    for name in ("model_port", "database.port", "smollm2_port"):
        if name in values:
            yield f"{name}: nothing but the server is published on the target docker"
    if values.get("model") == "smollm2":
        yield "model: smollm2 is for the target local only; configure a provider"


def _as_letta(name: str, url: str | Sensitive) -> str | Sensitive:
    """A provider's URL as Letta keeps it: for vLLM, it adds the path itself."""
    text = str(revealed(url)).rstrip("/")
    if name == "vllm" and not text.endswith("/v1"):
        text += "/v1"
    return Sensitive(text) if isinstance(url, Sensitive) else text


def _unknown(values: Mapping[str, Any]) -> Iterator[str]:
    for name in values:
        if name not in KNOWN and not name.startswith(ENVIRONMENT):
            near = difflib.get_close_matches(name, KNOWN, 1)
            yield f"{name}: unknown key" + (f", did you mean {near[0]}?" if near else "")


def _port(name: str, value: Any, problems: list[str], least: int) -> int:
    text = str(value)
    if text.isdecimal() and least <= int(text) < 65536:
        return int(text)
    problems.append(f"{name}: must be a port between {least} and 65535, not {value!r}")
    return 0


def _collisions(ports: Mapping[str, int]) -> Iterator[str]:
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if port and port in seen:
            yield f"{name}: {port} is the port of {seen[port]} already"
        seen[port] = name


def _model(values: Mapping[str, Any], problems: list[str]) -> ModelChoice:
    has_provider = any(name in PROVIDERS for name in values)
    choice = values.get("model", "none" if has_provider else "fake")
    if choice not in ("fake", "smollm2", "none"):
        problems.append(f"model: must be fake, smollm2 or none, not {choice!r}")
    elif choice != "none" and any(name.startswith("providers.openai.") for name in values):
        problems.append(
            f"model: {choice} is served as the OpenAI provider, which providers.openai configures"
            " too; keep one of them"
        )
    return cast(ModelChoice, choice)


def _backups(
    values: Mapping[str, Any], secret_keys: frozenset[str], problems: list[str]
) -> Iterator[tuple[str, str | Sensitive]]:
    """Yield what is configured for backups; references stay what they are."""
    given: dict[str, str] = {}
    for name in backup_settings.DEFAULTS:
        try:
            given[name] = backup_settings.as_text(name, values.get(name, ""))
        except ValueError as error:
            problems.append(f"{name}: {error}")
    problems += backup_settings.problems(given, secrets_hidden=secret_keys)
    for name, text in given.items():
        if text:
            yield name, Sensitive(text) if name in secret_keys else text


def _environment(
    values: Mapping[str, Any],
    secret_keys: frozenset[str],
    environment: Mapping[str, str],
    problems: list[str],
) -> Iterator[tuple[str, str | Sensitive]]:
    """Yield the server's environment variables; provider keys are secrets, the rest is as given."""
    for name, raw in values.items():
        variable, kind = PROVIDERS.get(name, (name.removeprefix(ENVIRONMENT), "either"))
        if name not in PROVIDERS and not name.startswith(ENVIRONMENT):
            continue
        if name.startswith(ENVIRONMENT) and variable.startswith(RESERVED):
            problems.append(f"{name}: is set by letta-ops itself")
            continue
        text = str(raw)
        hidden = is_reference(text) or name in secret_keys
        if kind == "secret" and not hidden:
            problems.append(
                f"{name}: is in plain text; use a reference (env:NAME, file:PATH, cmd:COMMAND) or"
                f" `pulumi config set --secret`"
            )
            continue
        try:
            value = resolve(text, environment)
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        yield variable, Sensitive(value) if hidden and kind != "plain" else value
