"""What a stack's backups are to be: the store, encryption, schedule and retention. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from infra.sensitive import Sensitive
from infra.stack.references import is_reference, resolve

# Key -> its default. The same keys stand in the stack's configuration and in the profile.
DEFAULTS: Mapping[str, str] = {
    "store.url": "",  # file:///folder or s3://bucket/prefix; default: `backups` in the state folder
    "store.endpoint": "",  # URL of an S3 compatible; default: AWS
    "store.region": "",
    "store.path_style": "",  # true: the bucket in the path; default: with an endpoint
    "store.access_key_id": "",  # without the two, boto3's usual chain
    "store.secret_access_key": "",
    "store.timeout": "60",  # seconds without an answer
    "backup.recipients": "",  # age1..., several with commas
    "backup.passphrase": "",  # instead of recipients
    "backup.identity": "",  # of the recipients; only to read backups
    "backup.encryption": "",  # none: store them in the clear, said on purpose
    "backup.escrow": "true",  # the encryption key, encrypted to the recipients, goes along
    "backup.key_copy": "",  # where else a copy of the encryption key is kept, in words
    "backup.schedule": "",  # cron syntax
    "drill.schedule": "",
    "retention": "last=7 daily=14 weekly=8 monthly=12",
}
# Given by reference or as Pulumi secrets only; resolved when used, since an identity may be offline.
SECRET = (
    "store.access_key_id",
    "store.secret_access_key",
    "backup.passphrase",
    "backup.identity",
)
SCHEDULES = ("backup.schedule", "drill.schedule")
YES_OR_NO = ("store.path_style", "backup.escrow")
RETENTION_UNITS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
DURATION = re.compile(r"(\d+)([hdw])")
HOURS = {"h": 1, "d": 24, "w": 24 * 7}


def as_text(key: str, value: Any) -> str:
    """The text of a setting: YAML and TOML know `true` and `60` too. Raises ValueError for a list."""
    if not isinstance(value, str | bool | int | float):
        raise ValueError(f"must be a text, not {value!r}")  # noqa: TRY004  # one kind of problem
    text = str(value)
    return text.lower() if isinstance(value, bool) or key in YES_OR_NO else text


@dataclass(frozen=True)
class StoreSettings:
    """Where backups are kept. `url` is `file:///folder` or `s3://bucket/prefix`, without secrets."""

    url: str
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    access_key_id: Sensitive | None = None
    secret_access_key: Sensitive | None = None
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
        units = [f"{unit}={getattr(self, unit)}" for unit in RETENTION_UNITS if getattr(self, unit)]
        return " ".join([*units, f"within={self.within}h"] if self.within else units)


@dataclass(frozen=True)
class BackupSettings:
    """The settings as given; secrets are resolved by the properties that name them.

    Each of those raises ValueError with a reason that holds no secret.
    """

    values: Mapping[str, Any] = field(default_factory=dict)

    def text(self, key: str) -> str:
        return str(self.values.get(key) or DEFAULTS[key])

    def secret(self, key: str) -> Sensitive | None:
        """Resolve a reference now."""
        raw = self.values.get(key)
        if raw is None or raw == "":
            return None
        text = raw.reveal() if isinstance(raw, Sensitive) else str(raw)
        try:
            return Sensitive(resolve(text))
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None

    @property
    def plain_secrets(self) -> tuple[Sensitive, ...]:
        """Those that are given as they are, for redaction."""
        given = (value for value in self.values.values() if isinstance(value, Sensitive))
        return tuple(value for value in given if not is_reference(value.reveal()))

    @property
    def store_url(self) -> str | None:
        """The store that was configured; None leaves the default."""
        return self.text("store.url") or None

    def store(self, default_url: str) -> StoreSettings:
        endpoint = self.text("store.endpoint") or None
        style = self.text("store.path_style")
        return StoreSettings(
            url=self.store_url or default_url,
            endpoint=endpoint,
            region=self.text("store.region") or None,
            path_style=style == "true" if style else endpoint is not None,
            access_key_id=self.secret("store.access_key_id"),
            secret_access_key=self.secret("store.secret_access_key"),
            timeout=float(self.text("store.timeout")),
        )

    @property
    def recipients(self) -> tuple[str, ...]:
        return (
            tuple(re.split(r"[\s,]+", self.text("backup.recipients")))
            if self.text("backup.recipients")
            else ()
        )

    @property
    def passphrase(self) -> Sensitive | None:
        return self.secret("backup.passphrase")

    @property
    def identity(self) -> Sensitive | None:
        return self.secret("backup.identity")

    @property
    def encrypted(self) -> bool:
        """Whether new backups are encrypted."""
        return bool(self.recipients or self.values.get("backup.passphrase"))

    @property
    def in_the_clear_on_purpose(self) -> bool:
        return self.text("backup.encryption") == "none"

    @property
    def escrow(self) -> bool:
        return self.text("backup.escrow") == "true"

    @property
    def key_copy(self) -> str | None:
        return self.text("backup.key_copy") or None

    @property
    def schedule(self) -> str | None:
        return self.text("backup.schedule") or None

    @property
    def drill_schedule(self) -> str | None:
        return self.text("drill.schedule") or None

    @property
    def retention(self) -> Retention:
        return parse_retention(self.text("retention"))


def parse_retention(text: str) -> Retention:
    """Read `last=7 daily=14 within=48h`; raises ValueError."""
    found: dict[str, int] = {}
    for word in re.split(r"[\s,]+", text.strip()):
        unit, equals, number = word.removeprefix("keep-").partition("=")
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


def problems(values: Mapping[str, Any], *, secrets_hidden: frozenset[str] | None) -> Iterator[str]:
    """Yield what is wrong with backup settings (flat keys), each with its key path.

    `secrets_hidden` are the keys that are kept encrypted; None where plain secrets are allowed (the
    profile is a file of mode 0600).
    """
    text = {key: str(values.get(key) or "") for key in DEFAULTS if key not in SECRET}
    yield from _url_problems(text)
    yield from _store_problems(values, text)
    yield from _encryption_problems(values, text)
    yield from _time_problems(text)
    for key in SECRET if secrets_hidden is not None else ():
        if _out_of_reach(key, values, text):
            yield (
                f"{key}: is in a variable of your shell, which the service that runs the schedule"
                " doesn't have; use file:PATH or cmd:COMMAND"
            )
        if values.get(key) and not is_reference(str(values[key])) and key not in secrets_hidden:  # type: ignore[operator]
            yield (
                f"{key}: is in plain text; use a reference (env:NAME, file:PATH, cmd:COMMAND) or"
                " `pulumi config set --secret`"
            )


def _out_of_reach(key: str, values: Mapping[str, Any], text: Mapping[str, str]) -> bool:
    """Whether scheduled work needs a secret that only a shell of the operator's own has."""
    needed_by = ("drill.schedule",) if key == "backup.identity" else SCHEDULES
    scheduled = any(text[schedule] for schedule in needed_by)
    return scheduled and str(values.get(key) or "").startswith("env:")


def _encryption_problems(values: Mapping[str, Any], text: Mapping[str, str]) -> Iterator[str]:
    for key in YES_OR_NO:
        if text[key] not in ("", "true", "false"):
            yield f"{key}: must be true or false, not {text[key]!r}"
    if text["backup.encryption"] not in ("", "none"):
        yield f"backup.encryption: can only be none, not {text['backup.encryption']!r}"
    for recipient in re.split(r"[\s,]+", text["backup.recipients"].strip()):
        if recipient.upper().startswith("AGE-SECRET-KEY"):
            yield "backup.recipients: is an identity, which is secret; give its recipient (age1...)"
        elif recipient and not recipient.startswith("age1"):
            yield f"backup.recipients: {recipient!r} is no age recipient (age1...)"
    if values.get("backup.passphrase") and text["backup.recipients"]:
        yield "backup.passphrase: is there, and backup.recipients too; keep one of them"


def _time_problems(text: Mapping[str, str]) -> Iterator[str]:
    if text["retention"]:
        try:
            parse_retention(text["retention"])
        except ValueError as error:
            yield f"retention: {error}"
    for key in SCHEDULES:
        if text[key] and (reason := schedule_problem(text[key])):
            yield f"{key}: {reason}"


def schedule_problem(text: str) -> str | None:
    """What is wrong with a schedule in cron syntax, five fields; None: nothing."""
    import datetime

    from cronsim import CronSim, CronSimError

    if len(text.split()) != 5:
        return f"{text!r} is no schedule in cron syntax: it has five fields, such as 30 2 * * *"
    try:
        next(CronSim(text, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)))
    except StopIteration:
        return f"{text!r} is no schedule: that day never comes"
    except CronSimError as error:
        return f"{text!r} is no schedule in cron syntax: {error}"
    return None


def _url_problems(text: Mapping[str, str]) -> Iterator[str]:
    parts = urlsplit(text["store.url"])
    if text["store.url"]:
        if parts.scheme == "file" and (parts.netloc or not parts.path.strip("/")):
            yield "store.url: must be file:///an/absolute/folder"
        elif parts.scheme == "s3" and not parts.netloc:
            yield "store.url: must be s3://bucket or s3://bucket/prefix"
        elif parts.scheme not in ("file", "s3"):
            yield "store.url: must begin with file:// or s3://"
        if parts.username or parts.password or parts.query or parts.fragment:
            yield "store.url: must have no user, password, or parameters"


def _store_problems(values: Mapping[str, Any], text: Mapping[str, str]) -> Iterator[str]:
    if text["store.endpoint"] and not text["store.endpoint"].startswith(("http://", "https://")):
        yield "store.endpoint: must begin with http:// or https://"
    if bool(values.get("store.access_key_id")) != bool(values.get("store.secret_access_key")):
        yield "store.access_key_id: goes with store.secret_access_key; give both or none"
    if text["store.timeout"]:
        try:
            good = 0 < float(text["store.timeout"]) <= 3600
        except ValueError:
            good = False
        if not good:
            yield f"store.timeout: must be seconds between 0 and 3600, not {text['store.timeout']!r}"
