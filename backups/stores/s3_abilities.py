"""What an S3 server can do beyond storing bytes: found out by asking, as many say they can and don't.

Amazon's has all of it. Of the compatible ones some refuse the headers of checksums (Backblaze, older
Ceph, Alibaba), some take a condition and ignore it (Garage), some answer it with 501.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import re
import secrets
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from backups.stores.s3_errors import answer_status
from infra.stack.backup_settings import Checksums

NOTE = ".abilities.json"
# Our own helpers beside the objects, and nobody else's: a prefix may be shared with other data.
LEFT = re.compile(r"\.probe-[0-9a-f]{16}-(right|wrong)|\.claim-.+-[0-9a-f]{32}", re.DOTALL)
AMAZON = re.compile(r"(.*\.)?s3([.-][a-z0-9-]+)*\.amazonaws\.com(\.cn)?")
ASKED_AGAIN = dt.timedelta(days=30)
KINDS: tuple[Checksums, ...] = get_args(Checksums)  # the best one first
Conditions = Literal["kept", "ignored", "refused"]
CONTENT, OTHER = b"letta-ops looks what this store can do", b"letta-ops sent something else"
# How a request is refused for what is in it: by those who know that they don't know, and by proxies.
REFUSED = (400, 403, 405, 422, 501)
CONFLICT = (304, 412)
COMPARES_NOTHING = (
    "it compares no checksum with what arrives: `letta-ops backup verify` reads a backup again"
)
KNOWS_NO_CONDITION = (
    "it can't write on the condition that nothing is there: of two who write at once both may be"
    " sent away, and none overwrites the other"
)


@dataclass(frozen=True)
class Abilities:
    """`checksums`: which kind the server compares with what arrives. `conditions`: what it does with
    `If-None-Match: *`; `of_parts`: whether that holds for objects that are made of parts, too."""

    checksums: Checksums
    conditions: Conditions
    of_parts: bool = False

    @property
    def limits(self) -> tuple[str, ...]:
        """What it can't do, in words."""
        nothing = (COMPARES_NOTHING,) if self.checksums == "none" else ()
        return nothing if self.conditions == "kept" else (*nothing, KNOWS_NO_CONDITION)

    def checksum(self, body: bytes | bytearray) -> dict[str, str]:
        """The argument of a request that carries `body`."""
        return _checksum(self.checksums, body)

    def is_exclusive(self, *, parts: bool) -> bool:
        """Whether the condition alone keeps a writer from overwriting an object."""
        return self.conditions == "kept" and (self.of_parts or not parts)


def abilities_of(client: Any, bucket: str, prefix: str, wanted: Checksums | None) -> Abilities:
    """What the server can do that `client` talks to, by a note below `prefix`, or by asking it.

    Asking takes an object, which in some buckets can't be removed for good: so it is done once a month.
    `wanted` is not asked about. Raises what botocore raises when nothing can be written.
    """
    from botocore.exceptions import ClientError

    if is_amazon(client):
        return Abilities(wanted or "crc32", "kept", of_parts=True)
    note = {"Bucket": bucket, "Key": prefix + NOTE}
    known, age = _read(client, note, wanted)
    if known is not None and age < ASKED_AGAIN:
        return known
    if known is not None:
        try:
            _write(client, note, known, wanted)  # where it can't be replaced, probes would pile up
        except ClientError:
            return known
    known = _asked(client, {**note, "Key": f"{prefix}.probe-{secrets.token_hex(8)}"}, wanted)
    _write(client, note, known, wanted)
    return known


def noted(client: Any, bucket: str, prefix: str, wanted: Checksums | None) -> Abilities | None:
    """What was found out, however long ago."""
    if is_amazon(client):
        return None
    return _read(client, {"Bucket": bucket, "Key": prefix + NOTE}, wanted)[0]


def is_amazon(client: Any) -> bool:
    return AMAZON.fullmatch(urlsplit(client.meta.endpoint_url).hostname or "") is not None


def remove_helper(client: Any, where: Mapping[str, str]) -> bool:
    """Remove an object of ours that is none of a user's; one that is left is hidden, and pruned."""
    from botocore.exceptions import BotoCoreError, ClientError

    with suppress(BotoCoreError, ClientError):
        client.delete_object(**where)
        return True
    return False


def is_left(name: str) -> bool:
    """Whether an object is a helper of ours that should have been removed at once."""
    return LEFT.fullmatch(name.rpartition("/")[2]) is not None


def is_helper(name: str) -> bool:
    """Whether it is one of ours that is none of a user's."""
    return is_left(name) or name.rpartition("/")[2] == NOTE


def _read(
    client: Any, note: dict[str, str], wanted: Checksums | None
) -> tuple[Abilities | None, dt.timedelta]:
    """What the note says of this server, if that is all that has to be known, and how old it is."""
    from botocore.exceptions import ClientError

    try:
        answer = client.get_object(**note)
        document = json.loads(answer["Body"].read())
        checksums, conditions = wanted or document["checksums"], document["conditions"]
        known = checksums in KINDS and conditions in get_args(Conditions)
        known = known and document["server"] == _server(client, note)
        of_parts = document["of_parts"] is True
    except (ClientError, ValueError, KeyError, TypeError):
        return None, ASKED_AGAIN
    age = dt.datetime.now(dt.UTC) - answer["LastModified"]
    return (Abilities(checksums, conditions, of_parts) if known else None), age


def _write(client: Any, note: dict[str, str], known: Abilities, wanted: Checksums | None) -> None:
    document = {
        "server": _server(client, note),
        "checksums": None if wanted else known.checksums,
        "conditions": known.conditions,
        "of_parts": known.of_parts,
    }
    content = json.dumps(document).encode()
    client.put_object(**note, **known.checksum(content), Body=content)


def _server(client: Any, note: dict[str, str]) -> str:
    """What the note is about: one that was copied along with a store's objects says nothing."""
    return f"{client.meta.endpoint_url.rstrip('/')}/{note['Bucket']}"


def _asked(client: Any, probe: dict[str, str], wanted: Checksums | None) -> Abilities:
    """Take the best kind of checksum that the server accepts, and refuses when it is wrong."""
    right, wrong = ({**probe, "Key": probe["Key"] + end} for end in ("-right", "-wrong"))
    try:
        for kind in (wanted,) if wanted else KINDS:
            settings = right | _checksum(kind, CONTENT)
            last = kind in (wanted, "none")
            if _status(client, settings, () if last else REFUSED) in REFUSED:
                continue
            if last or _status(client, wrong | _checksum(kind, OTHER), REFUSED) in REFUSED:
                break
            remove_helper(client, wrong)
        conditions = _conditions(client, settings)
        parts = conditions == "kept" and _holds_for_parts(client, right, kind)
        return Abilities(kind, conditions, parts)
    finally:
        remove_helper(client, right)


def _conditions(client: Any, there: dict[str, str]) -> Conditions:
    """What comes of `If-None-Match: *` for an object that is there."""
    status = _status(client, {**there, "IfNoneMatch": "*"}, (*CONFLICT, *REFUSED))
    if status in CONFLICT:
        return "kept"
    # Without it, too: then object lock holds the object, and nothing was learnt.
    if status in REFUSED and _status(client, there, REFUSED) not in REFUSED:
        return "refused"
    return "ignored"


def _holds_for_parts(client: Any, there: dict[str, str], kind: Checksums) -> bool:
    """Whether `If-None-Match: *` keeps an object from being overwritten by one that is made of parts."""
    from botocore.exceptions import BotoCoreError, ClientError

    own = _checksum(kind, CONTENT)
    algorithm = {"ChecksumAlgorithm": "CRC32"} if kind == "crc32" else {}
    upload = {**there, "UploadId": client.create_multipart_upload(**there, **algorithm)["UploadId"]}
    try:
        answer = client.upload_part(**upload, **own, PartNumber=1, Body=CONTENT)
        part = {"PartNumber": 1, "ETag": answer["ETag"]}
        part |= own if "ChecksumCRC32" in answer else {}
        client.complete_multipart_upload(
            **upload, IfNoneMatch="*", MultipartUpload={"Parts": [part]}
        )
    except ClientError as error:
        with suppress(BotoCoreError, ClientError):
            client.abort_multipart_upload(**upload)
        return answer_status(error) in CONFLICT
    return False


def _status(client: Any, settings: dict[str, str], expected: tuple[int, ...]) -> int:
    """The status of an answer, 200 for success; raises what is not `expected`."""
    from botocore.exceptions import ClientError

    try:
        client.put_object(**settings, Body=CONTENT)
    except ClientError as error:
        if answer_status(error) not in expected:
            raise
        return answer_status(error)
    return 200


def _checksum(kind: Checksums, body: bytes | bytearray) -> dict[str, str]:
    if kind == "crc32":
        return {"ChecksumCRC32": _base64(zlib.crc32(body).to_bytes(4, "big"))}
    if kind == "md5":
        return {"ContentMD5": _base64(hashlib.md5(body, usedforsecurity=False).digest())}
    return {}


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
