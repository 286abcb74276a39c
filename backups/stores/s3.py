"""A store in an S3 bucket, or in one of a compatible server. The only module that makes S3 clients."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from backups.stores.s3_abilities import (
    Abilities,
    abilities_of,
    is_helper,
    is_left,
    noted,
    remove_helper,
)
from backups.stores.s3_download import Download
from backups.stores.s3_errors import answer_code, explained, is_denial, is_refusal
from backups.stores.s3_protection import locked_until, protection
from backups.stores.s3_upload import Upload
from backups.stores.store import Entry, Sink, Source, checked
from infra.errors import LettaOpsError

if TYPE_CHECKING:
    from infra.stack.backup_settings import StoreSettings

REGION = "us-east-1"  # what servers take for "any" when nobody named one
CONNECT_SECONDS = 10.0
ATTEMPTS = (
    9  # of every request: about six seconds of refusals, longer where we are told to slow down
)
# Two attempts that get no answer fit into the time-out: the first may have met a dead connection.
READ_SHARE, GIVE_UP_SHARE = 0.5, 0.75
CONNECTIONS = 10
STARTED = "letta_ops_started"


class S3Store:
    """Objects below a prefix of a bucket. Threads may share it.

    A deletion is a plain one: a versioned bucket keeps what was deleted, as it was told to.
    """

    def __init__(self, settings: StoreSettings) -> None:
        parts = urlsplit(settings.url)
        folder = unquote(parts.path).strip("/")
        self.url = settings.url
        self._settings = settings
        self._bucket = parts.netloc
        self._prefix = f"{folder}/" if folder else ""
        self._known: Abilities | None = None

    @contextmanager
    def write(self, name: str, *, exclusive: bool = False) -> Iterator[Sink]:
        where = self._where(name)
        with self._telling():
            abilities = self._abilities(name, exclusive=exclusive)
            upload = Upload(self._client, where, self._telling, abilities, exclusive=exclusive)
        try:
            yield upload
            upload.finish()
        except BaseException as error:
            upload.abort(error)
            raise

    @contextmanager
    def read(self, name: str) -> Iterator[Source]:
        where = self._where(name)
        with self._telling():
            download = Download(
                self._client, where, self._telling, self._settings.timeout, self._settings.checksums
            )
        try:
            yield download
        finally:
            download.close()

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        with self._telling():
            yield from (each for each in self._listed(prefix) if not is_helper(each.name))

    def limits(self) -> tuple[str, ...]:
        known = self._known
        with self._telling():
            known = known or noted(
                self._client, self._bucket, self._prefix, self._settings.checksums
            )
        return known.limits if known else ()

    def protection(self) -> str:
        with self._telling():
            return protection(self._client, self._bucket)

    def delete(self, name: str) -> None:
        from botocore.exceptions import ClientError

        where = self._where(name)
        with self._telling():
            try:
                self._client.delete_object(**where)
            except ClientError as error:
                if not is_refusal(error) or (until := locked_until(self._client, where)) is None:
                    raise
                raise LettaOpsError(
                    "object-locked",
                    f"{self.url}: object lock holds {name} {until}",
                    "wait until then, or ask who administers the bucket; nothing else helps",
                ) from None

    def unfinished(self, older_than: dt.datetime, *, remove: bool) -> Iterator[Entry]:
        with self._telling():
            pages = self._pages("list_multipart_uploads", Prefix=self._prefix)
            for item in [item for page in pages for item in page.get("Uploads", ())]:
                entry = self._upload(item)
                if entry is not None and entry.modified < older_than:
                    if remove:
                        self._abort(item)
                    yield entry
            for entry in [each for each in self._listed() if is_left(each.name)]:
                where = {"Bucket": self._bucket, "Key": self._prefix + entry.name}
                # One that object lock holds stays, and is nobody's trouble.
                if entry.modified < older_than and (
                    not remove or remove_helper(self._client, where)
                ):
                    yield entry

    def _listed(self, prefix: str = "") -> Iterator[Entry]:
        for page in self._pages("list_objects_v2", Prefix=self._prefix + prefix):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):  # a folder, as consoles show them
                    name = self._name(item["Key"])
                    yield Entry(name, item["Size"], _utc(item["LastModified"]))

    def _upload(self, item: Mapping[str, Any]) -> Entry | None:
        """What is there of an upload, and when its last part came; None: it has ended meanwhile."""
        from botocore.exceptions import ClientError

        try:
            pages = self._pages("list_parts", **_which(item))
            parts = [part for page in pages for part in page.get("Parts", ())]
        except ClientError as error:
            if answer_code(error) == "NoSuchUpload":
                return None
            raise
        times = [_utc(part["LastModified"]) for part in parts]
        size = sum(part["Size"] for part in parts)
        return Entry(self._name(item["Key"]), size, max(times, default=_utc(item["Initiated"])))

    def _abort(self, item: Mapping[str, Any]) -> None:
        from botocore.exceptions import ClientError

        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, **_which(item))
        except ClientError as error:
            if answer_code(error) != "NoSuchUpload":
                raise

    def _pages(self, operation: str, **which: str) -> Iterator[Mapping[str, Any]]:
        yield from self._client.get_paginator(operation).paginate(Bucket=self._bucket, **which)

    def _where(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + checked(name)}

    def _name(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn what boto3 raises into a LettaOpsError."""
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (BotoCoreError, ClientError, HTTPError, OSError) as error:
            raise explained(error, self._settings) from None

    def _abilities(self, name: str, *, exclusive: bool) -> Abilities:
        """What the server can do, asked at the top of the store, or where `name` is if only that is
        allowed."""
        from botocore.exceptions import ClientError

        wanted = self._settings.checksums
        if wanted and not exclusive:
            return Abilities(wanted, "refused")  # nothing else has to be known
        if self._known is None:
            first, slash, _ = name.partition("/")
            try:
                self._known = abilities_of(self._client, self._bucket, self._prefix, wanted)
            except ClientError as error:
                if not is_denial(error) or not slash:
                    raise
                below = f"{self._prefix}{first}/"
                self._known = abilities_of(self._client, self._bucket, below, wanted)
        return self._known

    @cached_property
    def _client(self) -> Any:
        import boto3.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        given, timeout = self._settings, self._settings.timeout
        session = boto3.session.Session()
        identity = {
            "aws_access_key_id": given.access_key_id,
            "aws_secret_access_key": given.secret_access_key,
            "aws_session_token": given.session_token,
        }
        try:
            client = session.client(
                "s3",
                endpoint_url=given.endpoint,
                region_name=given.region or session.region_name or REGION,
                config=Config(
                    connect_timeout=min(CONNECT_SECONDS, timeout * READ_SHARE),
                    read_timeout=timeout * READ_SHARE,
                    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                    s3={"addressing_style": "path" if given.path_style else "auto"},
                    max_pool_connections=CONNECTIONS,
                    tcp_keepalive=True,
                    # Upload sends those that the server takes, Download asks where it can.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
                **{name: secret.reveal() for name, secret in identity.items() if secret},
            )
        except ValueError as error:
            if isinstance(error, BotoCoreError):  # another word that is no region, for instance
                raise
            raise LettaOpsError(
                "store-failed",
                f"{self.url}: the endpoint {given.endpoint!r} is no URL that can be asked",
                "correct store.endpoint, for instance https://s3.example.org",
            ) from None
        _be_patient(client, timeout * GIVE_UP_SHARE)
        return client


def _be_patient(client: Any, seconds: float) -> None:
    """Have retries end `seconds` after the first attempt, however many would be left."""

    def on_call(context: dict[str, Any], **_: object) -> None:
        context[STARTED] = monotonic()

    def on_failure(request_dict: Mapping[str, Any], **_: object) -> bool | None:
        spent = monotonic() - request_dict["context"][STARTED]
        return False if spent > seconds else None  # None: boto3's own rules decide

    client.meta.events.register("before-call.s3", on_call)
    client.meta.events.register_first("needs-retry.s3", on_failure)


def _which(upload: Mapping[str, Any]) -> dict[str, str]:
    return {"Key": upload["Key"], "UploadId": upload["UploadId"]}


def _utc(time: dt.datetime) -> dt.datetime:
    return time.astimezone(dt.UTC)
