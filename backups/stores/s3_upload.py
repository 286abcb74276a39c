"""Writing an object to S3 as it comes: in parts, a few at once, in bounded memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Any

from backups.stores.s3_abilities import Abilities
from backups.stores.s3_claims import already_there, claimed
from backups.stores.s3_errors import answer_code, answer_status, is_refusal

MEBIBYTE = 1 << 20
SMALLEST_PART = 8 * MEBIBYTE
PARTS_OF_ONE_SIZE = 1000  # then twice the size: S3 takes 10,000 parts, and objects of 5 TiB
IN_FLIGHT = 3
BYTES_IN_FLIGHT = 64 * MEBIBYTE  # fewer at once when they are large
WRITER = "letta-ops-writer"

Telling = Callable[[], AbstractContextManager[None]]


def part_size(number: int) -> int:
    """Bytes of part `number`, counted from 1."""
    return SMALLEST_PART << ((number - 1) // PARTS_OF_ONE_SIZE)


class Upload:
    """A sink. What is smaller than a part goes in one request, which `finish` makes.

    With `exclusive`, the constructor raises LettaOpsError (`object-exists`) before much is sent for
    nothing; between then and the end, the store sees to it.
    """

    def __init__(
        self,
        client: Any,
        where: Mapping[str, str],
        telling: Telling,
        abilities: Abilities,
        *,
        exclusive: bool,
    ) -> None:
        self._client = client
        self._where = where
        self._telling = telling
        self._abilities = abilities
        self._exclusive = exclusive
        self._condition = (
            {"IfNoneMatch": "*"} if exclusive and abilities.conditions != "refused" else {}
        )
        self._token = secrets.token_hex(16)
        self._metadata = {WRITER: self._token}  # by which we know our own object
        self._upload: str | None = None
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="s3-upload")
        self._parts: list[Future[dict[str, Any]]] = []
        self._running: set[Future[dict[str, Any]]] = set()
        self._buffer = bytearray()
        if exclusive and self._writer() is not None:
            raise already_there(where)

    def write(self, data: bytes, /) -> int:
        rest = memoryview(data)
        while rest:
            size = part_size(len(self._parts) + 1)
            room = size - len(self._buffer)
            self._buffer += rest[:room]
            rest = rest[room:]
            if len(self._buffer) == size:
                with self._telling():
                    self._send()
        return len(data)

    def flush(self) -> None:
        """Do nothing: a part can't be made smaller, and nobody sees one."""

    def finish(self) -> None:
        """Make the object appear."""
        with self._telling():
            if self._upload is None:
                self._unless_ours(self._put)
            else:
                if self._buffer:
                    self._send()
                self._wait(0)
                self._unless_ours(self._complete)
        self._pool.shutdown()

    def abort(self, reason: BaseException) -> None:
        """Remove what was sent; where that fails too, `reason` is told."""
        from botocore.exceptions import BotoCoreError, ClientError

        # A part that arrives after the abortion would stay.
        self._pool.shutdown(cancel_futures=True)
        if self._upload is None:
            return
        try:
            self._client.abort_multipart_upload(**self._where, UploadId=self._upload)
        except (BotoCoreError, ClientError) as error:
            if not isinstance(error, ClientError) or answer_code(error) != "NoSuchUpload":
                reason.add_note(
                    f"the store did not take back what was sent of {self._where['Key']};"
                    " `letta-ops backup prune` removes it"
                )

    def _send(self) -> None:
        """Hand the buffer over as a part, when there is room for one more."""
        number, size = len(self._parts) + 1, len(self._buffer)
        if self._upload is None:
            self._begin()
        self._wait(max(1, min(IN_FLIGHT, BYTES_IN_FLIGHT // size)) - 1)
        body, self._buffer = self._buffer, bytearray()
        part = self._pool.submit(self._send_part, number, body)
        self._parts.append(part)
        self._running.add(part)

    def _wait(self, most: int) -> None:
        """Wait until at most `most` parts are on their way; raises what one of them met."""
        while self._running:
            enough = len(self._running) <= most
            done, self._running = wait(
                self._running, timeout=0 if enough else None, return_when=FIRST_COMPLETED
            )
            for part in done:
                part.result()
            if enough:
                return

    def _begin(self) -> None:
        kind = {"ChecksumAlgorithm": "CRC32"} if self._abilities.checksums == "crc32" else {}
        self._upload = self._client.create_multipart_upload(
            **self._where, **kind, Metadata=self._metadata
        )["UploadId"]

    def _send_part(self, number: int, body: bytearray) -> dict[str, Any]:
        checksum = self._abilities.checksum(body)
        answer = self._client.upload_part(
            **self._where,
            UploadId=self._upload,
            PartNumber=number,
            Body=body,
            **checksum,
        )
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        # A server that doesn't know checksums may not take one at the end either.
        return part | (checksum if "ChecksumCRC32" in answer else {})

    def _complete(self) -> None:
        self._client.complete_multipart_upload(
            **self._where,
            **self._condition,
            UploadId=self._upload,
            MultipartUpload={"Parts": [part.result() for part in self._parts]},
        )

    def _put(self) -> None:
        self._client.put_object(
            **self._where,
            **self._condition,
            Body=self._buffer,
            Metadata=self._metadata,
            **self._abilities.checksum(self._buffer),
        )

    def _unless_ours(self, make: Callable[[], None]) -> None:
        """Make the object. When an attempt succeeded whose answer got lost, the next one is refused,
        because of what we have made ourselves: that is no failure."""
        from botocore.exceptions import ClientError

        alone = self._abilities.is_exclusive(parts=self._upload is not None)
        try:
            if self._exclusive and not alone:
                self._make_claimed(make)
            else:
                make()
        except ClientError as error:
            if not is_refusal(error) or self._writer() != self._token:
                raise

    def _make_claimed(self, make: Callable[[], None]) -> None:
        with claimed(self._client, self._where, self._token, self._abilities) as claim:
            if self._writer(must_look=True) is not None:
                raise already_there(self._where)
            claim.ensure_young()
            make()
        if self._writer() != self._token:
            raise already_there(self._where)

    def _writer(self, *, must_look: bool = False) -> str | None:
        """The token of who wrote the object; None: there is no object, or, unless we `must_look`, we
        may not."""
        from botocore.exceptions import ClientError

        try:
            found = self._client.head_object(**self._where)
        except ClientError as error:
            if answer_status(error) != 404 and (must_look or not is_refusal(error)):
                raise
            return None
        return str(found.get("Metadata", {}).get(WRITER, ""))
