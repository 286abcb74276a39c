"""What a stack's backups are to be: the store, encryption, schedule and retention. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal
from urllib.parse import unquote, urlsplit

from infra.sensitive import Sensitive
from infra.stack.keys import By, FolderUrl, OneOf, Secret, Section, YesNo, given, setting
from infra.stack.references import is_reference, resolve

RETENTION_UNITS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
DURATION = re.compile(r"(\d+)([hdw])")
HOURS = {"h": 1, "d": 24, "w": 24 * 7}


Checksums = Literal["crc32", "md5", "none"]


@dataclass(frozen=True)
class StoreSettings:
    """Where backups are kept. `url` is `file:///folder` or `s3://bucket/prefix`, without secrets."""

    url: str
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    access_key_id: Sensitive | None = None
    secret_access_key: Sensitive | None = None
    session_token: Sensitive | None = None
    checksums: Checksums | None = None  # None: what the store turns out to compare
    timeout: float = 60.0  # seconds


@dataclass(frozen=True)
class Retention:
    """How many backups of which kind are kept; `within` in hours keeps everything younger."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: int = 0

    def __str__(self) -> str:
        words = [f"{unit}={getattr(self, unit)}" for unit in RETENTION_UNITS if getattr(self, unit)]
        if self.within:
            days, hours = divmod(self.within, 24)
            words.append(f"within={self.within}h" if hours else f"within={days}d")
        return " ".join(words)


def parse_retention(text: str) -> Retention:
    """Read `last=7 daily=14 within=48h`; raises ValueError."""
    found: dict[str, int] = {}
    for word in re.split(r"[\s,]+", text.strip()):
        unit, equals, number = word.removeprefix("keep-").partition("=")
        if unit in found:
            raise ValueError(f"says {unit} twice")
        if unit == "within" and (match := DURATION.fullmatch(number)):
            found[unit] = int(match[1]) * HOURS[match[2]]
        elif unit in RETENTION_UNITS and equals and number.isdecimal():
            found[unit] = int(number)
        else:
            raise ValueError(
                f"{word!r} is not understood; write for instance last=7 daily=14 within=48h"
            )
    if not any(found.values()):
        raise ValueError("would keep nothing")
    return Retention(**found)


def parse_schedule(text: str) -> str:
    """Read a schedule in cron syntax, five fields; raises ValueError."""
    import datetime

    from cronsim import CronSim, CronSimError

    if len(text.split()) != 5:
        raise ValueError(
            f"{text!r} is no schedule in cron syntax: it has five fields, such as 30 2 * * *"
        )
    try:
        next(CronSim(text, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)))
    except StopIteration:
        raise ValueError(f"{text!r} is no schedule: that day never comes") from None
    except CronSimError as error:
        raise ValueError(f"{text!r} is no schedule in cron syntax: {error}") from None
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    path = unquote(parts.path)
    if parts.scheme == "file" and (parts.netloc or not path.strip("/ ") or "\0" in path):
        raise ValueError("must be file:///an/absolute/folder")
    if parts.scheme == "s3" and not parts.netloc:
        raise ValueError("must be s3://bucket or s3://bucket/prefix")
    if parts.scheme not in ("file", "s3"):
        raise ValueError("must begin with file:// or s3://")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have no user, password, or parameters")
    return text


def _endpoint(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return text


_SECONDS = {"type": ["number", "string"], "exclusiveMinimum": 0, "maximum": 3600}


def _seconds(text: str) -> float:
    try:
        if 0 < float(text) <= 3600:
            return float(text)
    except ValueError:
        pass
    raise ValueError(f"must be seconds between 0 and 3600, not {text!r}")


def _recipients(text: str) -> tuple[str, ...]:
    found = tuple(filter(None, re.split(r"[\s,]+", text)))
    for recipient in found:
        if recipient.upper().startswith("AGE-SECRET-KEY"):
            raise ValueError("is an identity, which is secret; give its recipient (age1...)")
        if not recipient.startswith("age1"):
            raise ValueError(f"{recipient!r} is no age recipient (age1...)")
    return found


def _signers(text: str) -> tuple[str, ...]:
    found = tuple(filter(None, re.split(r"[\s,]+", text)))
    for signer in found:
        if not re.fullmatch(r"ed25519:[A-Za-z0-9_-]{43}", signer):
            raise ValueError(f"{signer!r} is no signer (ed25519: and 43 more characters)")
    return found


def _encryption(text: str) -> str:
    if text != "none":
        raise ValueError(f"can only be none, not {text!r}")
    return text


Schedule = Annotated[str | None, By(parse_schedule)]
Late = Annotated[Sensitive | None, Secret(late=True)]  # an identity may be offline until it is used


class StoreSection(Section):
    table: ClassVar[str] = "store."

    url: Annotated[str | None, By(_url), FolderUrl()] = setting(
        None, "file:///folder or s3://bucket/prefix; by default `backups` in the state folder"
    )
    endpoint: Annotated[str | None, By(_endpoint)] = setting(
        None, "URL of an S3 compatible; by default AWS"
    )
    region: str | None = setting(None, "its region")
    path_style: YesNo | None = setting(None, "the bucket in the path; by default with an endpoint")
    access_key_id: Late = setting(None, "without the two keys, boto3's usual chain")
    secret_access_key: Late = setting(None, "goes with access_key_id")
    session_token: Late = setting(None, "of temporary credentials, beside the two keys")
    checksums: Annotated[Checksums, OneOf()] | None = setting(
        None, "crc32, md5 or none; by default what the store turns out to compare"
    )
    timeout: Annotated[float, By(_seconds, _SECONDS)] = setting(60.0, "seconds without an answer")

    def contradictions(self) -> Iterator[str]:
        if {"access_key_id", "secret_access_key"} & self.model_fields_set and not (
            self.access_key_id and self.secret_access_key
        ):
            yield "store.access_key_id: goes with store.secret_access_key; give both or none"
        if self.session_token and not self.access_key_id:
            yield "store.session_token: goes with store.access_key_id and store.secret_access_key"


class BackupSection(Section):
    table: ClassVar[str] = "backup."

    scope: Annotated[Literal["database", "letta"], OneOf()] | None = setting(
        None,
        "all of the database, or only what is Letta's in it; letta for one that was there already",
    )
    recipients: Annotated[tuple[str, ...], By(_recipients)] = setting(
        (), "age1..., several with commas: who can read backups"
    )
    passphrase: Late = setting(None, "instead of recipients")
    identity: Late = setting(None, "of the recipients; only to read backups")
    signers: Annotated[tuple[str, ...], By(_signers)] = setting(
        (), "ed25519:..., several with commas: whose backups are restored besides one's own"
    )
    encryption: Annotated[str | None, By(_encryption, {"enum": ["none"]})] = setting(
        None, "none: they are stored in the clear, on purpose"
    )
    escrow: YesNo = setting(True, "the encryption key, encrypted to the recipients, goes along")
    key_copy: str | None = setting(
        None, "where else a copy of the encryption key is kept, in words"
    )
    schedule: Schedule = setting(None, "when backups are made, in cron syntax")

    def contradictions(self) -> Iterator[str]:
        if self.passphrase and self.recipients:
            yield "backup.passphrase: is there, and backup.recipients too; keep one of them"


class DrillSection(Section):
    table: ClassVar[str] = "drill."

    schedule: Schedule = setting(None, "when the newest backup is proven, in cron syntax")


class BackupSettings(Section):
    """The keys about backups, which a stack's configuration and its profile share.

    What resolves a secret raises ValueError with a reason that holds none.
    """

    store: StoreSection = setting(StoreSection(), "where backups are kept")
    backup: BackupSection = setting(BackupSection(), "how backups are made")
    drill: DrillSection = setting(DrillSection(), "how they are proven")
    retention: Annotated[Retention, By(parse_retention)] = setting(
        Retention(last=7, daily=14, weekly=8, monthly=12), "which backups `backup prune` keeps"
    )

    @property
    def secrets(self) -> dict[str, Sensitive]:
        """By key, as they are given: references are not followed."""
        keys = given(self.store) | given(self.backup)
        return {name: value for name, value in keys.items() if isinstance(value, Sensitive)}

    @property
    def plain_secrets(self) -> tuple[Sensitive, ...]:
        """Those that are given as they are, for redaction."""
        return tuple(each for each in self.secrets.values() if not is_reference(each.reveal()))

    def store_settings(self, default_url: str) -> StoreSettings:
        """The store, with the references to its credentials followed."""
        store = self.store
        return StoreSettings(
            url=store.url or default_url,
            endpoint=store.endpoint,
            region=store.region,
            path_style=bool(store.endpoint) if store.path_style is None else store.path_style,
            access_key_id=_followed("store.access_key_id", store.access_key_id),
            secret_access_key=_followed("store.secret_access_key", store.secret_access_key),
            session_token=_followed("store.session_token", store.session_token),
            checksums=store.checksums,
            timeout=store.timeout,
        )

    @property
    def passphrase(self) -> Sensitive | None:
        return _followed("backup.passphrase", self.backup.passphrase)

    @property
    def identity(self) -> Sensitive | None:
        return _followed("backup.identity", self.backup.identity)

    @property
    def encrypted(self) -> bool:
        """Whether new backups are encrypted."""
        return bool(self.backup.recipients or self.backup.passphrase)


def _followed(name: str, secret: Sensitive | None) -> Sensitive | None:
    try:
        return None if secret is None else Sensitive(resolve(secret.reveal()))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
