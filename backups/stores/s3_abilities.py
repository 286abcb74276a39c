"""What an S3 server can do beyond storing bytes: found out by asking, as many say they can and don't.

Amazon's has all of it. Of the compatible ones some refuse the headers of checksums (Backblaze, older
Ceph, Alibaba), some take a condition and ignore it (Garage), some answer it with 501.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import secrets
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from backups.stores.s3_errors import is_conflict, is_denial, is_unwilling
from infra.stack.backup_settings import Checksums

HIDDEN = "."  # what a step of our own helpers' names begins with: no object's does (`checked`)
PROBE = f"{HIDDEN}probe-"
NOTE = f"{HIDDEN}abilities.json"
ASKED_AGAIN = dt.timedelta(days=30)
KINDS: tuple[Checksums, ...] = ("crc32", "md5", "none")
AMAZON = (".amazonaws.com", ".amazonaws.com.cn")
CONTENT, OTHER = b"letta-ops looks what this store can do", b"letta-ops sent something else"
COMPARES_NOTHING = (
    "it compares no checksum with what arrives: `letta-ops backup verify` reads a backup again"
)
KNOWS_NO_CONDITION = (
    "it can't write on the condition that nothing is there: of two who write at once both may be"
    " sent away, and none overwrites the other"
)


@dataclass(frozen=True)
class Abilities:
    """`checksums`: which kind the server compares with what arrives. `conditions`: whether
    `If-None-Match: *` keeps it from overwriting an object."""

    checksums: Checksums
    conditions: bool

    @property
    def limits(self) -> tuple[str, ...]:
        """What it can't do, in words."""
        nothing = (COMPARES_NOTHING,) if self.checksums == "none" else ()
        return nothing if self.conditions else (*nothing, KNOWS_NO_CONDITION)

    def checksum(self, body: bytes | bytearray) -> dict[str, str]:
        """The argument of a request that carries `body`."""
        return _checksum(self.checksums, body)


def abilities_of(client: Any, bucket: str, prefix: str, wanted: Checksums | None) -> Abilities:
    """What the server can do that `client` talks to, by a note below `prefix`, or by asking it.

    Asking takes an object, which in some buckets can't be removed for good: so it is done once a month.
    `wanted` is not asked about. Raises what botocore raises when nothing can be written.
    """
    from botocore.exceptions import ClientError

    host = urlsplit(client.meta.endpoint_url).hostname or ""
    if host.endswith(AMAZON):
        return Abilities(wanted or "crc32", conditions=True)
    note = {"Bucket": bucket, "Key": prefix + NOTE}
    known = noted(client, bucket, prefix, wanted)
    if known is None:
        known = _asked(client, {**note, "Key": f"{prefix}{PROBE}{secrets.token_hex(8)}"}, wanted)
        found = {"checksums": None if wanted else known.checksums, "conditions": known.conditions}
        content = json.dumps(found).encode()
        with suppress(ClientError):  # an older note that object lock holds
            client.put_object(**note, **known.checksum(content), Body=content)
    return known


def noted(client: Any, bucket: str, prefix: str, wanted: Checksums | None) -> Abilities | None:
    """What was found out not long ago, if that is all that has to be known."""
    from botocore.exceptions import ClientError

    try:
        answer = client.get_object(Bucket=bucket, Key=prefix + NOTE)
        document = json.loads(answer["Body"].read())
        found = Abilities(wanted or document["checksums"], document["conditions"] is True)
    except (ClientError, ValueError, KeyError, TypeError):
        return None
    age = dt.datetime.now(dt.UTC) - answer["LastModified"]
    return found if age < ASKED_AGAIN and found.checksums in KINDS else None


def _asked(client: Any, probe: dict[str, str], wanted: Checksums | None) -> Abilities:
    """Take the best kind of checksum that the server accepts, and refuses when it is wrong."""
    right, wrong = ({**probe, "Key": probe["Key"] + end} for end in ("-right", "-wrong"))
    try:
        for kind in (wanted,) if wanted else KINDS:
            settings = right | _checksum(kind, CONTENT)
            if _refuses(client, settings):
                continue
            if wanted or kind == "none" or _refuses(client, wrong | _checksum(kind, OTHER)):
                break
            remove_helper(client, wrong)
        return Abilities(kind, _keeps_what_is_there(client, settings))
    finally:
        remove_helper(client, right)


def remove_helper(client: Any, where: Mapping[str, str]) -> None:
    """Remove an object of ours that is none of a user's; one that is left is hidden, and pruned."""
    from botocore.exceptions import BotoCoreError, ClientError

    with suppress(BotoCoreError, ClientError):
        client.delete_object(**where)


def is_helper(name: str) -> bool:
    """Whether the object `name` is one of ours that is none of a user's."""
    return any(step.startswith(HIDDEN) for step in name.split("/"))


def is_left(name: str) -> bool:
    """Whether it is a helper that should have been removed at once."""
    return is_helper(name) and not name.endswith(NOTE)


def _refuses(client: Any, settings: dict[str, str]) -> bool:
    """Whether the server won't have such a request; other failures are raised."""
    from botocore.exceptions import ClientError

    try:
        client.put_object(**settings, Body=CONTENT)
    except ClientError as error:
        if not is_unwilling(error):
            raise
        return True
    return False


def _keeps_what_is_there(client: Any, settings: dict[str, str]) -> bool:
    """Whether it refuses to overwrite an object because that is there, not because it is asked so."""
    from botocore.exceptions import ClientError

    try:
        client.put_object(**settings, IfNoneMatch="*", Body=CONTENT)
    except ClientError as error:
        if is_conflict(error) or is_denial(error):  # denied: object lock holds it
            return True
        if not is_unwilling(error):
            raise
    return False


def _checksum(kind: Checksums, body: bytes | bytearray) -> dict[str, str]:
    if kind == "crc32":
        return {"ChecksumCRC32": _base64(zlib.crc32(body).to_bytes(4, "big"))}
    if kind == "md5":
        return {"ContentMD5": _base64(hashlib.md5(body, usedforsecurity=False).digest())}
    return {}


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
