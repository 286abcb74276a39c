"""Every key of a profile: its type, its default, what it means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from infra.sensitive import Sensitive
from infra.stack.backup_settings import BackupSettings
from infra.stack.database_url import url_problems
from infra.stack.deployment import DATABASE_NAME, EXTERNAL, OWNER_ROLE, READER_ROLE
from infra.stack.keys import By, Secret, Section, between, setting

FORMAT = 1


def _server_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError(f"must begin with http:// or https://, not {text!r}")
    url = text.rstrip("/")
    if url.endswith("/v1"):
        raise ValueError(
            f"must be the server's own address, without /v1: {url.removesuffix('/v1')}"
        )
    return url


def _version(text: str) -> int:
    if text != str(FORMAT):
        raise ValueError(f"is {text}, this letta-ops knows {FORMAT}: update it")
    return FORMAT


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"must be a whole number, not {text!r}")
    return int(text)


Hidden = Annotated[Sensitive | None, Secret()]
Whole = Annotated[int, By(_whole, {"type": "integer"})]


class ServerSection(Section):
    table: ClassVar[str] = "server."

    url: Annotated[str | None, By(_server_url)] = setting(None, "where the Letta server is")
    authority: str | None = setting(None, "a file with the certificates to trust")
    password: Hidden = setting(None, "the server's password")
    encryption_key: Hidden = setting(None, "LETTA_ENCRYPTION_KEY of the server")
    encryption_key_adopted: str | None = setting(None, "left by a restore: the key's fingerprint")
    encryption_key_previous: Hidden = setting(None, "left by a restore: the key before it")
    encryption_key_previous_of: Whole | None = setting(
        None, "left by a restore: the number (oid) of the database that it belongs to"
    )
    encryption_key_next: Hidden = setting(None, "left by a rotation that was interrupted")
    encryption_keys_retired: Hidden = setting(
        None, "left by rotations: the keys before, which older backups need"
    )


class DatabaseSection(Section):
    table: ClassVar[str] = "database."

    url: Hidden = setting(None, "postgresql://..., instead of the keys below")
    host: str | None = setting(None, "the host of Postgres")
    port: Annotated[int, between(1, 65535)] = setting(5432, "its port")
    name: str = setting(DATABASE_NAME, "the database")
    tls: str = setting("prefer", "libpq's sslmode")
    container: str | None = setting(None, "the container of Postgres, for a target that has one")
    identifier: str | None = setting(None, "the system identifier of the cluster we made")
    claimed: str | None = setting(None, "the database that is marked as this deployment's")
    owner: str = setting(OWNER_ROLE, "the role that owns Letta's tables")
    owner_password: Hidden = setting(None, "its password")
    reader: str = setting(READER_ROLE, "the role that may only read")
    reader_password: Hidden = setting(None, "its password")

    def contradictions(self) -> Iterator[str]:
        given = self.model_fields_set
        if {"url", "host"} <= given:
            yield "database.url: is there, and database.host too; keep one of them"
        elif self.url is not None:
            yield from (f"database.url: {problem}" for problem in url_problems(self.url))
        elif given and not given & {"url", "host"}:
            yield "database.host: is missing, but other database keys are there"


class ModelSection(Section):
    table: ClassVar[str] = "model."

    handle: str | None = setting(None, "the model of an agent for which none is named")
    embedding: str | None = setting(None, "its model for embeddings")


class ContainerSection(Section):
    table: ClassVar[str] = "containers."

    prefix: str | None = setting(None, "what names of containers begin with")


class RegistrySection(Section):
    table: ClassVar[str] = "registry."

    url: Hidden = setting(
        None, "where the registry is, if not in the database: postgresql://... or sqlite:///PATH"
    )


class SigningSection(Section):
    table: ClassVar[str] = "signing."

    key: Hidden = setting(None, "what signs backups; the first one makes it")


class Profile(BackupSettings):
    """Every key of a profile."""

    version: Annotated[int, By(_version, {"const": FORMAT})] = setting(FORMAT, "the format")
    id: str | None = setting(None, "the deployment's")
    target: str = setting(EXTERNAL, "where the stack runs")
    release: str | None = setting(None, "the release of Letta that was provisioned")
    server: ServerSection = setting(ServerSection(), "the Letta server")
    database: DatabaseSection = setting(DatabaseSection(), "its Postgres")
    model: ModelSection = setting(ModelSection(), "the models of an agent for which none is named")
    containers: ContainerSection = setting(ContainerSection(), "for a target that has containers")
    registry: RegistrySection = setting(RegistrySection(), "applications' agent ids and Letta's")
    signing: SigningSection = setting(SigningSection(), "who made a backup")
    placement: dict[str, Any] = setting({}, "a target's own")

    def contradictions(self) -> Iterator[str]:
        if self.server.url is None:
            yield "server.url: is missing"
