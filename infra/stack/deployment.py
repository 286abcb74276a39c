"""The frozen description of one deployment: it answers every question about names, URLs and paths."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from infra.errors import ConfigurationError, LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.backup_settings import BackupSettings, StoreSettings
from infra.stack.locations import StackFolder, default_store_url

EXTERNAL = "external"  # the target of a server that letta-ops did not provision

LOOPBACK = "127.0.0.1"
THIS_MACHINE = (LOOPBACK, "localhost", "::1")  # what people call it in a URL
DATABASE_NAME = "letta"
OWNER_ROLE = "letta"
READER_ROLE = "letta_reader"
ADMIN_ROLE = "postgres"

SERVICE_POSTGRES = "postgres"
SERVICE_MODEL = "model"
SERVICE_SMOLLM2 = "smollm2"
SERVICE_SERVER = "letta"
SERVICE_STANDBY = "standby"  # a server that takes over for a moment
SERVICE_SCHEDULER = "scheduler"
SERVICE_PROXY = "proxy"
SERVICE_REDIS = "redis"

POSTGRES_PORT = 5432


@dataclass(frozen=True)
class Server:
    """The Letta API: `url` without a path, `password` is its bearer token (None: it has none).

    `authority` is a file with the certificates to trust, where the usual ones don't sign the URL's.
    `other_keys`: encryption keys of before, and one that is about to be.
    """

    url: str
    password: Sensitive | None = None
    encryption_key: Sensitive | None = None
    authority: Path | None = None
    other_keys: tuple[Sensitive, ...] = ()

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)


@dataclass(frozen=True)
class Role:
    """A database role and its password."""

    name: str
    password: Sensitive | None = None


@dataclass(frozen=True)
class Database:
    """The server's Postgres: `owner` owns Letta's tables, `reader` may only read."""

    host: str
    port: int
    name: str
    owner: Role
    reader: Role
    tls: str = "prefer"  # libpq's sslmode
    authority: str | None = None  # libpq's sslrootcert: a file with certificates, or `system`

    def connection(self, role: Role) -> dict[str, str | int]:
        """Keyword arguments for libpq, password included: hand them to `infra.database` only."""
        settings: dict[str, str | int] = {
            "host": self.host,
            "port": self.port,
            "dbname": self.name,
            "user": role.name,
            "sslmode": self.tls,
        }
        if self.authority is not None:
            settings["sslrootcert"] = _certificates(self.authority)
        if role.password is not None:
            settings["password"] = role.password.reveal()
        return settings


@dataclass(frozen=True)
class Model:
    """The handles with which an agent can be created when nobody names another."""

    handle: str | None = None
    embedding: str | None = None


@dataclass(frozen=True)
class Deployment:
    """One running stack. `folder` and `release` are None where we did not provision it."""

    stack: str
    target: str
    server: Server
    id: str | None = None
    release: str | None = None
    database: Database | None = None
    model: Model = Model()
    folder: StackFolder | None = None
    profile: Path | None = None
    placement: Mapping[str, str] = field(default_factory=dict)  # what only its target reads
    backups: BackupSettings = field(default_factory=BackupSettings)
    signing_key: Sensitive | None = None  # of backups
    registry: Sensitive | None = None  # its URL, where it is not in the database

    @property
    def called(self) -> str:
        """What it is, for people: what only a profile by hand knows has no name of its own."""
        by_hand = self.folder is None and self.profile is not None
        return f"the server of {self.profile}" if by_hand else f"stack '{self.stack}'"

    @property
    def secrets(self) -> tuple[Sensitive, ...]:
        """Every secret we know, for redaction."""
        more = (self.signing_key, self.registry, *self.server.other_keys)
        named = (*self.named_secrets.values(), *more)
        return tuple(value for value in named if value is not None) + self.backups.plain_secrets

    @property
    def named_secrets(self) -> dict[str, Sensitive | None]:
        """The secrets by the names that `letta-ops secret show` takes."""
        owner = self.database.owner.password if self.database else None
        reader = self.database.reader.password if self.database else None
        return {
            "server-password": self.server.password,
            "encryption-key": self.server.encryption_key,
            "database-owner-password": owner,
            "database-reader-password": reader,
        }


def database_from_url(url: Sensitive) -> Database:
    """Read `postgresql://ROLE:PASSWORD@HOST:PORT/NAME?sslmode=...`; its one role is owner and reader.

    Of its parameters, `sslmode` and `sslrootcert` are taken.
    """
    parts = urlsplit(url.reveal())
    query = dict(parse_qsl(parts.query))
    password = Sensitive(unquote(parts.password)) if parts.password else None
    role = Role(unquote(parts.username or OWNER_ROLE), password)
    return Database(
        host=parts.hostname or LOOPBACK,
        port=parts.port or 5432,
        name=unquote(parts.path.strip("/")) or DATABASE_NAME,
        owner=role,
        reader=role,
        tls=query.get("sslmode", "prefer"),
        authority=query.get("sslrootcert"),
    )


def store_settings(deployment: Deployment) -> StoreSettings:
    """Where the deployment's backups are kept, the references to its credentials followed.

    Raises ConfigurationError when one of them leads nowhere, and LettaOpsError (`no-store`).
    """
    try:
        settings = deployment.backups.store_settings(default_store_url(deployment.folder))
    except ValueError as error:
        source = str(deployment.profile or "the environment")
        hint = "correct the reference, or what it names"
        raise ConfigurationError(source, [str(error)], hint) from None
    nowhere = deployment.folder is None and deployment.database is None
    if nowhere and deployment.backups.store.url is None:
        raise LettaOpsError(
            "no-store",
            "the profile names no store for backups, and no database that could be backed up",
            f"set store.url in {deployment.profile or 'LETTA_OPS_STORE_URL'}: file:///folder or"
            " s3://bucket/prefix",
        )
    return settings


def postgres_uri(database: Database, role: Role, query: str = "") -> Sensitive:
    """The URI of `database` for programs that take nothing else; the whole URI is a secret.

    `query` differs by driver: asyncpg takes `ssl=`, pg8000 refuses both `ssl` and `sslmode`.
    """
    password = f":{quote(role.password.reveal(), safe='')}" if role.password else ""
    suffix = f"?{query}" if query else ""
    return Sensitive(
        f"postgresql://{quote(role.name, safe='')}{password}"
        f"@{database.host}:{database.port}/{quote(database.name, safe='')}{suffix}"
    )


def _certificates(authority: str) -> str:
    """A file for libpq: the one that comes with psycopg looks for `system` where it was built."""
    if authority != "system":
        return str(Path(authority).expanduser())
    return ssl.get_default_verify_paths().cafile or authority
