"""The profile: profile file + environment -> Deployment, every problem at once with its key path."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.errors import ConfigurationError, LettaOpsError
from infra.files import write_private
from infra.sensitive import Sensitive
from infra.stack.backup_settings import BackupSettings
from infra.stack.deployment import (
    EXTERNAL,
    Database,
    Deployment,
    Model,
    Role,
    Server,
    database_from_url,
)
from infra.stack.keys import Reading, given, is_known, is_secret, keys_of, read, unknown_key
from infra.stack.locations import StackFolder
from infra.stack.profile_keys import FORMAT, DatabaseSection, Profile, ServerSection
from infra.stack.references import is_reference

ENCRYPTION_KEY = "server.encryption_key"
# Left by a restore: the fingerprint of the key that came with the backup, and the key before it,
# which the replaced database needs for as long as it is kept.
ADOPTED_KEY = "server.encryption_key_adopted"
PREVIOUS_KEY = "server.encryption_key_previous"
PREVIOUS_OF = "server.encryption_key_previous_of"  # the number (oid) of the database it belongs to
NEXT_KEY = "server.encryption_key_next"  # of a rotation that has not ended
RETIRED_KEYS = "server.encryption_keys_retired"  # of before rotations: backups of then need them
SIGNING_KEY = "signing.key"
OF_TARGET = ("database.container", "containers.prefix")  # as are those of the table `placement`
OF_BACKUPS = tuple(keys_of(BackupSettings))
BACKUP_TABLES = tuple(BackupSettings.model_fields)
SECRETS = tuple(name for name, about in keys_of(Profile).items() if is_secret(about))
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
        name: environment[variable(name)]
        for name in keys_of(Profile)
        # LETTA_OPS_VERSION may be anything.
        if ("." in name or name in OF_BACKUPS) and environment.get(variable(name))
    }
    if not path.is_file() and (file or "server.url" not in overrides):
        if file is not None:
            raise LettaOpsError(
                "profile-missing",
                f"there is no profile {file}",
                "name a file that is there, or write it (docs/profile.md)",
            )
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
    reading, known = Reading(is_profile=True), keys_of(Profile)
    reading.problems.extend(
        unknown_key(name, known) for name in values if not is_known(name, known)
    )
    profile = read(Profile, values, reading)
    if is_target is not None and not is_target(profile.target):
        reading.problems.append(f"target: {profile.target!r} is unknown to this letta-ops")
    if reading.problems:
        raise ConfigurationError(source, reading.problems, HINT)
    return _deployment(profile, folder, path)


def variable(name: str) -> str:
    """The environment variable that overrides a key."""
    return "LETTA_OPS_" + name.replace(".", "_").upper()


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
    return {name: value for name, value in _read(path) if name not in SECRETS}


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
    inline = any(name in values and not is_reference(str(values[name])) for name in SECRETS)
    if exposed and inline:
        raise LettaOpsError(
            "profile-exposed",
            f"{path} holds secrets and can be read by others",
            f"chmod 600 {path}, and rotate the secrets if others use this machine",
        )
    yield from values.items()


def _deployment(profile: Profile, folder: StackFolder, path: Path | None) -> Deployment:
    own = {name: value for name, value in given(profile).items() if name in OF_TARGET}
    placement = {f"placement.{name}": str(value) for name, value in profile.placement.items()}
    server = profile.server
    return Deployment(
        stack=folder.stack,
        target=profile.target,
        id=profile.id,
        release=profile.release,
        server=Server(
            str(server.url),
            server.password,
            server.encryption_key,
            Path(server.authority) if server.authority else None,
            tuple(_other_keys(server)),
        ),
        database=_database(profile.database),
        model=Model(profile.model.handle, profile.model.embedding),
        signing_key=profile.signing.key,
        registry=profile.registry.url,
        folder=None if profile.target == EXTERNAL else folder,
        profile=path,
        placement={**own, **placement},
        backups=BackupSettings.model_construct(
            profile.model_fields_set, **{name: getattr(profile, name) for name in BACKUP_TABLES}
        ),
    )


def _other_keys(server: ServerSection) -> Iterator[Sensitive]:
    for each in (server.encryption_key_next, server.encryption_key_previous):
        if each is not None:
            yield each
    if server.encryption_keys_retired is not None:
        yield from map(Sensitive, server.encryption_keys_retired.reveal().split())


def _database(keys: DatabaseSection) -> Database | None:
    if keys.url is not None:
        return database_from_url(keys.url)
    if keys.host is None:
        return None
    owner = Role(keys.owner, keys.owner_password)
    # A server of the user's own may have only one role.
    two = keys.model_fields_set & {"reader", "reader_password"}
    return Database(
        host=keys.host,
        port=keys.port,
        name=keys.name,
        owner=owner,
        reader=Role(keys.reader, keys.reader_password) if two else owner,
        tls=keys.tls,
    )
