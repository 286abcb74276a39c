"""Values kept elsewhere: `env:NAME`, `file:PATH` and `cmd:COMMAND` instead of the value itself."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from infra.errors import LettaOpsError
from infra.process import command, run

KINDS = ("env:", "file:", "cmd:")


def is_reference(text: str) -> bool:
    return text.startswith(KINDS)


def resolve(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the value that `text` stands for; text that is no reference stands for itself.

    A trailing newline of a file or of a command's output is not part of the value. Raises
    ValueError with a reason that never contains the value.
    """
    kind, _, rest = text.partition(":")
    if not is_reference(text):
        return text
    if kind == "env":
        if not environment.get(rest):
            raise ValueError(f"the environment variable {rest} is not set")
        return environment[rest]
    return _file(rest) if kind == "file" else _output(rest)


def _file(path: str) -> str:
    try:
        value = Path(path).expanduser().read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ValueError(f"the file {path} cannot be read: {reason}") from None
    if not value:
        raise ValueError(f"the file {path} is empty")
    return value


def _output(line: str) -> str:
    try:
        job = command(*shlex.split(line), timeout=60)
        value = run(job, code="reference", hint="run it by hand", what="the command").stdout
    except LettaOpsError as error:
        raise ValueError(f"{error.message} (cmd:{line})") from None
    if not value.strip():
        raise ValueError(f"the command printed nothing (cmd:{line})")
    return value.rstrip("\r\n")
