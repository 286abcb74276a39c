"""The profile: profile file + environment -> Deployment, every problem at once with its key path."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import ConfigurationError, LettaOpsError
from infra.files import write_private
from infra.sensitive import Sensitive
from infra.stack import backup_settings
from infra.stack.backup_settings import BackupSettings
from infra.stack.database_url import url_problems
from infra.stack.deployment import (
    DATABASE_NAME,
    EXTERNAL,
    OWNER_ROLE,
    READER_ROLE,
    Database,
    Deployment,
    Model,
    Role,
    Server,
    database_from_url,
)
from infra.stack.locations import StackFolder
from infra.stack.references import is_reference, resolve

FORMAT = 1
ENCRYPTION_KEY = "server.encryption_key"
# Left by a restore: the fingerprint of the key that came with the backup, and the key before it,
# which the replaced database needs for as long as it is kept.
ADOPTED_KEY = "server.encryption_key_adopted"
PREVIOUS_KEY = "server.encryption_key_previous"
PREVIOUS_OF = "server.encryption_key_previous_of"  # the number (oid) of the database it belongs to
PLACEMENT = "placement."  # keys below it are a target's own


@dataclass(frozen=True)
class Key:
    """One key of the profile: its path (`server.url`), its type, and whether it is a secret.

    `of_target`: only the target of the stack reads it.

    `late`: its reference is followed when the value is used, and not when the profile is read.
    """

    path: str
    kind: type = str
    secret: bool = False
    late: bool = False
    of_target: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that overrides the key."""
        return "LETTA_OPS_" + self.path.replace(".", "_").upper()

    @property
    def may_be_overridden(self) -> bool:
        """LETTA_OPS_VERSION may be anything."""
        return "." in self.path or self.is_of_backups

    @property
    def is_of_backups(self) -> bool:
        return self.path in backup_settings.DEFAULTS


KEYS = (
    Key("version", int),
    Key("id"),
    Key("target"),
    Key("release"),
    Key("server.url"),
    Key("server.authority"),
    Key("server.password", secret=True),
    Key("server.encryption_key", secret=True),
    Key(ADOPTED_KEY),
    Key(PREVIOUS_KEY, secret=True),
    Key(PREVIOUS_OF, int),
    Key("database.url", secret=True),
    Key("database.host"),
    Key("database.port", int),
    Key("database.name"),
    Key("database.tls"),
    Key("database.container", of_target=True),
    Key("database.identifier"),
    Key("database.claimed"),
    Key("database.owner"),
    Key("database.owner_password", secret=True),
    Key("database.reader"),
    Key("database.reader_password", secret=True),
    Key("model.handle"),
    Key("model.embedding"),
    Key("containers.prefix", of_target=True),
    *(
        Key(path, secret=path in backup_settings.SECRET, late=path in backup_settings.SECRET)
        for path in backup_settings.DEFAULTS
    ),
)
SECRET_PATHS = {
    "server-password": "server.password",
    "encryption-key": "server.encryption_key",
    "database-owner-password": "database.owner_password",
    "database-reader-password": "database.reader_password",
}
HINT = "correct the keys named above; docs/profile.md lists them all"


def load(
    folder: StackFolder,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    is_target: Callable[[str], bool] | None = None,
) -> Deployment:
    """Read the profile of a stack (or `file`) and lay the environment's overrides over it.

    `is_target` says whether there is a target of a name; without it, nobody looks.

    Raises LettaOpsError (`profile-missing`) when there is neither a file nor LETTA_OPS_SERVER_URL,
    and ConfigurationError with every problem otherwise.
    """
    path = file or folder.profile
    overrides = {
        key.path: environment[key.variable]
        for key in KEYS
        if key.may_be_overridden and environment.get(key.variable)
    }
    if not path.is_file() and (file or "server.url" not in overrides):
        raise LettaOpsError(
            "profile-missing",
            f"there is no profile for stack '{folder.stack}' at {path}",
            "provision the stack with `letta-ops up`, or write a profile for a server of your own"
            " (docs/profile.md) and name it with --profile, or set LETTA_OPS_SERVER_URL",
        )
    values = dict(_read(path)) if path.is_file() else {}
    found = path if path.is_file() else None
    return parse(values | overrides, str(path), folder, found, is_target)


def parse(
    values: Mapping[str, Any],
    source: str,
    folder: StackFolder,
    path: Path | None = None,
    is_target: Callable[[str], bool] | None = None,
) -> Deployment:
    """Turn flat values (`{"server.url": ...}`) into a Deployment, or raise ConfigurationError."""
    problems: list[str] = []
    known = {key.path: key for key in KEYS}
    problems += [
        f"{name}: unknown key"
        for name in values
        if name not in known and not name.startswith(PLACEMENT)
    ]
    clean: dict[str, Any] = {}
    for name, key in known.items():
        if name in values:
            try:
                clean[name] = _convert(key, values[name])
            except ValueError as error:
                problems.append(f"{name}: {error}")
    problems += _contradictions(clean, values)
    target = clean.get("target", EXTERNAL)
    if is_target is not None and not is_target(target):
        problems.append(f"target: {target!r} is unknown to this letta-ops")
    problems += backup_settings.problems(clean, secrets_hidden=None)
    if problems:
        raise ConfigurationError(source, problems, HINT)
    placement = {name: str(each) for name, each in values.items() if name.startswith(PLACEMENT)}
    return _deployment(clean, placement, folder, path)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `("server.url", value)` for every leaf of nested tables."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn flat values into tables again."""
    tree: dict[str, Any] = {}
    for name, value in sorted(values.items(), key=lambda item: (item[0].count("."), item[0])):
        *tables, leaf = name.split(".")
        table = tree
        for step in tables:
            table = table.setdefault(step, {})
        table[leaf] = value
    return tree


def remember(path: Path, values: Mapping[str, Any]) -> None:
    """Merge flat `values` into the profile at `path`: whole or not at all, mode 0600.

    A value of None removes its key.
    """
    import tomli_w

    merged = (dict(_read(path)) if path.is_file() else {"version": FORMAT}) | dict(values)
    tree = nested({name: value for name, value in merged.items() if value is not None})
    header = (
        "# Written by letta-ops; holds secrets. Keep a copy: without it backups lose secrets.\n"
    )
    write_private(path, header + tomli_w.dumps(tree))


def remembered(path: Path, name: str) -> Any | None:
    """Return what the profile at `path` holds under `name`, or None."""
    return dict(_read(path)).get(name) if path.is_file() else None


def plain_values(path: Path) -> dict[str, Any]:
    """What the profile at `path` holds in flat keys, without what is secret."""
    hidden = {key.path for key in KEYS if key.secret}
    return {name: value for name, value in _read(path) if name not in hidden}


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        tree = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LettaOpsError(
            "profile-unreadable", f"{path}: {reason}", "correct the file, or restore a copy of it"
        ) from None
    values = dict(flatten(tree))
    exposed = path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    inline = any(
        key.secret and key.path in values and not is_reference(str(values[key.path]))
        for key in KEYS
    )
    if exposed and inline:
        raise LettaOpsError(
            "profile-exposed",
            f"{path} holds secrets and can be read by others",
            f"chmod 600 {path}, and rotate the secrets if others use this machine",
        )
    yield from values.items()


def _convert(key: Key, value: Any) -> Any:
    if key.is_of_backups:
        value = backup_settings.as_text(key.path, value)
    is_url = key.path == "store.url" and str(value).startswith("file://")
    if isinstance(value, str) and not key.late and not is_url:
        value = resolve(value)
    if key.secret:
        if not isinstance(value, str) or not value:
            raise ValueError("must be a text that is not empty, or a reference")
        return Sensitive(value)
    if key.kind is int and isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, key.kind) or isinstance(value, bool):
        wanted = "a whole number" if key.kind is int else "a text"
        raise ValueError(f"must be {wanted}, not {value!r}")  # noqa: TRY004  # one kind of problem
    return value


def _contradictions(clean: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    if clean.get("version", FORMAT) != FORMAT:
        yield f"version: is {clean['version']}, this letta-ops knows {FORMAT}: update it"
    if "server.url" not in values:
        yield "server.url: is missing"
    url = clean.get("server.url")
    if url is not None and not url.startswith(("http://", "https://")):
        yield f"server.url: must begin with http:// or https://, not {url!r}"
    if "database.url" in values and "database.host" in values:
        yield "database.url: is there, and database.host too; keep one of them"
    elif "database.url" in values:
        if "database.url" in clean:
            yield from (f"database.url: {words}" for words in url_problems(clean["database.url"]))
    elif any(name.startswith("database.") for name in values) and "database.host" not in values:
        yield "database.host: is missing, but other database keys are there"
    port = clean.get("database.port", 5432)
    if not 0 < port < 65536:
        yield f"database.port: must be between 1 and 65535, not {port}"


def _deployment(
    clean: Mapping[str, Any], placement: Mapping[str, str], folder: StackFolder, path: Path | None
) -> Deployment:
    target = clean.get("target", EXTERNAL)
    own = {key.path: clean[key.path] for key in KEYS if key.of_target and key.path in clean}
    return Deployment(
        stack=folder.stack,
        target=target,
        id=clean.get("id"),
        release=clean.get("release"),
        server=Server(
            clean["server.url"].rstrip("/"),
            clean.get("server.password"),
            clean.get("server.encryption_key"),
            Path(authority) if (authority := clean.get("server.authority")) else None,
        ),
        database=_database(clean),
        model=Model(clean.get("model.handle"), clean.get("model.embedding")),
        folder=None if target == EXTERNAL else folder,
        profile=path,
        placement={**own, **placement},
        backups=BackupSettings(
            {key: clean[key] for key in backup_settings.DEFAULTS if key in clean}
        ),
    )


def _database(clean: Mapping[str, Any]) -> Database | None:
    if "database.url" in clean:
        return database_from_url(clean["database.url"])
    if "database.host" not in clean:
        return None
    owner = Role(clean.get("database.owner", OWNER_ROLE), clean.get("database.owner_password"))
    reader = Role(clean.get("database.reader", READER_ROLE), clean.get("database.reader_password"))
    if "database.reader" not in clean and "database.reader_password" not in clean:
        reader = owner  # a server of the user's own may have only one role
    return Database(
        host=clean["database.host"],
        port=clean.get("database.port", 5432),
        name=clean.get("database.name", DATABASE_NAME),
        owner=owner,
        reader=reader,
        tls=clean.get("database.tls", "prefer"),
    )
