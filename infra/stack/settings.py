"""Stack configuration -> Settings: what a person wants provisioned, every problem named at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from infra.errors import ConfigurationError
from infra.sensitive import Sensitive, revealed
from infra.stack.backup_settings import BackupSettings
from infra.stack.deployment import Model
from infra.stack.keys import (
    By,
    Followed,
    OneOf,
    Reading,
    Secret,
    Section,
    YesNo,
    as_text,
    given,
    is_known,
    keys_of,
    port_from,
    read,
    setting,
    unknown_key,
)
from infra.stack.references import is_reference, resolve
from infra.stack.releases import NEWEST, RELEASES
from infra.stack.server_environment import MCP_STDIO_OFF

ModelChoice = Literal["fake", "smollm2", "none"]

# key -> the environment variable of the Letta server
PROVIDERS: Mapping[str, str] = {
    "providers.openai.api_key": "OPENAI_API_KEY",
    "providers.openai.base_url": "OPENAI_BASE_URL",
    "providers.anthropic.api_key": "ANTHROPIC_API_KEY",
    "providers.ollama.base_url": "OLLAMA_BASE_URL",
    "providers.vllm.base_url": "VLLM_API_BASE",
}
OPENAI_URL = "https://api.openai.com/v1"
# More than one worker would each start without what `embedded/launch.py` prepares.
RESERVED = (
    "LETTA_PG_", "LETTA_SERVER_", "LETTA_ENCRYPTION_KEY", "LETTA_DISABLE_SQLALCHEMY",
    "LETTA_UVICORN_", "LETTA_DIR", "MEMGPT_CONFIG_PATH", "HOME", "TOOL_EXEC_", MCP_STDIO_OFF,
)  # fmt: skip
FAKE_MODEL = Model("openai-proxy/fake", "openai/text-embedding-3-small")

ApiKey = Annotated[Sensitive | None, Secret()]
BaseUrl = Annotated[str | None, Followed()]


class OpenAiSection(Section):
    table: ClassVar[str] = "providers.openai."

    api_key: ApiKey = setting(None, "OPENAI_API_KEY of the server")
    base_url: BaseUrl = setting(None, "OPENAI_BASE_URL of the server")


class AnthropicSection(Section):
    table: ClassVar[str] = "providers.anthropic."

    api_key: ApiKey = setting(None, "ANTHROPIC_API_KEY of the server")


class OllamaSection(Section):
    table: ClassVar[str] = "providers.ollama."

    base_url: BaseUrl = setting(None, "OLLAMA_BASE_URL of the server")


class VllmSection(Section):
    table: ClassVar[str] = "providers.vllm."

    base_url: BaseUrl = setting(None, "VLLM_API_BASE of the server")


class ProviderSection(Section):
    table: ClassVar[str] = "providers."

    openai: OpenAiSection = setting(OpenAiSection(), "OpenAI, or what speaks as it does")
    anthropic: AnthropicSection = setting(AnthropicSection(), "Anthropic")
    ollama: OllamaSection = setting(OllamaSection(), "Ollama")
    vllm: VllmSection = setting(VllmSection(), "vLLM")


class ServerSection(Section):
    table: ClassVar[str] = "server."

    port: Annotated[int, port_from(1)] = setting(8283, "where clients find the server")
    mcp_stdio: YesNo = setting(
        False, "MCP servers may be programs that the server starts, for whoever has its password"
    )
    environment: dict[str, Any] = setting(  # texts, and secrets
        {}, "variables for the server's environment; what comes by reference is a secret"
    )

    @field_validator("environment", mode="before")
    @classmethod
    def _read_environment(cls, value: Any, info: ValidationInfo) -> dict[str, str | Sensitive]:
        """Read each on its own, so that one is told of, and the others taken."""
        if not isinstance(info.context, Reading):
            return dict(value)
        found: dict[str, str | Sensitive] = {}
        for variable, raw in value.items():
            name = f"{cls.table}environment.{variable}"
            if variable.startswith(RESERVED):
                info.context.problems.append(f"{name}: is set by letta-ops itself")
                continue
            try:
                text = as_text(raw)
                hidden = is_reference(text) or name in info.context.encrypted
                text = resolve(text, info.context.environment)
                found[variable] = Sensitive(text) if hidden else text
            except ValueError as error:
                info.context.problems.append(f"{name}: {error}")
        return found


def _release(text: str) -> str:
    if text not in RELEASES:
        raise ValueError(f"{text!r} is unknown; this letta-ops knows {', '.join(RELEASES)}")
    return text


def _model(known: Mapping[str, Any]) -> ModelChoice:
    return "none" if given(known.get("providers", ProviderSection())) else "fake"


class Settings(BackupSettings):
    """What a stack is to be. Each target has its own, with more keys."""

    providers: ProviderSection = setting(ProviderSection(), "where models are")
    server: ServerSection = setting(ServerSection(), "the Letta server")
    target: str = setting("", "where the stack runs")
    release: Annotated[str, By(_release, {"enum": list(RELEASES)})] = setting(
        NEWEST, "the release of Letta"
    )
    model: Annotated[ModelChoice, OneOf()] = Field(
        default_factory=_model,
        description="the model that comes with the stack; none where a provider is configured",
    )
    stack: str = Field("", exclude=True)
    # As they are written, by key.
    backups: Mapping[str, str | Sensitive] = Field({}, exclude=True)
    references: Mapping[str, str] = Field({}, exclude=True)

    def contradictions(self) -> Iterator[str]:
        scheduled = self.backup.schedule or self.drill.schedule
        for name, secret in self.secrets.items():
            needed = self.drill.schedule if name == "backup.identity" else scheduled
            if needed and secret.reveal().startswith("env:"):
                yield (
                    f"{name}: is in a variable of your shell, which the service that runs the"
                    " schedule doesn't have; use file:PATH or cmd:COMMAND"
                )
        for name in given(self.providers):
            if PROVIDERS[name] in self.server.environment:
                variable = f"server.environment.{PROVIDERS[name]}"
                yield f"{variable}: is what {name} sets; keep one of them"
        if self.model != "none" and given(self.providers.openai):
            yield (
                f"model: {self.model} is served as the OpenAI provider, which providers.openai"
                " configures too; keep one of them"
            )

    @property
    def server_url(self) -> str:
        """Where clients find the server."""
        raise NotImplementedError

    @property
    def model_url(self) -> str:
        """Where the server finds the model that comes with the stack."""
        raise NotImplementedError

    @property
    def ports(self) -> Mapping[str, int]:
        """The ports of this machine that the stack listens on, by their key."""
        raise NotImplementedError

    @property
    def environment(self) -> dict[str, str | Sensitive]:
        """What goes to the server's process, secrets among it."""
        named = {PROVIDERS[name]: value for name, value in given(self.providers).items()}
        if self.server.mcp_stdio:
            named[MCP_STDIO_OFF] = "false"
        return {**named, **self.server.environment}

    @property
    def provider_urls(self) -> dict[str, str | Sensitive]:
        """Where each provider with a URL is, by the name that Letta gives it."""
        openai = self.environment.get("OPENAI_BASE_URL", OPENAI_URL)
        found = {
            "openai": openai if self.model == "none" else self.model_url,
            "ollama": self.environment.get("OLLAMA_BASE_URL"),
            "vllm": self.environment.get("VLLM_API_BASE"),
        }
        return {name: _as_letta(name, url) for name, url in found.items() if url}


def parse(
    stack: str,
    values: Mapping[str, Any],
    kinds: Mapping[str, type[Settings]],
    default: str,
    encrypted: frozenset[str] = frozenset(),
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Turn flat configuration (`{"server.port": "8283"}`) into Settings.

    `kinds` are those of all targets by name, `default` names the one of who chose none; `encrypted`
    are the keys that Pulumi keeps so; `environment` is where `env:` looks.
    Raises ConfigurationError with every problem, each with its key path.
    """
    target = str(values.get("target", default))
    reading = Reading(environment, encrypted)
    reading.problems.extend(_unknown(values, kinds, target))
    if target not in kinds:
        reading.problems.append(
            f"target: {target!r} is unknown; this letta-ops knows {', '.join(kinds)}"
        )
    settings = read(
        kinds[target if target in kinds else default],
        {**values, "target": target},
        reading,
        stack=stack,
        backups=_as_given(values, encrypted),
        references={name: text for name, text in values.items() if is_reference(str(text))},
    )
    if reading.problems:
        raise ConfigurationError(
            f"configuration of stack '{stack}'",
            reading.problems,
            f"correct it with `letta-ops --stack {stack} up --config KEY=VALUE`, or in"
            f" infra/stacks/Pulumi.{stack}.yaml; docs/configuration.md lists every key",
        )
    return settings


GONE = {"redis": "every stack has one now; take the key out"}


def _unknown(
    values: Mapping[str, Any], kinds: Mapping[str, type[Settings]], target: str
) -> Iterator[str]:
    owners = {name: owner for owner, kind in kinds.items() for name in keys_of(kind)}
    own = keys_of(kinds[target]) if target in kinds else owners
    for name in values:
        if is_known(name, own):
            continue
        if is_known(name, owners):
            yield f"{name}: is for the target {owners[name]} only"
        else:
            yield f"{name}: {GONE[name]}" if name in GONE else unknown_key(name, owners)


def _as_given(values: Mapping[str, Any], encrypted: frozenset[str]) -> dict[str, str | Sensitive]:
    """What is configured for backups; references stay what they are."""
    found: dict[str, str | Sensitive] = {}
    for name in keys_of(BackupSettings):
        value = values.get(name, "")
        if value != "" and isinstance(value, str | bool | int | float):
            text = as_text(value)
            found[name] = Sensitive(text) if name in encrypted else text
    return found


def _as_letta(name: str, url: str | Sensitive) -> str | Sensitive:
    """A provider's URL as Letta keeps it: for vLLM, it adds the path itself."""
    text = str(revealed(url)).rstrip("/")
    if name == "vllm" and not text.endswith("/v1"):
        text += "/v1"
    return Sensitive(text) if isinstance(url, Sensitive) else text
