"""Stack configuration -> Settings: what a person wants provisioned, every problem named at once."""

from __future__ import annotations

import datetime as dt
import difflib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from infra.errors import ConfigurationError
from infra.sensitive import Sensitive, revealed
from infra.stack import backup_settings
from infra.stack.deployment import Model
from infra.stack.references import is_reference, resolve
from infra.stack.releases import RELEASES

ModelChoice = Literal["fake", "smollm2", "none"]

DEFAULTS: Mapping[str, Any] = {"release": "0.16.8", "server.port": 8283}
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
COMMON = ("target", *DEFAULTS, "model", *PROVIDERS, *backup_settings.DEFAULTS)
# More than one worker would each start without what `embedded/launch.py` prepares.
RESERVED = (
    "LETTA_PG_", "LETTA_SERVER_", "LETTA_ENCRYPTION_KEY", "LETTA_DISABLE_SQLALCHEMY",
    "LETTA_UVICORN_", "LETTA_DIR", "MEMGPT_CONFIG_PATH", "HOME",
)  # fmt: skip
FAKE_MODEL = Model("openai-proxy/fake", "openai/text-embedding-3-small")


class TargetSettings(Protocol):
    """What a target made of its own part of the configuration."""

    @property
    def server_url(self) -> str:
        """Where clients find the server."""

    @property
    def model_url(self) -> str:
        """Where the server finds the model that comes with the stack."""

    @property
    def ports(self) -> Mapping[str, int]:
        """The ports of this machine that the stack listens on, by their key."""


@dataclass(frozen=True)
class Reader:
    """The configuration of a stack, read key by key; what is wrong goes to `problems`."""

    stack: str
    values: Mapping[str, Any]
    secret_keys: frozenset[str]
    environment: Mapping[str, str]
    problems: list[str]

    def text(self, name: str) -> str:
        return str(self.values[name])

    def number(self, name: str, least: int, most: int) -> int:
        text = self.text(name)
        if text.isdecimal() and least <= int(text) <= most:
            return int(text)
        self.problems.append(f"{name}: must be between {least} and {most}, not {text!r}")
        return least

    def port(self, name: str, least: int) -> int:
        text = self.text(name)
        if text.isdecimal() and least <= int(text) < 65536:
            return int(text)
        self.problems.append(f"{name}: must be a port between {least} and 65535, not {text!r}")
        return 0

    def choice(self, name: str, words: tuple[str, ...]) -> str:
        text = self.text(name).lower()
        if text not in words:
            self.problems.append(f"{name}: must be one of {', '.join(words)}, not {text!r}")
        return text

    def matching(self, name: str, pattern: str) -> str:
        """A text that goes into a command or a settings file: only what can be nothing else."""
        text = self.text(name)
        if text and not re.fullmatch(pattern, text):
            self.problems.append(f"{name}: {text!r} is none")
            return ""
        return text

    def day(self, name: str) -> str:
        text = self.text(name)
        with suppress(ValueError):
            if not text or dt.date.fromisoformat(text).isoformat() == text:
                return text
        self.problems.append(f"{name}: must be a day like 2026-11-27, not {text!r}")
        return ""

    def file(self, name: str) -> Path | None:
        text = self.text(name)
        if not text:
            return None
        path = Path(text).expanduser()
        if not path.is_file() or not os.access(path, os.R_OK):
            self.problems.append(f"{name}: {path} is not a file that can be read")
        return path.absolute()

    def sensitive(self, name: str) -> Sensitive | None:
        text = self.text(name)
        if not text:
            return None
        try:
            return Sensitive(resolve(text, self.environment))
        except ValueError as error:
            self.problems.append(f"{name}: {error}")
            return None


class TargetPart(Protocol):
    """A target's own part of the configuration: its keys with their defaults, and how it is read."""

    @property
    def keys(self) -> Mapping[str, Any]: ...

    @property
    def lowest_port(self) -> int:
        """The lowest of this machine's ports that the server may have."""

    def parse(self, reader: Reader, model: ModelChoice) -> TargetSettings:
        """Read it; what is wrong goes to the reader's `problems`."""


@dataclass(frozen=True)
class Settings:
    """What the stack is to be. `environment` goes to the server's process, secrets among it."""

    stack: str
    target: str
    release: str
    server_port: int
    model: ModelChoice
    own: TargetSettings  # of the target
    environment: Mapping[str, str | Sensitive] = field(default_factory=dict)
    backups: Mapping[str, str | Sensitive] = field(default_factory=dict)  # as given, by key

    @property
    def provider_urls(self) -> Mapping[str, str | Sensitive]:
        """Where each provider with a URL is, by the name that Letta gives it."""
        openai = self.environment.get("OPENAI_BASE_URL", OPENAI_URL)
        found = {
            "openai": openai if self.model == "none" else self.own.model_url,
            "ollama": self.environment.get("OLLAMA_BASE_URL"),
            "vllm": self.environment.get("VLLM_API_BASE"),
        }
        return {name: _as_letta(name, url) for name, url in found.items() if url}


def parse(
    stack: str,
    values: Mapping[str, Any],
    parts: Mapping[str, TargetPart],
    default: str,
    secret_keys: frozenset[str] = frozenset(),
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Turn flat configuration (`{"server.port": "8283"}`) into Settings.

    `parts` are those of all targets by name, `default` names the one of who chose none;
    `secret_keys` are those that Pulumi keeps encrypted; `environment` is where `env:` looks.
    Raises ConfigurationError with every problem, each with its key path.
    """
    target = str(values.get("target", default))
    problems = list(_unknown(values, parts, target))
    part = parts[target if target in parts else default]
    reader = Reader(stack, {**DEFAULTS, **part.keys, **values}, secret_keys, environment, problems)
    port = reader.port("server.port", part.lowest_port)
    if reader.text("release") not in RELEASES:
        known, release = ", ".join(RELEASES), reader.text("release")
        problems.append(f"release: {release!r} is unknown; this letta-ops knows {known}")
    if target not in parts:
        known = ", ".join(parts)
        problems.append(f"target: {target!r} is unknown; this letta-ops knows {known}")
    server = dict(_environment(values, secret_keys, environment, problems))
    model = _model(values, problems)
    backups = dict(_backups(values, secret_keys, problems))
    own = part.parse(reader, model)
    if problems:
        raise ConfigurationError(
            f"configuration of stack '{stack}'",
            problems,
            f"correct it with `letta-ops --stack {stack} up --config KEY=VALUE`, or in"
            f" infra/stacks/Pulumi.{stack}.yaml; docs/configuration.md lists every key",
        )
    return Settings(
        stack=stack,
        target=target,
        release=reader.text("release"),
        server_port=port,
        model=model,
        own=own,
        environment=server,
        backups=backups,
    )


def _unknown(
    values: Mapping[str, Any], parts: Mapping[str, TargetPart], target: str
) -> Iterator[str]:
    owners = {key: name for name, part in parts.items() for key in part.keys}
    own = parts[target].keys if target in parts else owners
    known = [*COMMON, *owners]
    for name in values:
        if name in COMMON or name in own or name.startswith(ENVIRONMENT):
            continue
        if name in owners:
            yield f"{name}: is for the target {owners[name]} only"
            continue
        near = difflib.get_close_matches(name, known, 1)
        yield f"{name}: unknown key" + (f", did you mean {near[0]}?" if near else "")


def _as_letta(name: str, url: str | Sensitive) -> str | Sensitive:
    """A provider's URL as Letta keeps it: for vLLM, it adds the path itself."""
    text = str(revealed(url)).rstrip("/")
    if name == "vllm" and not text.endswith("/v1"):
        text += "/v1"
    return Sensitive(text) if isinstance(url, Sensitive) else text


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
