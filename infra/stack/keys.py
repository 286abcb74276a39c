"""Configuration as models: read from flat keys (`server.port`), every problem at once with its key.

What a person wrote raises nothing: the problem goes to the `Reading` and the key has its default, so
that what depends on several keys is judged, too. The words are ours: those of pydantic repeat the
value, which may be a secret.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from infra.sensitive import Sensitive
from infra.stack.references import is_reference, resolve

IN_PLAIN_TEXT = (
    "is in plain text; use a reference (env:NAME, file:PATH, cmd:COMMAND) or"
    " `pulumi config set --secret`"
)


@dataclass(frozen=True)
class Reading:
    """What is known while a configuration is read, and what is found to be wrong with it.

    `encrypted` are the keys that Pulumi keeps so. `is_profile`: a file of mode 0600, where secrets
    may stand as they are, and any text may be a reference.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    encrypted: frozenset[str] = frozenset()
    is_profile: bool = False
    problems: list[str] = field(default_factory=list)


class Section(BaseModel):
    """A table of keys. `table` is what they begin with: its path and a dot."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    table: ClassVar[str] = ""

    @field_validator("*", mode="wrap")
    @classmethod
    def _read_key(cls, value: Any, read: Callable[[Any], Any], info: ValidationInfo) -> Any:
        if not isinstance(info.context, Reading):  # made by us
            return read(value)
        name = str(info.field_name)
        about, key = cls.model_fields[name], f"{cls.table}{name}"
        try:
            return read(_text(key, about, value, info.context))
        except ValueError as error:
            info.context.problems.append(f"{key}: {_reason(error)}")
            return about.get_default(call_default_factory=True, validated_data=info.data)

    @model_validator(mode="after")
    def _judge(self, info: ValidationInfo) -> Self:
        if isinstance(info.context, Reading):
            # A key that is wrong has its default here: what that contradicts is nobody's mistake.
            wrong = {problem.partition(":")[0] for problem in info.context.problems}
            found = self.contradictions()
            info.context.problems.extend(each for each in found if not _names_one(each, wrong))
        return self

    def contradictions(self) -> Iterable[str]:
        """What is wrong with its keys together, each with the key that it is told of."""
        return ()


def _names_one(problem: str, keys: Iterable[str]) -> bool:
    words = re.findall(r"[\w.]+\w", problem)
    return any(key in words for key in keys)


K = TypeVar("K", bound=Section)


def setting(default: Any, about: str, **more: Any) -> Any:
    """One key: its default, and what it says, for editors."""
    return Field(default, description=about, **more)


@dataclass(frozen=True)
class By:
    """A key's text is read by this function, which raises ValueError; its look in JSON Schema."""

    read: Callable[[str], Any]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"}, hash=False)

    def __get_pydantic_core_schema__(self, source: Any, _: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: self.read(value) if isinstance(value, str) else value
        )

    def __get_pydantic_json_schema__(self, *_: Any) -> dict[str, Any]:
        return dict(self.schema)


class OneOf:
    """The words of a Literal, in any case."""

    words: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, _: Any) -> core_schema.CoreSchema:
        self.words = get_args(source)
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, *_: Any) -> dict[str, Any]:
        # YAML writes some of them without quotes.
        spoken = [word == "true" for word in self.words if word in ("true", "false")]
        return {"enum": [*self.words, *spoken]}

    def _read(self, text: str) -> str:
        if text.lower() not in self.words:
            raise ValueError(f"must be one of {', '.join(self.words)}, not {text!r}")
        return text.lower()


@dataclass(frozen=True)
class Secret:
    """The key holds a secret. `plain`: it may stand as it is everywhere (a URL that may hold one).

    `late`: its reference is followed when it is used: what it names may be offline until then.
    """

    late: bool = False
    plain: bool = False

    def __get_pydantic_json_schema__(self, *_: Any) -> dict[str, Any]:
        return {"type": "string", "writeOnly": True}


class Followed:
    """A reference may stand for the key's text in a stack's configuration, too."""


class FolderUrl:
    """file:///... is the URL of a folder here, and no reference to a file."""


def between(least: int, most: int, what: str = "") -> By:
    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ValueError(f"must be {what}between {least} and {most}, not {text!r}")
        return int(text)

    return By(read, {"type": ["integer", "string"], "minimum": least, "maximum": most})


def port_from(least: int) -> By:
    return between(least, 65535, "a port ")


def matching(pattern: str) -> By:
    """A text that goes into a command or a settings file: only what can be nothing else."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is none")
        return text

    return By(read, {"type": "string", "pattern": f"^{pattern}$"})


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"must be true or false, not {text!r}")
    return text.lower() == "true"


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ValueError(f"{path} is not a file that can be read")
    return path.absolute()


YesNo = Annotated[bool, By(_yes_or_no, {"enum": [True, False, "true", "false"]})]
File = Annotated[Path, By(_file)]


def keys_of(model: type[Section]) -> dict[str, FieldInfo]:
    """Every key that a person may set, in the order of the model; one of any name ends with a dot."""
    found: dict[str, FieldInfo] = {}
    for name, about in model.model_fields.items():
        path = f"{model.table}{name}"
        if about.exclude:
            continue
        if isinstance(about.annotation, type) and issubclass(about.annotation, Section):
            found |= keys_of(about.annotation)
        else:
            found[path + "." * (about.annotation == dict[str, Any])] = about
    return found


def is_secret(about: FieldInfo) -> bool:
    return any(isinstance(each, Secret) for each in about.metadata)


def is_known(name: str, known: Iterable[str]) -> bool:
    return _path_of(name, known) is not None


def _path_of(name: str, known: Iterable[str]) -> str | None:
    """Which of the known keys `name` is: itself, or the table whose keys have any name."""
    if name in known and not name.endswith("."):
        return name
    return next((path for path in known if _is_of(name, path)), None)


def _is_of(name: str, path: str) -> bool:
    """Whether a key is one of a table whose keys have any name."""
    return path.endswith(".") and name.startswith(path) and name != path


def unknown_key(name: str, known: Iterable[str]) -> str:
    if name.endswith("."):
        return f"{name}: is not complete, a name is missing"
    near = difflib.get_close_matches(name, list(known), 1)
    return f"{name}: unknown key" + (f", did you mean {near[0]}?" if near else "")


def read(model: type[K], values: Mapping[str, Any], reading: Reading, **ours: Any) -> K:
    """Read the keys that the model knows; an empty text is as good as none.

    `ours` are fields that nobody may set but us.
    """
    known = keys_of(model)
    tree: dict[str, Any] = {**ours}
    for name, value in values.items():
        path = _path_of(name, known)
        if path is None:
            continue
        # Of a variable of any name, an empty text is a value.
        secret = reading.is_profile and is_secret(known[path])
        if value == "" and path == name and not secret:
            continue
        *tables, leaf = path.rstrip(".").removeprefix(model.table).split(".")
        table = tree
        for step in tables:
            table = table.setdefault(step, {})
        if path == name:
            table[leaf] = value
        else:
            table.setdefault(leaf, {})[name.removeprefix(path)] = value
    return model.model_validate(tree, context=reading)


def given(keys: Section) -> dict[str, Any]:
    """What was set, by key."""
    found: dict[str, Any] = {}
    for name in type(keys).model_fields:
        value = getattr(keys, name)
        if isinstance(value, Section):
            found |= given(value)
        elif name in keys.model_fields_set:
            found[f"{keys.table}{name}"] = value
    return found


def as_text(value: Any) -> str:
    """The text of a value: YAML and TOML know `true` and `60` too. Raises ValueError for a list."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise ValueError(f"must be a text, not a {type(value).__name__}")  # noqa: TRY004
    return str(value)


def _text(key: str, about: FieldInfo, value: Any, reading: Reading) -> Any:
    """What stands for a key, its reference followed: a text, a secret, or a table."""
    if isinstance(value, Mapping):
        return value
    secret = next((each for each in about.metadata if isinstance(each, Secret)), None)
    is_text = secret is not None or about.annotation in (str, str | None)
    if reading.is_profile and is_text and not isinstance(value, str):
        # TOML knows numbers: what was written, 0x10 say, is lost by then.
        raise ValueError(f"must be a text, not a {type(value).__name__}")
    text = as_text(value)
    if secret is None:
        marks = {type(each) for each in about.metadata}
        followed = reading.is_profile or Followed in marks
        if FolderUrl in marks and text.startswith("file://"):
            followed = False
        return resolve(text, reading.environment) if followed else text
    if not text:
        raise ValueError("must be a text that is not empty, or a reference")
    may_be_plain = secret.plain or reading.is_profile or key in reading.encrypted
    if not may_be_plain and not is_reference(text):
        raise ValueError(IN_PLAIN_TEXT)
    return Sensitive(text if secret.late else resolve(text, reading.environment))


def _reason(error: ValueError) -> str:
    """Ours, out of the one that pydantic made of it."""
    if not isinstance(error, ValidationError):
        return str(error)
    (first, *_) = error.errors(include_url=False, include_input=False)
    return str(first.get("ctx", {}).get("error", first["msg"]))
