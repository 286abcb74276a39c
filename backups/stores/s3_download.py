"""Reading an object from S3 to its end, over as many connections as it takes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from backups.stores.s3_errors import answer_code, is_unwilling
from infra.errors import LettaOpsError

if TYPE_CHECKING:
    from infra.stack.backup_settings import Checksums

ATTEMPTS = 8  # at getting on, without a byte in between
LONGEST_PAUSE = 5.0  # seconds
GIVE_UP_SHARE = 0.75  # of the time-out: then no other attempt begins
PIECE = 1 << 20

Telling = Callable[[], AbstractContextManager[None]]


class Download:
    """A source. The object is opened by the constructor."""

    def __init__(
        self,
        client: Any,
        where: Mapping[str, str],
        telling: Telling,
        timeout: float,
        checksums: Checksums | None,
    ) -> None:
        self._client = client
        self._where = where
        self._telling = telling
        self._timeout = timeout
        self._checksums = checksums
        self._offset = 0
        self._end = 0
        self._tag = ""
        self._body: Any = None
        self._open()

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(PIECE), b""))
        with self._telling():
            return self._read(size)

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def _read(self, size: int) -> bytes:
        from botocore.exceptions import HTTPClientError, IncompleteReadError
        from urllib3.exceptions import HTTPError

        started = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self._body is None and self._offset < self._end:
                    self._open_again()
                data: bytes = self._body.read(size) if self._body is not None else b""
            except (HTTPClientError, IncompleteReadError, HTTPError, OSError):
                self.close()
                late = time.monotonic() - started > self._timeout * GIVE_UP_SHARE
                if late or attempt == ATTEMPTS:
                    raise
                time.sleep(random.random() * min(LONGEST_PAUSE, 0.1 * 2**attempt))  # noqa: S311
            else:
                self._offset += len(data)
                return data
        raise AssertionError("the last attempt raises or returns")

    def _open(self) -> None:
        from botocore.exceptions import ClientError

        # With a checksum where there is one of the whole: the body is compared with it at its end.
        mode = {"ChecksumMode": "ENABLED"} if self._checksums in (None, "crc32") else {}
        try:
            answer = self._client.get_object(**self._where, **mode)
        except ClientError as error:
            if not mode or not is_unwilling(error):
                raise
            answer = self._client.get_object(**self._where)
        self._body, self._tag = answer["Body"], answer["ETag"]
        self._end = answer["ContentLength"]

    def _open_again(self) -> None:
        from botocore.exceptions import ClientError

        try:
            answer = self._client.get_object(
                **self._where, Range=f"bytes={self._offset}-", IfMatch=self._tag
            )
        except ClientError as error:
            if answer_code(error) in ("PreconditionFailed", "NoSuchKey"):
                raise self._failed("changed while it was read") from None
            raise
        if self._offset and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            raise self._failed("can't be read from its middle on this server")
        self._body = answer["Body"]

    def _failed(self, what: str) -> LettaOpsError:
        key = f"s3://{self._where['Bucket']}/{self._where['Key']}"
        return LettaOpsError("store-failed", f"{key} {what}", "run this again")
