"""The last expected failure of a run, handed from our program and providers to `letta-ops`.

Pulumi passes on an error's text only; code and next step come this way.
"""

from __future__ import annotations

import json

from infra.errors import LettaOpsError
from infra.files import write_private
from infra.stack.locations import StackFolder


def keep(folder: StackFolder, error: LettaOpsError) -> None:
    """Keep `error` for whoever started the run. A folder that can't be written is no second error."""
    try:
        write_private(folder.last_error, json.dumps(error.as_json()))
    except OSError:
        return  # it may be the very problem; Pulumi still shows the text


def take(folder: StackFolder) -> LettaOpsError | None:
    """Return the kept error and forget it."""
    try:
        kept = json.loads(folder.last_error.read_text())
        folder.last_error.unlink()
        return LettaOpsError(kept["code"], kept["message"], kept["hint"])
    except (OSError, ValueError, KeyError):
        return None
