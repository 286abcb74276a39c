"""A socket of our own that libpq takes for Postgres': the folder it is in, and how it refuses."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.stack.deployment import POSTGRES_PORT

SOCKET_NAME = f".s.PGSQL.{POSTGRES_PORT}"  # the name that libpq looks for in a folder
LONGEST_PATH = 100  # bytes; sun_path holds 104 on macOS, 108 on Linux


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of mode 0700 with room for a socket's name."""
    made = Path(tempfile.mkdtemp(prefix="letta-ops-"))
    if len(bytes(made / SOCKET_NAME)) > LONGEST_PATH:
        made.rmdir()
        made = Path(tempfile.mkdtemp(prefix="letta-ops-", dir="/tmp"))  # short
    try:
        yield made
    finally:
        shutil.rmtree(made)


def error_response(message: str) -> bytes:
    """Postgres' ErrorResponse (protocol 3.0, "Message Formats"); 08001: can't connect."""
    fields = b"".join(
        code + text.replace("\0", "").encode() + b"\0"
        for code, text in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", "08001"), (b"M", message))
    )
    return b"E" + struct.pack(">I", len(fields) + 5) + fields + b"\0"
