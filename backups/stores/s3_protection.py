"""What keeps an S3 bucket from losing what somebody deletes or overwrites: versions and object lock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

from backups.stores.s3_errors import NOT_IMPLEMENTED, answer_status

NOTHING = "whoever has its credentials can delete what it holds for good"


def protection(client: Any, bucket: str) -> str:
    """What it has of both, in words. Raises what botocore raises when it doesn't answer."""
    has = {
        "versions": _has(lambda: client.get_bucket_versioning(Bucket=bucket).get("Status")),
        "object lock": _has(lambda: _lock(client, bucket).get("ObjectLockEnabled")),
    }
    words = {True: "{}", False: "no {}", None: "{} not known (it doesn't say)"}
    told = ", ".join(words[there].format(what) for what, there in has.items())
    return f"{told}: {NOTHING}" if set(has.values()) == {False} else told


def locked_until(client: Any, where: Mapping[str, str]) -> str | None:
    """Until when object lock holds an object; None: it doesn't, or we are not told."""
    from botocore.exceptions import ClientError

    try:
        found = client.head_object(**where)
        if found.get("VersionId", "null") != "null":
            return None  # a plain deletion takes nothing from a versioned bucket: it was denied
        if found.get("ObjectLockLegalHoldStatus") == "ON":
            return "until its legal hold is taken away"
        until = found.get("ObjectLockRetainUntilDate")
        if until is not None and until > dt.datetime.now(dt.UTC):
            return f"until {until.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
        rule = _lock(client, where["Bucket"]).get("Rule")
    except ClientError:
        return None
    return "as long as its bucket says" if rule else None


def _lock(client: Any, bucket: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.get_object_lock_configuration(Bucket=bucket)
    return dict(answer["ObjectLockConfiguration"])


def _has(ask: Callable[[], str | None]) -> bool | None:
    """None: we are not told. A server that doesn't know the question has no such thing."""
    from botocore.exceptions import ClientError

    try:
        return ask() == "Enabled"
    except ClientError as error:
        return False if answer_status(error) in (404, NOT_IMPLEMENTED) else None
